"""What a run has done is undone, the last first, when it fails or is cancelled."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiki import (
    DataError,
    InvalidTransition,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    TaskFailed,
    current_step,
    fixed,
    task,
    workflow,
)
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.waiting import eventually


class Trip:
    """What is booked, and how each booking is undone."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.refusing: set[str] = set()

        @task
        async def book(what: str) -> str:
            app.ledger.note(f"book {what}")
            if what in self.refusing:
                raise ValueError(f"no {what}")
            return what

        @task
        async def undo(what: str) -> None:
            app.ledger.note(f"undo {what}")
            if what in self.refusing:
                raise ValueError(f"{what} cannot be undone")

        @task(retry=fixed(3, 0.05))
        async def undo_stubbornly(what: str) -> None:
            app.ledger.note(f"undo {what} {current_step().attempt}")
            if current_step().attempt < 3:
                raise ConnectionError

        @task
        async def hangs(what: str) -> None:
            app.ledger.note(f"hang {what}")
            await asyncio.Event().wait()

        self.book = book
        self.undo = undo
        self.undo_stubbornly = undo_stubbornly
        self.hangs = hangs

    async def begin(
        self, handler: Callable[[Run], Coroutine[Any, Any, Any]], **options: Any
    ) -> Handle[Any]:
        retry = options.pop("retry", fixed(1, 0))
        version = workflow("trip").v("1.0.0", exec=handler, retry=retry)
        await self.app.serve(version, **options)
        return await version.start(self.app.client)

    async def booked(self, run: Run, *things: str) -> None:
        for what in things:
            run.compensate(self.undo, what)
            await self.book.start(run, what)


@pytest.fixture
def trip(app: App) -> Trip:
    return Trip(app)


async def failure(handle: Handle[Any]) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        await handle.wait_for_completion(60)
    return failed.value


async def test_what_was_registered_is_executed_the_last_first(trip: Trip) -> None:
    trip.refusing.add("car")

    async def handler(run: Run) -> None:
        await trip.booked(run, "flight", "hotel")
        await trip.book.start(run, "car")

    handle = await trip.begin(handler)
    assert "no car" in (await failure(handle)).failure.message
    assert trip.app.ledger.lines() == [
        "book flight", "book hotel", "book car", "undo hotel", "undo flight",
    ]  # fmt: skip
    assert [name for name, outcome in await outcomes(handle) if outcome == "completed"] == [
        "book", "book", "undo", "undo",
    ]  # fmt: skip
    with pytest.raises(InvalidTransition, match="compensations"):
        await handle.retry()


async def test_nothing_is_undone_where_the_run_completes(trip: Trip) -> None:
    async def handler(run: Run) -> str:
        await trip.booked(run, "flight")
        return "done"

    handle = await trip.begin(handler)
    assert await handle.wait_for_completion(60) == "done"
    assert trip.app.ledger.lines() == ["book flight"]


async def test_a_failure_that_the_handler_catches_undoes_nothing(trip: Trip) -> None:
    trip.refusing.add("car")

    async def handler(run: Run) -> str:
        await trip.booked(run, "flight")
        try:
            await trip.booked(run, "car")
        except TaskFailed:
            return "by foot"
        return "by car"

    handle = await trip.begin(handler)
    assert await handle.wait_for_completion(60) == "by foot"
    assert trip.app.ledger.lines() == ["book flight", "book car"]


async def test_a_cancel_undoes_after_the_handler_has_cleaned_up(trip: Trip) -> None:
    async def handler(run: Run) -> None:
        await trip.booked(run, "flight")
        try:
            await trip.hangs.start(run, "a while")
        finally:
            await trip.book.start(run, "cleanup")

    handle = await trip.begin(handler)
    await eventually(lambda: "hang a while" in trip.app.ledger.lines(), what="the step")
    await handle.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(60)
    assert trip.app.ledger.lines()[-2:] == ["book cleanup", "undo flight"]


async def test_a_handler_that_swallows_its_cancel_is_undone_too(trip: Trip) -> None:
    async def handler(run: Run) -> str:
        await trip.booked(run, "flight")
        try:
            await trip.hangs.start(run, "a while")
        except asyncio.CancelledError:
            return "swallowed"
        return ""

    handle = await trip.begin(handler)
    await eventually(lambda: "hang a while" in trip.app.ledger.lines(), what="the step")
    await handle.cancel("enough")
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    assert trip.app.ledger.lines()[-1] == "undo flight"


async def test_a_cancel_that_comes_while_it_is_undone_undoes_all_the_same(trip: Trip) -> None:
    trip.refusing.add("car")
    begun, let_go = asyncio.Event(), asyncio.Event()

    @task
    async def undo_slowly() -> None:
        trip.app.ledger.note("undo slowly")
        begun.set()
        await let_go.wait()

    async def handler(run: Run) -> None:
        await trip.booked(run, "flight")
        run.compensate(undo_slowly)
        await trip.book.start(run, "car")

    handle = await trip.begin(handler)
    await begun.wait()
    await handle.cancel("enough")
    await eventually(
        lambda: trip.app.ledger.count()["undo slowly"] > 1, what="the compensation once more"
    )
    let_go.set()
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    assert trip.app.ledger.lines()[-1] == "undo flight"


async def test_one_that_fails_is_logged_and_told_and_the_others_are_executed(
    trip: Trip, caplog: pytest.LogCaptureFixture
) -> None:
    trip.refusing.update({"hotel", "car"})

    async def handler(run: Run) -> None:
        run.compensate(trip.undo, "flight")
        run.compensate(trip.undo, "hotel")
        await trip.book.start(run, "car")

    with caplog.at_level(logging.ERROR):
        failed = await failure(await trip.begin(handler))
    assert trip.app.ledger.lines() == ["book car", "undo hotel", "undo flight"]
    assert "no car" in failed.failure.message
    assert "compensation 'undo' failed: task 'undo' failed" in failed.failure.traceback
    assert "hotel cannot be undone" in caplog.text


async def test_each_has_the_retries_of_its_task_and_the_run_is_parked_meanwhile(
    trip: Trip,
) -> None:
    trip.refusing.add("car")

    async def handler(run: Run) -> None:
        run.compensate(trip.undo_stubbornly, "flight")
        await trip.book.start(run, "car")

    await failure(await trip.begin(handler, inline_wait=0.01))
    assert trip.app.ledger.lines() == ["book car", *(f"undo flight {n}" for n in (1, 2, 3))]


async def test_it_is_undone_after_the_last_attempt_and_not_between(trip: Trip) -> None:
    async def handler(run: Run) -> None:
        await trip.booked(run, "flight")
        trip.app.ledger.note(f"attempt {run.attempt}")
        raise ValueError(run.attempt)

    await failure(await trip.begin(handler, retry=fixed(2, 0.01)))
    done = trip.app.ledger.lines()
    assert list(dict.fromkeys(done)) == ["book flight", "attempt 1", "attempt 2", "undo flight"]
    assert done.count("undo flight") == done.count("book flight") == 1


async def test_branches_that_are_left_under_way_end_before(trip: Trip) -> None:
    trip.refusing.add("car")

    async def branch(run: Run) -> None:
        run.compensate(trip.undo, "ship")
        try:
            await trip.hangs.start(run, "ship")
        finally:
            await trip.book.start(run, "cleanup")

    async def handler(run: Run) -> None:
        await trip.booked(run, "flight")
        both = asyncio.create_task(branch(run))
        await eventually(lambda: "hang ship" in trip.app.ledger.lines() or run.is_replaying)
        await asyncio.gather(both, trip.book.start(run, "car"))

    handle = await trip.begin(handler)
    await failure(handle)
    assert trip.app.ledger.lines()[-3:] == ["book cleanup", "undo ship", "undo flight"]


async def test_a_result_that_cannot_be_stored_is_a_failure_too(trip: Trip) -> None:
    async def handler(run: Run) -> int:
        await trip.booked(run, "flight")
        return "no number"  # type: ignore[return-value]

    await failure(await trip.begin(handler))
    assert trip.app.ledger.lines() == ["book flight", "undo flight"]


async def test_arguments_are_checked_and_kept_as_they_were_when_it_was_registered(
    trip: Trip,
) -> None:
    @task
    async def undo_all(things: list[str]) -> None:
        trip.app.ledger.note(f"undo {','.join(things)}")

    async def handler(run: Run) -> None:
        with pytest.raises(DataError):
            run.compensate(undo_all, [1])  # type: ignore[list-item]
        things = ["a", "b"]
        run.compensate(undo_all, things)
        things.clear()
        raise ValueError

    await failure(await trip.begin(handler))
    assert trip.app.ledger.lines() == ["undo a,b"]


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("cancels", [False, True], ids=["failing", "cancelled"])
@pytest.mark.parametrize("death", range(1, 5))
async def test_an_owner_may_die_at_any_point_of_it(
    trip: Trip, death: int, *, cancels: bool, unheard: bool
) -> None:
    trip.refusing.add("car")

    async def handler(run: Run) -> None:
        await trip.booked(run, "flight", "hotel")
        if cancels:
            await trip.hangs.start(run, "a while")
        await trip.book.start(run, "car")

    version = workflow("mortal").v("1.0.0", exec=handler)
    handle = await version.start(trip.app.client)
    if cancels:
        worker = await trip.app.serve(version)
        await eventually(lambda: "hang a while" in trip.app.ledger.lines(), what="the step")
        await trip.app.end(worker)
    while not (await handle.status()).status.is_final:
        writes, cancelled = {handle.id: death}, [handle] if cancels else []
        await one_life(trip.app, [version], [handle], writes, unheard=unheard, cancelled=cancelled)
    ended = Status.CANCELLED if cancels else Status.FAILED
    assert (await handle.status()).status is ended
    done = list(dict.fromkeys(trip.app.ledger.lines()))
    middle = "hang a while" if cancels else "book car"
    assert done == ["book flight", "book hotel", middle, "undo hotel", "undo flight"]
    if not unheard:
        undone = [step for step in await handle.journal() if step.task == "undo"]
        assert [step.outcome for step in undone] == ["completed"] * 2


async def test_a_run_that_is_terminated_undoes_nothing(trip: Trip) -> None:
    async def handler(run: Run) -> None:
        await trip.booked(run, "flight")
        await trip.hangs.start(run, "a while")

    handle = await trip.begin(handler, heartbeat=0.05)
    await eventually(lambda: "hang a while" in trip.app.ledger.lines(), what="the step")
    await handle.terminate()
    await becomes(handle, Status.CANCELLED)
    assert "undo flight" not in trip.app.ledger.lines()
