"""Encryption of payloads: of whatever takes one, nothing can be read in the store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial

import pytest

import aiki
from aiki import Client, Encrypted, Handle, Run, current_step, fixed, task, workflow
from aiki.codec import address
from aiki.errors import RunFailed, TaskFailed
from aiki.states import Status
from tests.support.app import TIMEOUT, App, becomes
from tests.support.marked import MARK, NEW, lasting, lasting_v1, paid, say, stored, words
from tests.support.waiting import eventually

handed_over: list[str] = []  # tokens of awakeables


@dataclass
class Notes:
    texts: list[str] = field(default_factory=list[str])


@task(retry=fixed(max_attempts=2, delay=0.05))
async def stumble(text: str) -> str:
    step = current_step()
    step.heartbeat(f"{MARK} beat")
    if step.attempt == 1:
        raise ValueError(f"{MARK} failure of an attempt")
    assert step.heartbeat_details == f"{MARK} beat"
    return text


@task
async def fall(text: str) -> str:
    raise ValueError(f"{MARK} failure of {text}")


@task
async def hand_over(token: str) -> None:
    if token not in handed_over:
        handed_over.append(token)


child = workflow("child")


@child.v("1.0.0")
async def child_v1(run: Run, text: str) -> str:
    run.logger.debug("a child")
    if "fail" in text:
        raise RuntimeError(f"{MARK} failure of a child")
    return f"{text}, the child"


everything = workflow("everything")


@everything.v("1.0.0")
async def everything_v1(run: Run, text: str) -> list[str]:
    notes = run.state(Notes)
    run.publish(words, f"{MARK} word of the handler")
    found = [await say.start(run, text), await stumble.start(run, text)]
    with pytest.raises(TaskFailed, match=f"{MARK} failure of {MARK}"):
        await fall.start(run, text)
    assert not await run.sleep("nap", 0.02)
    one = await child_v1.start_as_child(run, text)
    other = await child_v1.start_as_child(run, f"{text} fails")
    found.append(await one.wait_for_completion())
    with pytest.raises(RunFailed, match=f"{MARK} failure of a child"):
        await other.wait_for_completion()
    found += await run.map(child_v1, [f"{text} 1", f"{text} 2"])
    promise = aiki.awakeable(run, "decision", str)
    await hand_over.start(run, promise.token)
    found += [await promise.wait(), await paid.wait(run)]
    if run.generation == 0:
        await run.continue_as_new(f"{text} again")
    return found + notes.texts


@everything_v1.query
def last(state: Notes, text: str) -> str:
    return f"{text}: {(state.texts or ['nothing'])[-1]}"


@everything_v1.update
async def note(run: Run, state: Notes, text: str) -> str:
    state.texts.append(await say.start(run, text))
    return f"{text} is noted"


failing = workflow("failing")


@failing.v("1.0.0", retry=fixed(max_attempts=2, delay=3600))
async def failing_v1(run: Run, text: str) -> None:
    await say.start(run, text)
    raise RuntimeError(f"{MARK} failure of a run")


async def readable(client: Client, *texts: str) -> set[str]:
    """Name the kinds of keys in which the mark, or one of these, can be read."""
    wanted = [MARK.encode(), *(text.encode() for text in texts)]
    return {
        key.split("}:", 1)[1].replace(":", " ").split()[-1].partition("#")[0]
        for key, values in (await stored(client)).items()
        if any(want in value for want in wanted for value in values)
    }


def is_handed_over(generation: int) -> bool:
    return len(handed_over) > generation


async def live_through_everything(client: Client, handle: Handle[list[str]]) -> None:
    """Answer what the run of `everything` waits for, and ask it something, in both generations."""
    for generation in (0, 1):
        await eventually(partial(is_handed_over, generation), TIMEOUT, "a token")
        assert MARK in await last.ask(handle, f"{MARK} asks")
        changing = note.with_options(id=f"first-{generation}")
        assert await changing.ask(handle, f"{MARK} text") == f"{MARK} text is noted"
        assert await changing.ask(handle, f"{MARK} text") == f"{MARK} text is noted"  # recorded
        recorded = note.with_options(id="first-0")  # by the generation before, or this one
        assert await recorded.ask(handle, f"{MARK} text") == f"{MARK} text is noted"
        await aiki.resolve(client, handed_over[-1], f"{MARK} decision")
        await paid.send(handle, f"{MARK} payment {generation}")


async def through_all(app: App, client: Client) -> None:
    """Put a marked payload into whatever takes one."""
    handed_over.clear()
    # In a mailbox that nobody reads, and an input that nobody takes
    waiting = await lasting_v1.start(client, f"{MARK} input")
    await paid.send(waiting, f"{MARK} early payment")
    daily = aiki.schedule("daily", lasting_v1.bind(f"{MARK} of the schedule"), cron="0 0 1 1 *")
    planned = await daily.activate(client)
    yearly = await planned.trigger()
    await app.serve(everything, child, failing, client=client)
    handle = await everything_v1.start(client, f"{MARK} input")
    failed = await failing_v1.start(client, f"{MARK} input")
    await live_through_everything(client, handle)
    result = await handle.wait_for_completion(TIMEOUT)
    assert result[0] == f"{MARK} input again!"
    assert result[-2:] == [f"{MARK} payment 1", f"{MARK} text!"]
    chunks = [chunk.data async for chunk in handle.stream(words)]
    assert {f"{MARK} word of the handler", f"{MARK} word of a task"} <= {*chunks}
    await becomes(failed, Status.AWAITING_RETRY)
    assert f"{MARK} failure of a run" in (await failed.status()).reason
    await app.serve(lasting, client=client)
    assert await waiting.wait_for_completion(TIMEOUT) == f"{MARK} input! {MARK} early payment"
    forked = await waiting.fork()
    await paid.send(forked, f"{MARK} second payment")
    await forked.wait_for_completion(TIMEOUT)
    again = await forked.fork((await forked.journal())[-1].key)
    await paid.send(again, f"{MARK} third payment")
    assert await again.wait_for_completion(TIMEOUT) == f"{MARK} input! {MARK} third payment"
    scheduled = lasting_v1.handle(client, yearly.run_id)
    await paid.send(scheduled, f"{MARK} payment")
    assert MARK in await scheduled.wait_for_completion(TIMEOUT)
    assert (await planned.describe()).input == {"text": f"{MARK} of the schedule"}


async def test_nothing_of_any_payload_can_be_read_in_the_store(app: App) -> None:
    client = await app.connect(Encrypted({"k1": NEW}))
    await through_all(app, client)
    # Nor found out from a hash of it
    payload = b'{"text":"%b input"}' % MARK.encode()
    plain = [
        address("say", payload),
        hashlib.blake2b(b"1.0.0\n" + payload, digest_size=16).hexdigest(),
    ]
    assert await readable(client, *(text.partition(":")[2] or text for text in plain)) == set()


@pytest.mark.plain_only("it tries the test above, which would find nothing if it looked nowhere")
async def test_where_nothing_is_encrypted_the_same_look_finds_it(app: App) -> None:
    await through_all(app, app.client)
    found = await readable(app.client)
    assert {"daily", "journal", "words"} <= found
