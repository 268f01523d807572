"""Streams: published once, read from anywhere, ended by the run."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import aiki
from aiki import Run, publisher, task, workflow
from aiki.errors import DataError, InvalidTransition, LimitExceeded, NotFound, TaskFailed
from aiki.handle import Handle
from aiki.states import Status
from aiki.topic import Chunk, Topic
from tests.support.app import TIMEOUT, App, becomes
from tests.support.lives import one_life
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Token:
    text: str


words = aiki.topic("words", str)
tokens = aiki.topic("tokens", Token)


async def read(handle: Handle[Any], topic: Topic[Any], from_offset: int = 0) -> list[Any]:
    """Read a stream to its end, and check that the offsets have no gap."""
    async with asyncio.timeout(TIMEOUT):
        found = [chunk async for chunk in handle.stream(topic, from_offset=from_offset)]
    assert [chunk.offset for chunk in found] == list(range(from_offset, from_offset + len(found)))
    return [chunk.data for chunk in found]


@task
async def nothing(number: int) -> int:
    return number


async def test_a_handler_publishes_each_chunk_once_however_often_it_is_repeated(app: App) -> None:
    wf = workflow("publishing")

    @wf.v("1.0.0")
    async def publishing(run: Run) -> None:
        for number in range(3):
            run.publish(words, f"before {number}")
            await nothing.start(run, number)
            run.publish(words, f"after {number}")
        run.publish(tokens, Token("the last"))

    await app.serve(wf)
    handle = await publishing.start(app.client)
    await handle.wait_for_completion(TIMEOUT)
    expected = [f"{when} {number}" for number in range(3) for when in ("before", "after")]
    assert await read(handle, words) == expected
    assert await read(handle, words, from_offset=4) == expected[4:]
    assert await read(handle, words, from_offset=99) == []
    assert await read(handle, tokens) == [Token("the last")]
    assert await read(handle, aiki.topic("silent", int)) == []


async def test_what_is_published_is_pushed_to_who_reads(app: App) -> None:
    gates = [threading.Event() for _ in range(3)]

    @task
    def slow() -> None:
        step = aiki.current_step()
        for number, gate in enumerate(gates):
            assert gate.wait(30)
            step.publish(words, str(number))

    wf = workflow("pushing")

    @wf.v("1.0.0")
    async def pushing(run: Run) -> None:
        await slow.start(run)

    await app.serve(wf)
    handle = await pushing.start(app.client)
    async with asyncio.timeout(TIMEOUT):
        stream = aiter(handle.stream(words))
        for number, gate in enumerate(gates):
            coming = asyncio.ensure_future(anext(stream))
            gate.set()
            chunk = await coming
            assert (chunk.offset, chunk.data, chunk.number) == (number, str(number), number)
            assert chunk.attempt == 1
            assert chunk.step.startswith("slow:")
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_tasks_of_both_kinds_publish_and_all_of_it_is_there_before_their_result(
    app: App,
) -> None:
    @task
    async def on_the_loop() -> None:
        for number in range(250):
            aiki.current_step().publish(words, f"a{number}")

    @task
    def in_a_thread() -> None:
        publish = aiki.current_step().publish
        with ThreadPoolExecutor(2) as pool:
            for name in "bc":
                for number in range(50):
                    pool.submit(publish, words, f"{name}{number}")

    @task
    async def so_far(run_id: str) -> int:
        key = f"{app.base_of(run_id)}run:{run_id}:stream:words"
        return int(await app.link_of(run_id).send(("XLEN", key)))

    wf = workflow("both-kinds")

    @wf.v("1.0.0")
    async def both_kinds(run: Run) -> list[int]:
        await on_the_loop.start(run)
        before = await so_far.start(run, run.id)
        await in_a_thread.start(run)
        return [before, await so_far.start(run, run.id)]

    await app.serve(wf)
    handle = await both_kinds.start(app.client)
    assert await handle.wait_for_completion(TIMEOUT) == [250, 350]
    found = await read(handle, words)
    assert found[:250] == [f"a{number}" for number in range(250)]
    assert sorted(found[250:]) == sorted(f"{name}{n}" for name in "bc" for n in range(50))


async def test_a_task_that_is_tried_again_begins_anew_and_says_so(app: App) -> None:
    @task(retry=aiki.fixed(max_attempts=2, delay=0))
    async def generate() -> str:
        step = aiki.current_step()
        for word in ("one", "two"):
            step.publish(words, word)
            if step.attempt == 1 and word == "two":
                raise ValueError("the model went away")
        return "one two"

    wf = workflow("tried-again")

    @wf.v("1.0.0")
    async def tried_again(run: Run) -> str:
        return await generate.start(run)

    await app.serve(wf)
    handle = await tried_again.start(app.client)
    await handle.wait_for_completion(TIMEOUT)
    found = [chunk async for chunk in handle.stream(words)]
    assert [(chunk.attempt, chunk.number) for chunk in found] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert len({chunk.step for chunk in found}) == 1


async def test_a_reader_of_a_run_that_waits_hears_its_end(app: App) -> None:
    asked = aiki.event("asked")
    wf = workflow("waiting")

    @wf.v("1.0.0")
    async def waiting(run: Run) -> None:
        run.publish(words, "before")
        await asked.wait(run)
        run.publish(words, "after")

    await app.serve(wf, inline_wait=0)
    handle = await waiting.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    other = waiting.handle(await app.connect(), handle.id)
    reading = asyncio.create_task(read(other, words))
    again = asyncio.create_task(read(other, words))
    await asked.send(handle, None)
    assert await reading == await again == ["before", "after"]


async def test_a_reader_of_a_run_that_is_cancelled_before_it_was_claimed_hears_that(
    app: App,
) -> None:
    wf = workflow("never-begun")

    @wf.v("1.0.0")
    async def never_begun(run: Run) -> None:
        await nothing.start(run, 1)

    handle = await never_begun.start(app.client)
    reading = asyncio.create_task(read(handle, words))
    channel = f"{app.base_of(handle.id)}look:{handle.id}"
    link = app.link_of(handle.id)

    async def is_read() -> bool:
        return bool((await link.send(("PUBSUB", "NUMSUB", channel)))[1])

    await eventually(is_read, TIMEOUT, "the reader")
    await handle.cancel("enough")
    assert await reading == []
    await eventually(lambda: not is_listening(handle), TIMEOUT, "the end of listening")


def is_listening(handle: Handle[Any]) -> bool:
    return bool(handle._hints._listeners)


async def test_a_closed_topic_ends_its_readers_before_the_run_is_over(app: App) -> None:
    asked = aiki.event("asked")
    wf = workflow("closing")

    @task
    async def late() -> None:
        aiki.current_step().publish(words, "too late")

    @wf.v("1.0.0")
    async def closing(run: Run) -> str:
        run.publish(words, "the only one")
        run.close_topic(words)
        run.close_topic(words)
        run.close_topic(tokens)
        await asked.wait(run)
        with pytest.raises(InvalidTransition, match="words> is closed"):
            run.publish(words, "too late")
        with pytest.raises(TaskFailed, match="words> is closed"):
            await late.start(run)
        return "done"

    await app.serve(wf)
    handle = await closing.start(app.client)
    assert await read(handle, words) == ["the only one"]
    assert await read(handle, tokens) == []
    assert not (await handle.status()).status.is_final
    await asked.send(handle, None)
    assert await handle.wait_for_completion(TIMEOUT) == "done"


async def test_a_run_that_publishes_too_much_is_refused_and_sees_that_again(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_CHUNKS", 3)
    monkeypatch.setattr(publisher, "MAX_STREAMS", 2)
    wf = workflow("too-much")

    @task
    async def one_more() -> str:
        try:
            aiki.current_step().publish(words, "from a task")
        except LimitExceeded:
            return "full"
        return "stored"

    @wf.v("1.0.0")
    async def too_much(run: Run) -> list[str]:
        run.publish(tokens, Token("x" * 50))
        outcomes = [await one_more.start(run)]
        with pytest.raises(LimitExceeded, match="2 topics"):
            run.publish(aiki.topic("third", int), 1)
        for number in range(4):
            try:
                run.publish(words, str(number))
                outcomes.append("stored")
            except LimitExceeded:
                outcomes.append("full")
            await nothing.start(run, number)
        with pytest.raises(LimitExceeded, match="65,536"):
            run.publish(words, "x" * 65536)
        return [*outcomes, await one_more.start(run)]

    await app.serve(wf)
    handle = await too_much.start(app.client)
    expected = ["stored", "stored", "full", "full", "full", "full"]
    assert await handle.wait_for_completion(TIMEOUT) == expected
    assert await read(handle, words) == ["from a task", "0"]


async def test_what_does_not_fit_is_refused_where_it_is_said(app: App) -> None:
    wf = workflow("unfit")

    @wf.v("1.0.0")
    async def unfit(run: Run) -> str:
        bad: Any = 7
        with pytest.raises(DataError, match="chunk of topic words"):
            run.publish(words, bad)
        with pytest.raises(DataError, match="a chunk is published under"):
            run.publish(bad, "word")
        return "done"

    await app.serve(wf)
    handle = await unfit.start(app.client)
    assert await handle.wait_for_completion(TIMEOUT) == "done"
    assert await read(handle, words) == []
    with pytest.raises(DataError, match="whole number from 0"):
        handle.stream(words, from_offset=-1)
    with pytest.raises(NotFound):
        await read(app.client.handle("0-nobody"), words)


async def test_a_task_publishes_no_more_once_it_is_over(app: App) -> None:
    wf = workflow("left-behind")
    kept: list[aiki.CurrentStep] = []

    @task
    async def keep() -> None:
        kept.append(aiki.current_step())

    @wf.v("1.0.0")
    async def left_behind(run: Run) -> None:
        await keep.start(run)

    await app.serve(wf)
    handle = await left_behind.start(app.client)
    await handle.wait_for_completion(TIMEOUT)
    with pytest.raises(InvalidTransition, match="is over"):
        kept[0].publish(words, "late")


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
async def test_whatever_dies_when_a_handlers_chunks_come_once_and_in_order(
    app: App, *, unheard: bool
) -> None:
    wf = workflow("dying")

    @task
    async def generate(number: int) -> int:
        for part in range(2):
            aiki.current_step().publish(tokens, Token(f"{number}.{part}"))
        return number

    @wf.v("1.0.0")
    async def dying(run: Run) -> int:
        for number in range(2):
            run.publish(words, f"before {number}")
            await generate.start(run, number)
            run.publish(words, f"after {number}")
        run.close_topic(words)
        return await generate.start(run, 2)

    for writes in range(1, 12):
        handle = await dying.start(app.client)
        runs = await one_life(app, [wf], [handle], {handle.id: writes}, unheard=unheard)
        if handle.id not in runs.dead:
            break
        for left in ({handle.id: 1}, {}):
            if not (await handle.status()).status.is_final:
                await one_life(app, [wf], [handle], left, unheard=unheard)
        assert await handle.wait_for_completion(TIMEOUT) == 2
        expected = ["before 0", "after 0", "before 1", "after 1"]
        assert await read(handle, words) == expected, writes
        found: list[Chunk[Token]] = [chunk async for chunk in handle.stream(tokens)]
        last = {chunk.step: index for index, chunk in enumerate(found) if chunk.number == 0}
        whole = [found[index + part].data.text for index in last.values() for part in range(2)]
        assert whole == [f"{number}.{part}" for number in range(3) for part in range(2)]
    else:
        pytest.fail("no life was long enough to see the end")
