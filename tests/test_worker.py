"""A worker in the caller's process: what it takes, and how it stops."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from aiki import ConfigError, Run, Status, current_step, fixed, task, workflow
from aiki.worker import RedisStreams, Worker
from aiki.workflow import Workflow, WorkflowVersion
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually


class Site:
    """A workflow of two steps, of which the first waits at a gate of its name."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.gates: dict[str, asyncio.Event] = {}
        self.at_once = 0
        self.most_at_once = 0

        @task
        async def gated(name: str) -> str:
            app.ledger.note(f"begin {name}")
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
            try:
                await self.gate(name).wait()
            finally:
                self.at_once -= 1
            app.ledger.note(f"end {name}")
            return name

        @task
        async def after(name: str) -> str:
            app.ledger.note(f"after {name}")
            return name

        wf = workflow("gated")

        @wf.v("1.0.0")
        async def handler(run: Run, name: str) -> str:
            await gated.start(run, name)
            return await after.start(run, name)

        self.wf: Workflow = wf
        self.v1: WorkflowVersion[[str], str] = handler

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def has(self, *lines: str) -> None:
        """Wait until these lines are in the ledger."""
        await eventually(lambda: set(lines) <= set(self.app.ledger.lines()), what=f"{lines}")


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


# Settings


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrent_workflow_runs": 0},
        {"max_concurrent_workflow_runs": -1},
        {"max_concurrent_workflow_runs": 1.5},
        {"max_concurrent_workflow_runs": float("nan")},
        {"max_concurrent_workflow_runs": True},
        {"subscriber": RedisStreams(claim_min_idle_time=2.9)},
        {"subscriber": RedisStreams(claim_min_idle_time=0)},
        {"heartbeat": 30},
        {"heartbeat": 0},
        {"heartbeat": float("nan")},
        {"grace": -1},
        {"hang_timeout": 0},
        {"pools": []},
        {"pools": "default"},
    ],
    ids=str,
)
@pytest.mark.plain_only("executes nothing")
async def test_settings_that_cannot_work_are_refused(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Worker(app.client, **options)


@pytest.mark.plain_only("executes nothing")
async def test_a_worker_without_workflows_or_that_runs_already_does_not_start(site: Site) -> None:
    with pytest.raises(ConfigError, match="nothing to execute"):
        await site.app.worker().start()
    worker = await site.app.serve(site.wf)
    with pytest.raises(ConfigError, match="runs already"):
        await worker.start()


# What it takes


@pytest.mark.plain_only("the gates are for runs that keep their slots")
async def test_it_executes_as_many_runs_at_once_as_it_has_slots(site: Site) -> None:
    worker = await site.app.serve(site.wf, max_concurrent_workflow_runs=3)
    handles = [await site.v1.start(site.app.client, str(n)) for n in range(9)]
    for _ in range(3):
        await eventually(lambda: site.at_once == 3, what="three at once")
        assert worker.hosted == 3
        assert len(site.app.ledger.lines()) % 3 == 0
        begun = [line.split()[1] for line in site.app.ledger.lines() if "begin" in line]
        for name in begun:
            site.gate(name).set()
        for name in begun:
            await handles[int(name)].wait_for_completion(60)
    assert site.most_at_once == 3


async def test_two_workers_share_the_runs_and_none_is_executed_twice(site: Site) -> None:
    names = [str(n) for n in range(8)]
    for name in names:
        site.gate(name)
    for _ in range(2):
        client = await site.app.connect()
        await site.app.serve(site.wf, client=client, max_concurrent_workflow_runs=4)
    handles = [await site.v1.start(site.app.client, name) for name in names]
    await site.has(*(f"begin {name}" for name in names))
    for name in names:
        site.gate(name).set()
    assert [await handle.wait_for_completion(60) for handle in handles] == names
    assert set(site.app.ledger.count().values()) == {1}


async def test_it_leaves_what_it_does_not_serve(site: Site) -> None:
    other = site.wf.v("2.0.0", exec=site.v1.handler)
    waits = await other.start(site.app.client, "a")
    pool = await site.v1.with_options(pool="gpu").start(site.app.client, "b")
    site.gate("c").set()
    await site.app.serve(site.v1)
    assert await site.app.result(site.v1.bind("c")) == "c"
    for handle in (waits, pool):
        assert (await handle.status()).status is Status.QUEUED
    assert "2.0.0" in (await waits.status()).reason
    for name in "ab":
        site.gate(name).set()
    await site.app.serve(site.wf, client=await site.app.connect(), pools=["default", "gpu"])
    assert await waits.wait_for_completion(60) == "a"
    assert await pool.wait_for_completion(60) == "b"


@pytest.mark.plain_only("a run that is handed back is claimed by others only")
async def test_paused_it_puts_back_what_it_had_asked_for(site: Site) -> None:
    worker = await site.app.serve(site.wf)
    await site.v1.start(site.app.client, "a")
    await site.has("begin a")
    worker.pause()  # though it waits for more already
    await site.v1.start(site.app.client, "b")
    other = await site.app.serve(site.wf, client=await site.app.connect())
    await site.has("begin b")
    assert [worker.hosted, other.hosted] == [1, 1]


@pytest.mark.plain_only("what it has, it would hand back, and claim no more")
async def test_paused_it_claims_nothing_and_goes_on_with_what_it_has(site: Site) -> None:
    worker = await site.app.serve(site.wf, max_concurrent_workflow_runs=1)
    first = await site.v1.start(site.app.client, "a")
    await site.has("begin a")
    worker.pause()
    second = await site.v1.start(site.app.client, "b")
    site.gate("a").set()
    assert await first.wait_for_completion(60) == "a"
    assert [(await second.status()).status, worker.report()["paused"]] == [Status.QUEUED, True]
    worker.unpause()
    site.gate("b").set()
    assert await second.wait_for_completion(60) == "b"


async def test_it_reports_what_its_runs_wait_for(site: Site) -> None:
    worker = await site.app.serve(site.wf, id="reporter")
    handle = await site.v1.start(site.app.client, "a")
    await site.has("begin a")
    report: dict[str, Any] = worker.report()
    (run,) = report["runs"]
    assert (report["worker"], run["run"]) == ("reporter", handle.id)
    (step,) = run["waits_for"]
    assert step["state"] == "executing"
    assert step["step"].startswith("gated:")
    site.gate("a").set()
    await handle.wait_for_completion(60)


async def test_a_run_that_it_owns_and_does_not_host_is_given_back(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.05)
    worker = await site.app.serve(site.wf)
    handle = await site.v1.start(site.app.client, "a")
    await site.has("begin a")
    # As after a claim whose reply never came
    _, driving = worker._actors._driven[handle.id]
    with caplog.at_level(logging.WARNING):
        driving.cancel()
        await eventually(
            lambda: site.app.ledger.count()["begin a"] == 2, what="the run, claimed again"
        )
    assert f"released run {handle.id}" in caplog.text
    site.gate("a").set()
    assert await handle.wait_for_completion(60) == "a"


# How it stops


async def test_a_drain_lets_steps_be_recorded_and_hands_the_others_back_at_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @task(retry=fixed(2, 2))
    async def fails_first() -> str:
        site.app.ledger.note(f"attempt {current_step().attempt}")
        if current_step().attempt == 1:
            raise ConnectionError
        return "retried"

    async def handler(run: Run) -> str:
        return await fails_first.start(run)

    waiting_v1 = workflow("waiting").v("1.0.0", exec=handler)
    worker = await site.app.serve(site.wf, waiting_v1, inline_wait=5)
    executing = await site.v1.start(site.app.client, "a")
    waiting = await waiting_v1.start(site.app.client)
    await site.has("begin a", "attempt 1")
    await eventually(waiting.journal, what="the recorded attempt")
    stopping = asyncio.create_task(worker.stop())
    await becomes(waiting, Status.QUEUED)
    await eventually(lambda: "waits for the steps of 1 runs, 30 s at most" in caplog.text)
    assert (await executing.status()).status is Status.RUNNING
    site.gate("a").set()
    await stopping
    assert (await executing.status()).status is Status.QUEUED
    assert await outcomes(executing) == [("gated", "completed")]
    assert "after a" not in site.app.ledger.lines(), "no step starts in a drain"
    await site.app.serve(site.wf, waiting_v1)
    assert await executing.wait_for_completion(60) == "a"
    assert await waiting.wait_for_completion(60) == "retried"
    assert set(site.app.ledger.count().values()) == {1}


async def test_what_outlasts_the_grace_is_executed_again_elsewhere(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await site.app.serve(site.wf)
    handle = await site.v1.start(site.app.client, "a")
    await site.has("begin a")
    with caplog.at_level(logging.WARNING):
        await worker.stop(grace=0.05)
    assert "hands 1 runs back whose steps did not end within 0.05 s" in caplog.text
    site.gate("a").set()
    await site.app.serve(site.wf, client=await site.app.connect())
    assert await handle.wait_for_completion(60) == "a"
    assert site.app.ledger.count()["begin a"] == 2
    (step, _) = await handle.journal()
    assert step.attempts == 1, "nothing is charged"


async def test_a_run_claimed_in_the_moment_of_the_stop_is_handed_back_too(site: Site) -> None:
    """Stop after so many turns of the loop, wherever the claim then is."""
    handles = [await site.v1.start(site.app.client, str(n)) for n in range(20)]
    for turns in range(20):
        worker = site.app.worker(site.wf, max_concurrent_workflow_runs=20)
        await worker.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        stopping = asyncio.create_task(worker.stop(grace=2))
        for gate in site.gates.values():
            gate.set()
        await asyncio.wait_for(stopping, 60)
        # A step whose gate opens before the stop gets to it may be the last of its run.
        found = {(await handle.status()).status for handle in handles}
        assert found <= {Status.QUEUED, Status.COMPLETED}
        site.gates.clear()
    for n in range(20):
        site.gate(str(n)).set()
    await site.app.serve(site.wf)
    for n, handle in enumerate(handles):
        assert await handle.wait_for_completion(60) == str(n)


async def test_a_stopped_worker_can_start_again_under_another_name(site: Site) -> None:
    site.gate("a").set()
    worker = site.app.worker(site.wf)
    lives: set[str] = set()
    for _ in range(2):
        async with worker:
            lives.add(worker.incarnation)
            assert await site.app.result(site.v1.bind("a")) == "a"
    assert len(lives) == 2
    assert await site.app.client.store.workers.list() == []
    await worker.stop()  # once more does nothing


async def test_run_executes_until_it_is_asked_to_stop(site: Site) -> None:
    site.gate("a").set()
    worker = site.app.worker(site.wf)
    running = asyncio.create_task(worker.run())
    assert await site.app.result(site.v1.bind("a")) == "a"
    assert not running.done()
    worker.request_stop()
    await asyncio.wait_for(running, 60)


async def test_keyboard_interrupt_stops_the_worker_and_charges_nothing(site: Site) -> None:
    interrupts = [True]

    @task(retry=fixed(3, 0))
    async def interrupted() -> int:
        if interrupts:
            raise KeyboardInterrupt
        return current_step().attempt

    @task(retry=fixed(3, 0))
    def interrupted_in_thread() -> int:
        if interrupts:
            raise KeyboardInterrupt
        return current_step().attempt

    async def handler(run: Run) -> list[int]:
        return [await interrupted.start(run)]

    async def other_handler(run: Run) -> list[int]:
        return [await interrupted_in_thread.start(run)]

    versions = (
        workflow("interrupted").v("1.0.0", exec=handler),
        workflow("in-thread").v("1.0.0", exec=other_handler),
    )
    for version in versions:
        interrupts.append(True)
        worker = site.app.worker(version)
        await worker.start()
        handle = await version.start(site.app.client)
        await asyncio.wait_for(worker.stopping.wait(), 60)
        await becomes(handle, Status.QUEUED)
        later = await version.start(site.app.client)
        assert (await later.status()).status is Status.QUEUED, "it claims nothing more"
        with pytest.raises(KeyboardInterrupt):
            await worker.stop()
        interrupts.clear()
        await site.app.serve(version)
        assert await handle.wait_for_completion(60) == [1]
        assert await later.wait_for_completion(60) == [1]


async def test_a_drain_does_not_wait_for_a_step_that_was_interrupted_meanwhile(site: Site) -> None:
    begun, go_on = threading.Event(), [threading.Event(), threading.Event()]

    @task
    def interrupted(number: int) -> None:
        if number:
            begun.set()
        go_on[number].wait(60)
        raise KeyboardInterrupt

    async def handler(run: Run, number: int) -> None:
        await interrupted.start(run, number)

    version = workflow("interrupted").v("1.0.0", exec=handler)
    worker = site.app.worker(version)
    await worker.start()
    handles = [await version.start(site.app.client, number) for number in range(2)]
    await eventually(begun.is_set)
    go_on[0].set()
    await eventually(worker.stopping.is_set)
    # By then the drain waits for the other one
    asyncio.get_running_loop().call_later(0.2, go_on[1].set)
    async with asyncio.timeout(50):
        with pytest.raises(KeyboardInterrupt):
            await worker.stop(grace=60)
    for handle in handles:
        assert (await handle.status()).status is Status.QUEUED


async def test_a_failure_in_the_background_is_logged_at_once_and_raised_by_stop(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise RuntimeError("no house to keep")

    worker = site.app.worker(site.wf)
    with caplog.at_level(logging.ERROR):
        await worker.start()
        worker._spawn(broken())
        await asyncio.wait_for(worker.stopping.wait(), 60)
    assert "no house to keep" in caplog.text
    with pytest.raises(RuntimeError, match="no house to keep"):
        await worker.stop()
    await worker.stop()  # told once
