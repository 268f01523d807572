"""Runs that wait for long: they leave their worker, and are replayed when they are woken."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from aiki import Run, RunCancelled, Status, current_step, fixed, task, workflow
from aiki.handle import Handle
from aiki.operation import Operation, Operations, State
from aiki.records import Ownership
from aiki.store.runs import Runs
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

DELAY = 1.5  # what a busy machine may take until a test has seen that the run is parked


class Site:
    """A task that fails once and is tried again after a delay that parks its run."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.begun: dict[str, float] = {}

        @task(retry=fixed(2, DELAY))
        async def second_time(label: str) -> str:
            app.ledger.note(f"{label} {current_step().attempt}")
            if current_step().attempt == 1:
                self.begun[label] = time.monotonic()
                raise ConnectionError
            assert time.monotonic() - self.begun[label] >= DELAY, "too early"
            return label

        @task
        async def work(label: str) -> str:
            app.ledger.note(label)
            return label

        self.second_time = second_time
        self.work = work


async def next_attempt_is_due(handle: Handle[str]) -> bool:
    due = [step.due for step in await handle.journal() if step.due]
    return bool(due) and datetime.now(UTC) > due[0] + timedelta(milliseconds=50)


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_a_run_that_waits_leaves_its_slot_to_others_and_comes_back_in_time(
    site: Site,
) -> None:
    wf, other = workflow("waiting"), workflow("other")

    @wf.v("1.0.0")
    async def waiting(run: Run) -> list[str]:
        before = await site.work.start(run, "before")
        return [before, await site.second_time.start(run, "a")]

    @other.v("1.0.0")
    async def working(run: Run, label: str) -> str:
        return await site.work.start(run, label)

    worker = await site.app.serve(wf, other, inline_wait=0.1, max_concurrent_workflow_runs=1)
    handle = await waiting.start(site.app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    status = await handle.status()
    assert "next attempt is due at" in status.reason
    await eventually(lambda: worker.hosted == 0, what="the slot")
    assert await site.app.result(working.bind("meanwhile")) == "meanwhile"
    assert await handle.wait_for_completion(60) == ["before", "a"]
    assert time.monotonic() - site.begun["a"] < DELAY + 30
    assert site.app.ledger.lines() == ["before", "a 1", "meanwhile", "a 2"]


@pytest.mark.plain_only("no wait is short: the run parks at once")
async def test_a_short_wait_keeps_the_slot(site: Site) -> None:
    wf = workflow("short")

    @wf.v("1.0.0")
    async def short(run: Run) -> str:
        site.app.ledger.note("a life")
        return await site.second_time.start(run, "a")

    await site.app.serve(wf, inline_wait=2 * DELAY)
    assert await site.app.result(short.bind()) == "a"
    assert site.app.ledger.lines() == ["a life", "a 1", "a 2"]


async def test_what_a_handler_does_when_it_is_parked_is_heard_by_nobody(site: Site) -> None:
    seen: list[str] = []
    wf = workflow("finally")

    @wf.v("1.0.0")
    async def guarded(run: Run) -> str:
        try:
            return await site.second_time.start(run, "a")
        except asyncio.CancelledError:
            seen.append("parked")
            raise
        finally:
            seen.append("finally")
            await site.work.start(run, "cleanup")
            seen.append("after the cleanup")

    await site.app.serve(wf, inline_wait=0.01)
    handle = await guarded.start(site.app.client)
    assert await handle.wait_for_completion(60) == "a"
    assert seen[:2] == ["parked", "finally"]
    assert seen[-2:] == ["finally", "after the cleanup"]
    assert seen.count("after the cleanup") == 1
    assert site.app.ledger.lines() == ["a 1", "a 2", "cleanup"]
    assert await outcomes(handle) == [("second-time", "completed"), ("work", "completed")]


async def test_waits_side_by_side_park_until_the_nearest(site: Site) -> None:
    @task(retry=fixed(2, 3600))
    async def for_long(label: str) -> str:
        site.app.ledger.note(f"{label} {current_step().attempt}")
        raise ConnectionError

    wf = workflow("side-by-side")

    @wf.v("1.0.0")
    async def both(run: Run) -> str:
        long = asyncio.create_task(for_long.start(run, "long"))
        short = await site.second_time.start(run, "short")
        long.cancel()
        await asyncio.wait([long])
        return short

    await site.app.serve(wf, inline_wait=0.1)
    handle = await both.start(site.app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    assert await handle.wait_for_completion(60) == "short"
    assert sorted(site.app.ledger.lines()) == ["long 1", "short 1", "short 2"]
    assert await outcomes(handle) == [("second-time", "completed"), ("for-long", "abandoned")]


async def test_a_run_does_not_park_while_another_of_its_steps_executes(site: Site) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    @task
    async def executes() -> None:
        site.app.ledger.note("executes")
        begun.set()
        await let_go.wait()

    wf = workflow("busy")

    @wf.v("1.0.0")
    async def busy(run: Run) -> None:
        await asyncio.gather(executes.start(run), site.second_time.start(run, "a"))

    await site.app.serve(wf, inline_wait=0.01)
    handle = await busy.start(site.app.client)
    await begun.wait()
    await eventually(lambda: "a 2" in site.app.ledger.lines(), what="the second attempt")
    assert (await handle.status()).status is Status.RUNNING
    let_go.set()
    await handle.wait_for_completion(60)
    assert site.app.ledger.count()["executes"] == 1


async def test_attempts_are_counted_across_parks_and_workers(site: Site) -> None:
    @task(retry=fixed(4, 0.05))
    async def never_works() -> None:
        site.app.ledger.note(str(current_step().attempt))
        raise ConnectionError

    wf = workflow("counting")

    @wf.v("1.0.0")
    async def counting(run: Run) -> int:
        try:
            await never_works.start(run)
        except Exception as error:  # noqa: BLE001 - whatever it is
            return vars(error)["attempts"]  # type: ignore[no-any-return]
        return 0

    for _ in range(2):
        await site.app.serve(wf, client=await site.app.connect(), inline_wait=0.001)
    assert await site.app.result(counting.bind()) == 4
    assert site.app.ledger.lines() == ["1", "2", "3", "4"]


# A park that something overtakes


class SlowPark(Runs):
    """Sends a park only when it is let go."""

    def __init__(self, runs: Runs) -> None:
        vars(self).update(vars(runs))
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()
        self.answers: list[bytes] = []

    async def park(
        self,
        owner: Ownership,
        status: Status,
        seen: int,
        waits: Sequence[str],
        timed: Sequence[str],
    ) -> bytes:
        self.asked.set()
        await self.let_go.wait()
        answer = await super().park(owner, status, seen, waits, timed)
        self.answers.append(answer)
        return answer


async def test_a_cancel_that_comes_while_the_run_is_being_parked_is_delivered(site: Site) -> None:
    @task(retry=fixed(2, 3600))
    async def for_long() -> None:
        raise ConnectionError

    wf = workflow("overtaken")

    @wf.v("1.0.0")
    async def overtaken(run: Run) -> None:
        try:
            await for_long.start(run)
        finally:
            await site.work.start(run, "cleanup")

    client = await site.app.connect()
    handle = await overtaken.start(site.app.client)
    store = client.partitions.of(handle.id)
    store.runs = runs = SlowPark(store.runs)
    await site.app.serve(wf, client=client, heartbeat=0.05)
    await runs.asked.wait()
    await handle.cancel("enough")
    await eventually(lambda: site.app.told_owner(handle), what="the notice")
    runs.let_go.set()
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(60)
    assert runs.answers == [b"STAY"]
    assert site.app.ledger.lines() == ["cleanup"]


async def test_a_handler_that_ends_while_its_run_is_being_parked_ends_the_run(site: Site) -> None:
    let_end = asyncio.Event()
    wf = workflow("ending")

    @wf.v("1.0.0")
    async def ending(run: Run) -> str:
        left = asyncio.create_task(site.second_time.start(run, "left"))
        await let_end.wait()
        assert not left.done()
        return "ended"

    client = await site.app.connect()
    handle = await ending.start(site.app.client)
    store = client.partitions.of(handle.id)
    store.runs = runs = SlowPark(store.runs)
    await site.app.serve(wf, client=client, inline_wait=0.01)
    await runs.asked.wait()
    let_end.set()
    # Until what it was parked for is due, so that the store answers that it is to stay
    await eventually(lambda: next_attempt_is_due(handle))
    runs.let_go.set()
    assert await handle.wait_for_completion(60) == "ended"
    assert runs.answers == [b"STAY"]
    assert await outcomes(handle) == [("second-time", "abandoned")]
    assert site.app.ledger.lines() == ["left 1"], "nothing begins once the handler has ended"


async def test_a_worker_that_stops_while_a_run_is_being_parked_hands_it_back(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    wf = workflow("stopping")

    @wf.v("1.0.0")
    async def waiting(run: Run) -> str:
        return await site.second_time.start(run, "a")

    client = await site.app.connect()
    handle = await waiting.start(site.app.client)
    store = client.partitions.of(handle.id)
    store.runs = runs = SlowPark(store.runs)
    worker = site.app.worker(wf, client=client, inline_wait=0.01)
    await worker.start()
    await runs.asked.wait()
    await eventually(lambda: next_attempt_is_due(handle))
    with caplog.at_level(logging.WARNING):
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        runs.let_go.set()
        await stopping
    assert runs.answers == [b"STAY"]
    assert (await handle.status()).status is Status.QUEUED
    assert "hands" not in caplog.text, "it was handed back in time"
    await site.app.serve(wf)
    assert await handle.wait_for_completion(60) == "a"
    assert site.app.ledger.lines() == ["a 1", "a 2"]


async def test_a_wait_that_is_over_and_not_heard_of_yet_is_not_slept_over() -> None:
    """What waits for a message needs turns to hear of it, which the store counts as seen."""
    loop = asyncio.get_running_loop()
    coming: asyncio.Future[None] = loop.create_future()
    task = asyncio.current_task()
    assert task is not None
    operation = Operation("event/paid#0", None, task)
    operation.state, operation.until, operation.coming = State.WAITING, math.inf, coming
    operations = Operations()
    operations.add(operation)
    assert operations.all_wait_beyond(loop.time())
    coming.set_result(None)
    assert not operations.all_wait_beyond(loop.time())
