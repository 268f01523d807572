"""Races of a run's owner with the world: what comes at the worst moment is seen all the same."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiki import TIMEOUT, Run, RunCancelled, Status, TaskFailed, event, task, workflow
from aiki.execution import PARK_AFTER, Execution
from aiki.handle import Handle
from aiki.newsdesk import NewsDesk
from aiki.store.runs import Runs
from tests.support.app import App, becomes
from tests.support.waiting import eventually

TRIES = 25
DAY = 86400.0

number = event("number", int)


@task
async def work(label: str) -> str:
    return label


wf = workflow("waits")


@wf.v("1.0.0")
async def waits(run: Run) -> list[str]:
    """Wait for both at once, and say what came of it."""

    async def sleeps() -> str:
        return f"woken {await run.sleep('night', DAY)}"

    async def takes() -> str:
        return f"got {await number.wait(run)}"

    return list(await asyncio.gather(sleeps(), takes()))


async def both(app: App, handle: Handle[Any]) -> None:
    del app
    await handle.wake_up()
    await number.send(handle, 5)


async def cancel(app: App, handle: Handle[Any]) -> None:
    del app
    await handle.cancel("enough")


Happens = Callable[[App, Handle[Any]], Awaitable[None]]


def parking(
    monkeypatch: pytest.MonkeyPatch, app: App, happens: Happens, *, before: bool
) -> list[bytes]:
    """Let something happen around the first park of each run; give what the parks came to."""
    park, done, words = Runs.park, set[str](), list[bytes]()

    async def raced(self: Runs, owner: Any, *args: Any) -> bytes:
        is_first = owner.run_id not in done
        done.add(owner.run_id)
        handle = app.client.handle(owner.run_id)
        if is_first and before:
            await happens(app, handle)
        word = await park(self, owner, *args)
        if is_first and not before:
            await happens(app, handle)
        words.append(word)
        return word

    monkeypatch.setattr(Runs, "park", raced)
    return words


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "before its reply"])
async def test_what_happens_while_a_run_parks_is_seen(
    app: App, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    words = parking(monkeypatch, app, both, before=before)
    await app.serve(wf, inline_wait=0.05)
    handles = [await waits.start(app.client) for _ in range(TRIES)]
    for handle in handles:
        assert await handle.wait_for_completion(60) == ["woken True", "got 5"]
    assert b"STAY" in words or not before


@pytest.mark.parametrize("before", [True, False], ids=["before it is sent", "before its reply"])
async def test_a_cancel_while_a_run_parks_is_met(
    app: App, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    parking(monkeypatch, app, cancel, before=before)
    await app.serve(wf, inline_wait=0.05)
    for handle in [await waits.start(app.client) for _ in range(TRIES)]:
        with pytest.raises(RunCancelled, match="enough"):
            await handle.wait_for_completion(60)


def never_look(_: Execution, *, after: float = 0) -> None:
    del after


async def test_what_is_in_hand_keeps_a_run_from_parking(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look whether to park comes when the news is known and the handler had no turn yet."""
    take = NewsDesk._take

    def take_and_look(self: NewsDesk, *args: Any) -> None:
        take(self, *args)
        execution = self._on_cancel.__self__  # type: ignore[attr-defined]
        execution._quiet = 1000
        execution._check_park()

    monkeypatch.setattr(NewsDesk, "_take", take_and_look)
    monkeypatch.setattr(Execution, "check_park_later", never_look)  # nor at any other time
    await app.serve(wf, inline_wait=0.05)
    handles = [await waits.start(app.client) for _ in range(TRIES)]
    for handle in handles:
        await eventually(handle.journal, what="the sleep")
    await asyncio.gather(*(both(app, handle) for handle in handles))
    for handle in handles:
        assert await handle.wait_for_completion(60) == ["woken True", "got 5"]


@pytest.mark.plain_only("the loop is held up while the run has its slot")
async def test_a_busy_loop_does_not_park_a_run_whose_handler_is_about_to_go_on(app: App) -> None:
    """Its look whether to park is late, and comes before a group has told its members."""
    busy = workflow("busy")

    @task
    async def breaks() -> None:
        raise ValueError

    @busy.v("1.0.0")
    async def version(run: Run) -> str:
        async def holds_up() -> None:
            try:
                await breaks.start(run)
            finally:
                time.sleep(2 * PARK_AFTER)  # noqa: ASYNC251 - that is what is tried

        async def inner() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(holds_up())

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(number.wait(run))
                group.create_task(inner())
        except* TaskFailed:
            app.ledger.note("failed")
        return await work.start(run, "went on")

    await app.serve(busy)
    for _ in range(TRIES):
        assert await app.result(version.bind()) == "went on"


async def test_a_message_and_its_own_time_out_cross(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted while the time-out is on its way: before the store does it, or after."""
    timed = workflow("timed")
    end_wait, sent = Runs.end_wait, set[str]()

    @timed.v("1.0.0")
    async def version(run: Run) -> str:
        first = await number.wait(run, timeout=0.02)
        return f"late {await number.wait(run)}" if first is TIMEOUT else f"{first}"

    async def raced(self: Runs, owner: Any, *args: Any, **kwargs: Any) -> Any:
        handle = app.client.handle(owner.run_id)
        is_first, is_before = owner.run_id not in sent, ord(owner.run_id[-1]) % 2
        sent.add(owner.run_id)
        if is_first and is_before:
            await number.send(handle, 5)
        reply = await end_wait(self, owner, *args, **kwargs)
        if is_first and not is_before:
            await number.send(handle, 5)
        return reply

    monkeypatch.setattr(Runs, "end_wait", raced)
    await app.serve(timed, inline_wait=0.01)
    for handle in [await version.start(app.client) for _ in range(TRIES)]:
        is_before = ord(handle.id[-1]) % 2
        assert await handle.wait_for_completion(60) == ("5" if is_before else "late 5")


async def test_a_sleep_that_ends_while_nobody_is_there_ends_once_and_not_early(app: App) -> None:
    """F56: everything is down at its time."""
    nap = workflow("nap")

    @nap.v("1.0.0")
    async def version(run: Run) -> float:
        begun = run.now()
        await work.start(run, "a")
        await run.sleep("nap", 2)
        app.ledger.note("over")
        ended = run.now()
        await work.start(run, "b")
        return (ended - begun).total_seconds()

    worker = await app.serve(nap, inline_wait=0.05)
    handle = await version.start(app.client)
    await becomes(handle, Status.SLEEPING)
    await app.end(worker)
    await eventually(lambda: is_past(handle), what="its time")
    assert (await handle.status()).status is Status.SLEEPING
    await app.serve(nap, inline_wait=0.05)
    assert 2 <= await handle.wait_for_completion(60) < 90


async def is_past(handle: Handle[Any]) -> bool:
    (due,) = [step.due for step in await handle.journal() if step.due is not None]
    return due.timestamp() < time.time()
