"""What a task sees while it is a step of a run, and what its workflow sees of it."""

import asyncio
import contextvars
import logging
import threading
from dataclasses import dataclass

import pytest

from aiki import Run, current_step, fixed, task, workflow
from tests.support.app import App, outcomes
from tests.support.deaths import let_die
from tests.support.waiting import eventually

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@task
def nothing() -> None:
    return None


async def test_tasks_of_both_kinds_run_where_they_may_block_or_not(app: App) -> None:
    threads: dict[str, str] = {}

    @task
    def blocking(number: int) -> int:
        threads["blocking"] = threading.current_thread().name
        return number + 1

    @task
    async def on_the_loop(number: int) -> int:
        threads["on_the_loop"] = threading.current_thread().name
        return number + 1

    wf = workflow("both")

    @wf.v("1.0.0")
    async def both(run: Run) -> int:
        return await on_the_loop.start(run, await blocking.start(run, 1))

    await app.serve(wf, id="w")
    assert await app.result(both.bind()) == 3
    assert threads["blocking"].startswith("aiki-task-w")
    assert threads["on_the_loop"] == threading.current_thread().name


async def test_both_kinds_see_the_context_variables_that_the_handler_has_set(app: App) -> None:
    @task
    def blocking() -> str:
        return request.get()

    @task
    async def on_the_loop() -> str:
        return request.get()

    wf = workflow("context")

    @wf.v("1.0.0")
    async def reading(run: Run) -> list[str]:
        request.set(run.id)
        return [await blocking.start(run), await on_the_loop.start(run), request.get()]

    await app.serve(wf)
    handle = await reading.start(app.client)
    assert await handle.wait_for_completion(60) == [handle.id] * 3
    assert request.get() == "none"


async def test_the_key_of_a_step_is_the_same_in_each_attempt_and_in_each_life(app: App) -> None:
    @task(retry=fixed(3, 0))
    def charge(amount: int) -> int:
        step = current_step()
        app.ledger.note(f"{step.attempt} {step.run_id} {step.key}")
        if step.attempt < 3:
            raise ConnectionError
        return amount

    wf = workflow("paying")

    @wf.v("1.0.0")
    async def paying(run: Run) -> int:
        return await charge.start(run, 5) + await charge.start(run, 5)

    mortal = await app.connect()
    runs = let_die(mortal)
    handle = await paying.start(app.client)
    runs.left[handle.id] = 1  # the first attempt is recorded, the second is not
    victim = await app.serve(wf, client=mortal)
    await eventually(lambda: handle.id in runs.dead, what="the death of the owner")
    await app.end(victim)
    await app.serve(wf)
    assert await handle.wait_for_completion(60) == 10
    attempts = [line.split() for line in app.ledger.lines()]
    assert [attempt for attempt, _, _ in attempts] == ["1", "2", "2", "3", "1", "2", "3"]
    assert {run_id for _, run_id, _ in attempts} == {handle.id}
    keys = [key for _, _, key in attempts]
    assert len(set(keys[:4])) == len(set(keys[4:])) == 1
    assert keys[0] != keys[4], "an equal step is another step"


async def test_results_come_back_as_their_annotation_says_the_first_time_already(app: App) -> None:
    @task
    async def corner(point: Point) -> Point:
        assert isinstance(point, Point)
        return Point(point.y, point.x)

    @task
    async def pairs() -> list[tuple[int, str]]:
        return [(1, "a")]

    wf = workflow("types")

    @wf.v("1.0.0")
    async def types(run: Run, point: Point) -> tuple[Point, list[tuple[int, str]]]:
        given = Point(1, 2)
        turned = await corner.start(run, given)
        assert isinstance(turned, Point)
        assert turned is not given
        return await corner.start(run, point), await pairs.start(run)

    await app.serve(wf)
    assert await app.result(types.bind(Point(3, 4))) == (Point(4, 3), [(1, "a")])


async def test_a_task_cannot_change_what_the_handler_holds(app: App) -> None:
    @task
    async def grow(items: list[int]) -> list[int]:
        items.append(1)
        return items

    wf = workflow("copies")

    @wf.v("1.0.0")
    async def copies(run: Run) -> list[list[int]]:
        mine: list[int] = []
        theirs = await grow.start(run, mine)
        theirs.append(2)
        return [mine, theirs]

    await app.serve(wf)
    assert await app.result(copies.bind()) == [[], [1, 2]]


async def test_nothing_is_stored_as_null_and_is_still_a_result(app: App) -> None:
    @task
    async def note(text: str) -> None:
        app.ledger.note(text)

    wf = workflow("nothing")

    @wf.v("1.0.0")
    async def silent(run: Run) -> None:
        assert await nothing.start(run) is None  # type: ignore[func-returns-value]
        assert await note.start(run, "once") is None  # type: ignore[func-returns-value]

    await app.serve(wf)
    handle = await silent.start(app.client)
    assert await handle.wait_for_completion(60) is None  # type: ignore[func-returns-value]
    assert [step.result for step in await handle.journal()] == [None, None]
    assert app.ledger.lines() == ["once"]


async def test_a_task_with_once_is_executed_once_for_each_input(app: App) -> None:
    @task(once=True)
    async def look_up(name: str) -> int:
        app.ledger.note(name)
        return len(app.ledger.lines())

    wf = workflow("once")

    @wf.v("1.0.0")
    async def looking(run: Run) -> list[int]:
        first = await look_up.start(run, "a")
        rest = await asyncio.gather(*(look_up.start(run, name) for name in "abba"))
        return [first, *rest, await look_up.start(run, "b")]

    await app.serve(wf)
    assert await app.result(looking.bind()) == [1, 1, 2, 2, 1, 2]
    assert app.ledger.lines() == ["a", "b"]


async def test_a_task_with_once_that_fails_fails_again_without_being_executed(app: App) -> None:
    @task(once=True)
    async def breaks(name: str) -> int:
        app.ledger.note(name)
        raise ValueError(name)

    wf = workflow("once-broken")

    @wf.v("1.0.0")
    async def looking(run: Run) -> list[str]:
        errors = await asyncio.gather(
            *(breaks.start(run, "a") for _ in range(3)), return_exceptions=True
        )
        return [str(error) for error in errors]

    await app.serve(wf)
    assert len(set(await app.result(looking.bind()))) == 1
    assert app.ledger.lines() == ["a"]


async def test_of_two_equal_calls_of_a_once_task_the_second_goes_on_where_the_first_is_cancelled(
    app: App,
) -> None:
    @task(once=True)
    async def slow_once(name: str) -> str:
        app.ledger.note(name)
        if len(app.ledger.lines()) == 1:
            await asyncio.Event().wait()
        return name

    wf = workflow("once-cancelled")

    @wf.v("1.0.0")
    async def looking(run: Run) -> str:
        first = asyncio.create_task(slow_once.start(run, "a"))
        second = asyncio.create_task(slow_once.start(run, "a"))
        done, _ = await asyncio.wait([first], timeout=0.05)
        assert not done
        first.cancel()
        return await second

    await app.serve(wf)
    handle = await looking.start(app.client)
    assert await handle.wait_for_completion(60) == "a"
    assert await outcomes(handle) == [("slow-once", "abandoned"), ("slow-once", "completed")]
    assert app.ledger.lines() == ["a", "a"]


# Logging


async def test_the_loggers_say_whose_they_are_and_a_replay_does_not_repeat_them(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @task(retry=fixed(2, 0))
    async def speak() -> None:
        current_step().logger.info("in the task")
        if current_step().attempt == 1:
            raise ValueError

    wf = workflow("logging")

    @wf.v("1.0.0")
    async def speaking(run: Run) -> None:
        run.logger.info("at the start")
        await speak.start(run)
        run.logger.info("in the middle")
        await asyncio.gather(speak.start(run), nothing.start(run))
        run.logger.info("at the end")

    await app.serve(wf)
    handle = await speaking.start(app.client)
    with caplog.at_level(logging.INFO):
        await handle.wait_for_completion(60)
    said = [record for record in caplog.records if record.name in ("aiki.run", "aiki.task")]
    spoken = [record.getMessage().removeprefix(f"[{handle.id}] ") for record in said]
    assert spoken == [
        "at the start",
        "in the task",
        "in the task",
        "in the middle",
        "in the task",
        "in the task",
        "at the end",
    ]
    assert {vars(record)["run_id"] for record in said} == {handle.id}
