"""What a program that uses a client may send, written so that it can be run again when it died.

Each part has runs of its own, found again by their idempotency keys.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

import aiki
from aiki import Client, InvalidTransition, Run, RunCancelled, RunFailed, Status, workflow
from aiki.handle import Handle
from tests.faults.ledger import place
from tests.faults.voyage import sights
from tests.faults.workload import letter, notify, ship
from tests.support.waiting import eventually

SCHEDULE = "now and then"
REPAIRED = "repaired"

plain = workflow("plain")
listeners = workflow("listeners")
sleepers = workflow("sleepers")
fragile = workflow("fragile")
asked = workflow("asked")
tellers = workflow("tellers")


class Name:
    """What is asked for and changed."""

    text = ""


@plain.v("1.0.0")
async def plain_v1(run: Run, name: str) -> str:
    """Do one step."""
    return await ship.start(run, name, "")


@listeners.v("1.0.0")
async def listener_v1(run: Run) -> list[str]:
    """Take a letter, and no second one."""
    return [await letter.wait(run), repr(await letter.wait(run, timeout=0.05))]


@sleepers.v("1.0.0")
async def sleeper_v1(run: Run, name: str) -> bool:
    """Sleep until somebody comes."""
    del name
    return await run.sleep("long", 3600)


@fragile.v("1.0.0")
async def fragile_v1(run: Run) -> str:
    """Fail until it is repaired."""
    first = await ship.start(run, "fragile", "")
    await notify.start(run, "fragile", f"fail:{REPAIRED}")
    return first


@asked.v("1.0.0")
async def asked_v1(run: Run) -> str:
    """Wait for a name."""
    state = run.state(Name)
    await run.until("named", lambda: state.text)
    return state.text


@asked_v1.query
def named(state: Name) -> str:
    """Tell the name."""
    return state.text


@asked_v1.update
async def give_name(run: Run, state: Name, text: str) -> str:
    """Take a name, by a step."""
    done = await ship.start(run, text, "")
    state.text = text
    return done


@tellers.v("1.0.0")
async def teller_v1(run: Run) -> None:
    """Publish three chunks."""
    for number in range(3):
        run.publish(sights, f"sight {number}")


SHORE = (plain, listeners, sleepers, fragile, asked, tellers)


async def call(client: Client) -> None:
    """Send everything that a client can send, and see that it comes to what it comes to."""
    async with asyncio.TaskGroup() as group:
        for part in (
            start, post, wake, pause, terminate, retry, fork, delete, ask, read, occasion, audit,
        ):  # fmt: skip
            group.create_task(part(client), name=part.__name__)


async def start(client: Client) -> None:
    """Start a run and wait for its end."""
    keyed = plain_v1.with_options(idempotency_key="start")
    assert await (await keyed.start(client, "start")).wait_for_completion()


async def post(client: Client) -> None:
    """Write one letter."""
    handle = await listener_v1.with_options(idempotency_key="post").start(client)
    await letter.send(handle, "hello", idempotency_key="the letter")
    assert await handle.wait_for_completion() == ["hello", "aiki.TIMEOUT"]


async def wake(client: Client) -> None:
    """End a sleep."""
    handle = await sleeper_v1.with_options(idempotency_key="wake").start(client, "wake")
    if await _rests(handle):
        with suppress(InvalidTransition):
            await handle.wake_up()
    assert await handle.wait_for_completion() is True


async def pause(client: Client) -> None:
    """Let a run rest, go on, and end."""
    handle = await sleeper_v1.with_options(idempotency_key="pause").start(client, "pause")
    if await _rests(handle):
        with suppress(InvalidTransition):  # when it is asked to end already
            assert await handle.pause() is Status.PAUSED
        await handle.resume()
    await handle.cancel("enough")  # where that was done already, it changes nothing
    await _is_cancelled(handle, "enough")


async def terminate(client: Client) -> None:
    """End a run without asking it."""
    handle = await sleeper_v1.with_options(idempotency_key="end").start(client, "end")
    assert await handle.terminate("for good") is Status.CANCELLED
    await _is_cancelled(handle, "for good")


async def retry(client: Client) -> None:
    """Let a run that has failed go on, once it is repaired."""
    handle = await fragile_v1.with_options(idempotency_key="retry").start(client)
    with suppress(RunFailed, InvalidTransition):
        await handle.wait_for_completion()
    (place() / f"gate-{REPAIRED}").touch()
    with suppress(InvalidTransition):
        await handle.retry()
    assert await handle.wait_for_completion()


async def fork(client: Client) -> None:
    """Start a run like another."""
    origin = await plain_v1.with_options(idempotency_key="fork").start(client, "fork")
    result = await origin.wait_for_completion()
    assert await (await origin.fork()).wait_for_completion() == result


async def delete(client: Client) -> None:
    """Remove a run."""
    handle = await plain_v1.with_options(idempotency_key="delete").start(client, "delete")
    await handle.wait_for_completion()
    await handle.delete()
    with suppress(aiki.NotFound):
        raise AssertionError(await handle.status())


async def ask(client: Client) -> None:
    """Ask a run, and change it."""
    handle = await asked_v1.with_options(idempotency_key="ask").start(client)
    with suppress(InvalidTransition):  # when it has its name and is over
        assert await named.ask(handle) in ("", "Ada")
    told = [await give_name.with_options(id="name").ask(handle, "Ada") for _ in range(2)]
    assert told[0] == told[1]
    assert await handle.wait_for_completion() == "Ada"


async def read(client: Client) -> None:
    """Read what a run publishes."""
    handle = await teller_v1.with_options(idempotency_key="read").start(client)
    chunks = [chunk.data async for chunk in handle.stream(sights)]
    assert chunks == [f"sight {number}" for number in range(3)]


async def occasion(client: Client) -> None:
    """Make a schedule, have it start a run, and forget it."""
    defined = aiki.schedule(SCHEDULE, plain_v1.bind("occasion"), cron="0 0 1 1 *")
    handle = await defined.activate(client)
    started = await handle.trigger(overlap="allow_all")
    assert await client.handle(started.run_id).wait_for_completion()
    await handle.pause("over")
    assert (await handle.describe()).note == "over"
    await handle.resume()
    await handle.delete()
    assert await client.schedules() == []


async def _rests(handle: Handle[bool]) -> bool:
    """Wait until a run sleeps or is paused; False where it is over, or goes to its end."""

    async def is_there() -> Status | None:
        status = (await handle.status()).status
        settled = status in (Status.SLEEPING, Status.PAUSED) or status.is_final
        return status if settled else None

    status = await eventually(is_there, what="its rest")
    return status is not None and not status.is_final


async def _is_cancelled(handle: Handle[bool], reason: str) -> None:
    with pytest.raises(RunCancelled) as cancelled:
        await handle.wait_for_completion()
    assert cancelled.value.reason == reason


async def audit(client: Client) -> None:
    """Look whether all is well while the others are at it."""
    assert (await client.store.audit.audit(mend=True)).left == []
