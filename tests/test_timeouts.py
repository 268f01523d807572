"""Tasks that take too long, on the loop and in threads."""

import asyncio
import logging
import threading

import pytest

from aiki import Run, RunCancelled, Status, TaskFailed, current_step, fixed, task, workflow
from tests.support.app import App, becomes, outcomes
from tests.support.one_step import reporting, told
from tests.support.waiting import eventually


async def test_a_task_on_the_loop_that_takes_too_long_is_cancelled_and_tried_again(
    app: App,
) -> None:
    @task(timeout=0.05, retry=fixed(2, 0))
    async def slow() -> str:
        if current_step().attempt == 2:
            return "in time"
        try:
            await asyncio.Event().wait()
        finally:
            app.ledger.note("cancelled")
        return "never"

    assert await told(app, slow.start) == "'in time'"
    assert app.ledger.lines() == ["cancelled"]


async def test_a_time_out_is_a_failure_of_its_own_type_and_a_tasks_own_is_not(app: App) -> None:
    @task(timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    @task(timeout=5)
    async def own() -> None:
        raise TimeoutError("mine")

    async def both(run: Run) -> list[str]:
        errors = await asyncio.gather(slow.start(run), own.start(run), return_exceptions=True)
        return [
            f"{e.failure.type} {e.failure.message}" for e in errors if isinstance(e, TaskFailed)
        ]

    assert await told(app, both) == repr(
        ["aiki.step.TimedOut task 'slow' did not end within 0.05 s", "TimeoutError mine"]
    )


async def test_a_clean_up_has_a_time_out_as_well(app: App) -> None:
    """The task that executes it was cancelled before."""

    @task(timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    async def handler(run: Run) -> None:
        try:
            await run.sleep("waiting", 60)
        finally:
            try:
                await slow.start(run)
            except TaskFailed as failed:
                app.ledger.note(failed.failure.type)

    version = workflow("cleans-up").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    await becomes(handle, Status.SLEEPING)
    await handle.cancel()
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    assert set(app.ledger.lines()) == {"aiki.step.TimedOut"}


async def test_a_task_in_a_thread_that_takes_too_long_is_left_and_the_worker_says_so(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = threading.Event()

    @task(timeout=0.05)
    def stuck() -> str:
        let_go.wait(20)
        app.ledger.note("the late result")
        return "late"

    @task
    def well() -> str:
        return "well"

    version = workflow("stuck").v("1.0.0", exec=reporting(stuck.start))
    other = workflow("well").v("1.0.0", exec=reporting(well.start))
    worker = await app.serve(version, other, max_concurrent_workflow_runs=1)
    handle = await version.start(app.client)
    with caplog.at_level(logging.WARNING):
        expected = "stuck 1 aiki.step.ThreadLeft task 'stuck' did not end within 0.05 s"
        assert await handle.wait_for_completion(60) == expected
    await asyncio.wait_for(worker.needs_recycling.wait(), 60)
    assert "thread of task 'stuck'" in worker.recycle_reason
    assert "wants to be replaced" in caplog.text
    # Its one thread is lost, and replaced: other runs go on.
    assert await app.result(other.bind()) == "'well'"
    let_go.set()
    await eventually(app.ledger.lines)
    assert await outcomes(handle) == [("stuck", "failed")]


async def test_waiting_for_a_free_thread_takes_none_of_a_tasks_time(app: App) -> None:
    @task(timeout=1.8)
    def takes_its_time(number: int) -> int:
        threading.Event().wait(0.3)
        return number

    wf = workflow("crowd")

    @wf.v("1.0.0")
    async def crowd(run: Run) -> list[int]:
        return await asyncio.gather(*(takes_its_time.start(run, n) for n in range(8)))

    worker = await app.serve(wf, max_concurrent_workflow_runs=1)
    assert await app.result(crowd.bind()) == list(range(8))
    assert not worker.needs_recycling.is_set()


async def test_a_task_that_is_cancelled_before_it_has_a_thread_is_never_executed(app: App) -> None:
    let_go = threading.Event()

    @task
    def holds() -> None:
        app.ledger.note("holds")
        let_go.wait(20)

    @task
    def waits(number: int) -> None:
        app.ledger.note(f"waits {number}")

    wf = workflow("crowd")

    @wf.v("1.0.0")
    async def crowd(run: Run) -> None:
        first = asyncio.create_task(holds.start(run))
        others = [asyncio.create_task(waits.start(run, n)) for n in range(2)]
        await eventually(app.ledger.lines)
        others[0].cancel()
        await asyncio.wait([others[0]])
        let_go.set()
        await asyncio.gather(first, others[1])

    await app.serve(wf, max_concurrent_workflow_runs=1)
    handle = await crowd.start(app.client)
    await handle.wait_for_completion(60)
    # Where the run is handed back after the cancellation, the step that holds is begun again.
    assert [line for line in app.ledger.lines() if line != "holds"] == ["waits 1"]
    assert ("waits", "abandoned") in await outcomes(handle)


async def test_all_attempts_together_have_a_time_that_counts_their_delays(app: App) -> None:
    @task(schedule_to_close=2, retry=fixed(100, 0.4))
    async def fails() -> None:
        app.ledger.note("attempt")
        raise ValueError("again")

    said = await told(app, fails.start)
    attempts = len(app.ledger.lines())
    # On a busy machine the time may also end one that is just about to begin
    cut = f"fails {attempts + 1} aiki.step.TimedOut"
    assert said == f"fails {attempts} ValueError again" or said.startswith(cut)
    assert 2 <= attempts <= 5


async def test_a_delay_that_would_outlast_the_time_of_all_attempts_is_not_waited_for(
    app: App,
) -> None:
    @task(schedule_to_close=60, retry=fixed(3, 3600))
    def fails() -> None:
        raise ValueError("once")

    assert await told(app, fails.start) == "fails 1 ValueError once"


@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_an_attempt_ends_with_the_time_of_all_attempts(app: App, place: str) -> None:
    let_go = threading.Event()

    def stands() -> None:
        let_go.wait(20)

    async def hangs() -> None:
        await asyncio.Event().wait()

    slow = (
        task(exec=stands, schedule_to_close=0.2, timeout=10, retry=fixed(3, 0))
        if place == "thread"
        else task(exec=hangs, schedule_to_close=0.2, timeout=10, retry=fixed(3, 0))
    )
    try:
        said = await told(app, slow.start)
    finally:
        let_go.set()
    assert said.endswith("did not end within 0.2 s of its first attempt's start")
    assert said.split()[1] == "1"


async def test_the_time_of_all_attempts_goes_on_while_a_worker_is_dead(app: App) -> None:
    @task(schedule_to_close=2)
    async def slow() -> None:
        app.ledger.note("attempt")
        await asyncio.Event().wait()

    version = workflow("slow").v("1.0.0", exec=reporting(slow.start))
    worker = await app.serve(version)
    handle = await version.start(app.client)
    begun = asyncio.get_running_loop().time()

    async def is_recorded() -> bool:
        return await outcomes(handle) == [("slow", "executing")]

    await eventually(is_recorded)
    await app.end(worker)
    await asyncio.sleep(2.2 - (asyncio.get_running_loop().time() - begun))
    await app.serve(version)
    expected = "did not end within 2 s of its first attempt's start"
    assert expected in await handle.wait_for_completion(60)
    # The second worker has found that nothing is left
    assert app.ledger.lines() == ["attempt"]


async def test_to_wait_for_a_thread_counts_for_all_attempts_together(app: App) -> None:
    let_go = threading.Event()

    @task
    def holds() -> None:
        app.ledger.note("holds")
        let_go.wait(20)

    @task(schedule_to_close=0.2)
    def waits() -> None:
        app.ledger.note("executed")

    wf = workflow("crowd")

    @wf.v("1.0.0")
    async def crowd(run: Run) -> str:
        holding = asyncio.create_task(holds.start(run))
        await eventually(app.ledger.lines)
        try:
            await waits.start(run)
        except TaskFailed as failed:
            let_go.set()
            await holding
            return failed.failure.message
        return "in time"

    await app.serve(wf, max_concurrent_workflow_runs=1)
    expected = "task 'waits' did not end within 0.2 s of its first attempt's start"
    assert await app.result(crowd.bind(), timeout=60) == expected
    assert "executed" not in app.ledger.lines()
