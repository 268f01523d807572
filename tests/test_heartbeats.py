"""What a task says while it is at work, who hears it, and what comes of its silence."""

import asyncio
import itertools
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiki import DataError, LimitExceeded, Run, current_step, fixed, never, task, workflow
from aiki.current_step import MAX_DETAILS
from aiki.states import Status
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.one_step import reporting, told
from tests.support.shop import kill, serving, whose
from tests.support.supervised import start
from tests.support.waiting import eventually


async def test_the_next_attempt_is_given_what_the_last_one_said(app: App) -> None:
    @task(retry=fixed(3, 0))
    async def counts() -> list[Any]:
        step = current_step()
        before = step.heartbeat_details
        app.ledger.note(repr(before))
        step.heartbeat({"row": step.attempt})
        step.heartbeat()  # which takes nothing back
        if step.attempt < 3:
            raise ValueError(step.attempt)
        return [before, step.heartbeat_details]

    assert await told(app, counts.start) == "[{'row': 2}, {'row': 2}]"
    assert app.ledger.lines() == ["None", "{'row': 1}", "{'row': 2}"]


async def test_details_outlast_a_park(app: App) -> None:
    @task(retry=fixed(2, 1.5))
    def reads() -> object:
        step = current_step()
        step.heartbeat([1, "a"])
        if step.attempt == 1:
            raise ValueError("half way")
        return step.heartbeat_details

    version = workflow("reads").v("1.0.0", exec=reporting(reads.start))
    await app.serve(version)
    handle = await version.start(app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    (step,) = await handle.journal()
    assert (step.outcome, step.heartbeat) == ("retrying", [1, "a"])
    assert step.failure is not None
    assert step.failure.message == "half way"
    assert await handle.wait_for_completion(60) == "[1, 'a']"
    (step,) = await handle.journal()
    assert (step.outcome, step.result, step.heartbeat) == ("completed", [1, "a"], None)


async def test_details_are_stored_while_the_task_is_at_work_and_about_once_a_second(
    app: App,
) -> None:
    go_on = threading.Event()

    @task
    def works() -> int:
        count = 0
        while not go_on.is_set():
            count += 1
            current_step().heartbeat(count)
            time.sleep(0.001)
        return count

    version = workflow("works").v("1.0.0", exec=reporting(works.start))
    worker = await app.serve(version)
    sent: list[bytes] = []
    handle = await version.start(app.client)
    runs = worker._hosts[app.client.partitions.of(handle.id).number].runs
    beat = runs.heartbeat_step

    async def counting(owner: Any, key: str, rest: bytes) -> int | bytes:
        sent.append(rest)
        return await beat(owner, key, rest)

    runs.heartbeat_step = counting  # type: ignore[method-assign]

    async def has_said() -> int:
        return max([step.heartbeat or 0 for step in await handle.journal()], default=0)

    begun = time.monotonic()
    await eventually(has_said, what="the first details")
    (step,) = await handle.journal()
    assert (step.outcome, step.attempts, step.failure) == ("executing", 0, None)
    first = await has_said()
    await eventually(lambda: len(sent) >= 3, what="the third write")
    assert await has_said() > first
    go_on.set()
    assert int(await handle.wait_for_completion(60)) > 3
    assert len(sent) <= 2 + (time.monotonic() - begun)
    assert await outcomes(handle) == [("works", "completed")]


@pytest.mark.parametrize(
    ("details", "error"),
    [
        (math.nan, DataError),
        ({1: 2}, DataError),
        (object(), DataError),
        ("x" * MAX_DETAILS, LimitExceeded),
    ],
    ids=["nan", "key", "object", "long"],
)
async def test_details_that_cannot_be_stored_are_refused_where_they_are_said(
    app: App, details: object, error: type[Exception]
) -> None:
    @task(retry=fixed(3, 0))
    async def says() -> str:
        with pytest.raises(error, match="the details of a heartbeat"):
            current_step().heartbeat(details)
        return "refused"

    assert await told(app, says.start) == "'refused'"


async def test_a_silent_attempt_is_ended_and_one_that_speaks_is_not(app: App) -> None:
    @task(heartbeat_timeout=1.5, retry=fixed(2, 0))
    async def speaks() -> str:
        if current_step().attempt == 1:
            await asyncio.Event().wait()
        for _ in range(20):  # for longer than it may be silent
            await asyncio.sleep(0.1)
            current_step().heartbeat()
        return "spoke"

    assert await told(app, speaks.start) == "'spoke'"


async def test_silence_is_a_failure_of_its_own(app: App) -> None:
    @task(heartbeat_timeout=0.05, retry=never())
    async def silent() -> None:
        await asyncio.Event().wait()

    assert await told(app, silent.start) == (
        "silent 1 aiki.step.TimedOut task 'silent' gave no heartbeat for 0.05 s"
    )


async def test_a_thread_that_was_given_up_hears_of_it_by_its_next_heartbeat(app: App) -> None:
    @task(timeout=1.5, retry=fixed(2, 0))
    def works() -> str:
        step = current_step()
        if step.attempt == 2:
            return "in time"
        try:
            while True:
                step.heartbeat()
                time.sleep(0.01)
        except asyncio.CancelledError:
            app.ledger.note(f"stopped {step.is_cancelled}")
            raise

    version = workflow("works").v("1.0.0", exec=reporting(works.start))
    worker = await app.serve(version)
    assert await app.result(version.bind()) == "'in time'"
    assert app.ledger.lines() == ["stopped True"]
    assert not worker.needs_recycling.is_set()  # no thread was lost


async def test_a_thread_of_a_cancelled_run_hears_of_it(app: App) -> None:
    @task
    def works() -> None:
        app.ledger.note("begun")
        while not current_step().is_cancelled:
            time.sleep(0.01)
        with pytest.raises(asyncio.CancelledError, match="nobody waits for it any more"):
            current_step().heartbeat()
        app.ledger.note("stopped")

    wf = workflow("works")

    @wf.v("1.0.0")
    async def works_v1(run: Run) -> None:
        await works.start(run)

    await app.serve(wf)
    handle = await works_v1.start(app.client)
    await eventually(app.ledger.lines)
    await handle.cancel()
    await becomes(handle, Status.CANCELLED)
    await eventually(lambda: "stopped" in app.ledger.lines())


async def test_a_task_sees_the_drain_and_its_next_attempt_goes_on_elsewhere(app: App) -> None:
    @task
    async def works() -> object:
        step = current_step()
        app.ledger.note(f"{step.attempt} {step.heartbeat_details}")
        if step.heartbeat_details is not None:
            return step.heartbeat_details
        step.heartbeat("begun")
        await eventually(lambda: step.is_draining)
        step.heartbeat("as far as this")
        await asyncio.Event().wait()
        return None

    version = workflow("works").v("1.0.0", exec=reporting(works.start))
    worker = await app.serve(version)
    handle = await version.start(app.client)
    await eventually(app.ledger.lines)
    app._running.remove(worker)
    await worker.stop(grace=2)
    await app.serve(version)
    assert await handle.wait_for_completion(60) == "'as far as this'"
    assert app.ledger.lines() == ["1 None", "1 as far as this"]


async def test_a_thread_whose_run_has_another_owner_hears_of_it(app: App) -> None:
    @task
    def works() -> str:
        step = current_step()
        app.ledger.note("begun")
        if step.heartbeat_details is not None:
            return "by the heir"
        try:
            for count in itertools.count():
                step.heartbeat(count)
                time.sleep(0.01)
        finally:
            app.ledger.note("stopped")
        return "by nobody"

    version = workflow("works").v("1.0.0", exec=reporting(works.start))
    worker = await app.serve(version, heartbeat=20)
    handle = await version.start(app.client)

    async def has_said() -> bool:
        return any(step.heartbeat is not None for step in await handle.journal())

    await eventually(has_said)
    await app.give_up(worker, handle)
    assert await handle.wait_for_completion(60) == "'by the heir'"  # the worker's next life
    await eventually(lambda: "stopped" in app.ledger.lines())
    assert app.ledger.count() == {"begun": 2, "stopped": 1}


@pytest.mark.parametrize("unheard", [False, True])
@pytest.mark.parametrize("writes", range(1, 5))
async def test_an_owner_may_die_before_and_after_each_of_its_writes(
    app: App, *, writes: int, unheard: bool
) -> None:
    @task(schedule_to_close=60, retry=fixed(2, 0))
    async def works() -> object:
        step = current_step()
        before = step.heartbeat_details or 0
        step.heartbeat(before + 1)
        if before == 0:
            await eventually(lambda: not (step._is_noted or step._writing))
            raise ValueError("the first")
        return before

    version = workflow("works").v("1.0.0", exec=reporting(works.start))
    handle = await version.start(app.client)
    await one_life(app, [version], [handle], {handle.id: writes}, unheard=unheard)
    await app.serve(version)
    said = await handle.wait_for_completion(60)
    assert int(said) >= 1  # what an earlier attempt said, however it ended
    (step,) = await handle.journal()
    assert step.outcome == "completed"


LONG = """
import asyncio, os
from aiki import Run, current_step, task, workflow

def note(text):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{text} {os.getpid()}\\n")

@task
def climb() -> str:
    step = current_step()
    note(f"attempt {step.attempt} from {step.heartbeat_details}")
    if step.heartbeat_details is not None:
        return "arrived"
    step.heartbeat({"height": 4000})
    while True:
        pass

climbing = workflow("climbing")

@climbing.v("1.0.0")
async def climbing_v1(run: Run) -> str:
    return await climb.start(run)
"""


async def test_details_outlast_the_death_of_the_worker_in_the_middle(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "60s", source=LONG) as (found, client):
        handle = await start(client, "climbing")

        async def has_said() -> bool:
            return any(step.heartbeat for step in await handle.journal())

        await eventually(has_said, what="the details")
        (victim,) = whose(found, "attempt 1 from None")
        kill(victim)
        assert await handle.wait_for_completion(60) == "arrived"
        (heir,) = whose(found, "attempt 1 from {'height': 4000}")
        assert heir != victim
