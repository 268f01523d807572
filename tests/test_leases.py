"""A worker that loses its lease, or whose loop stands still."""

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aiki import AikiError, Run, Status, task, workflow
from aiki.heartbeat import Heartbeat
from tests.support.app import App, outcomes
from tests.support.ledger import Ledger
from tests.support.waiting import eventually


class Site:
    """A run whose first step waits at a gate, the first time it is executed."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.gate = asyncio.Event()

        @task
        async def gated() -> int:
            app.ledger.note("begin")
            times = app.ledger.count()["begin"]
            if times == 1:
                await self.gate.wait()
            return times

        @task
        async def after(times: int) -> int:
            app.ledger.note(f"after {times}")
            return times

        async def handler(run: Run) -> int:
            try:
                return await after.start(run, await gated.start(run))
            finally:
                app.ledger.note("left")

        self.v1 = workflow("gated").v("1.0.0", exec=handler)

    def was_left_before_it_was_begun_again(self) -> None:
        """Check that the run was executed twice, one after the other, and its second step once."""
        lines = self.app.ledger.lines()
        assert lines[:3] == ["begin", "left", "begin"]
        assert [line for line in lines if line != "left"] == ["begin", "begin", "after 2"]


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_an_owner_that_was_given_up_changes_nothing_and_says_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    # Its one slot is taken, so it does not hear of its own end from the next claim.
    zombie = await site.app.serve(
        site.v1, client=await site.app.connect(), heartbeat=20, max_concurrent_workflow_runs=1
    )
    handle = await site.v1.start(site.app.client)
    await eventually(site.app.ledger.lines)
    await site.app.give_up(zombie, handle)
    await site.app.serve(site.v1)
    assert await handle.wait_for_completion(60) == 2
    with caplog.at_level(logging.WARNING):
        site.gate.set()  # it wakes, and its commit is refused
        await eventually(lambda: zombie.hosted == 0, what="the end of its actor")
    said = [record for record in caplog.records if record.name.startswith("aiki")]
    assert [each for each in said if "stood still" not in each.getMessage()] == []
    assert await handle.wait_for_completion(60) == 2
    assert [step.result for step in await handle.journal()] == [2, 2]
    assert site.app.ledger.count()["after 1"] == 0
    assert site.app.ledger.lines()[-1] == "left"


async def test_a_worker_that_lost_its_lease_drops_its_runs_and_lives_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await site.app.serve(site.v1, heartbeat=0.05)
    handle = await site.v1.start(site.app.client)
    await eventually(site.app.ledger.lines)
    with caplog.at_level(logging.WARNING):
        first_life = await site.app.give_up(worker, handle)
        assert await handle.wait_for_completion(60) == 2
    assert "lost its lease" in caplog.text
    assert first_life not in worker.incarnations
    store = site.app.client.partitions.of(handle.id)
    assert [each.incarnation for each in await store.workers.list()] == [
        worker.incarnations[store.number]
    ]
    site.was_left_before_it_was_begun_again()


@pytest.mark.plain_only("it is about one life")
async def test_a_step_that_waits_for_a_thread_is_begun_only_while_the_lease_lasts(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was stopped, say, while the step was in line."""
    opened, leased, looked = threading.Event(), threading.Event(), threading.Event()
    leased.set()

    @task
    def gated(name: str) -> str:
        app.ledger.note(name)
        opened.wait(60)
        return name

    async def handler(run: Run) -> list[str]:
        return list(await asyncio.gather(gated.start(run, "a"), gated.start(run, "b")))

    def is_leased(_: Heartbeat) -> bool:
        looked.set()
        return leased.is_set()

    version = workflow("two").v("1.0.0", exec=handler)
    monkeypatch.setattr(Heartbeat, "is_leased", property(is_leased))
    worker = await app.serve(version, max_concurrent_workflow_runs=1)  # and one thread
    handle = await version.start(app.client)
    threads = worker._threads
    assert threads is not None
    await eventually(
        lambda: threads._load == 2 and app.ledger.lines() == ["a"], what="one step in line"
    )
    leased.clear()
    looked.clear()
    opened.set()
    assert await asyncio.to_thread(looked.wait, 60)
    assert app.ledger.lines() == ["a"]
    leased.set()
    assert await handle.wait_for_completion(60) == ["a", "b"]
    assert app.ledger.lines() == ["a", "b"]


async def test_an_older_actor_of_a_run_ends_before_a_newer_one_begins(site: Site) -> None:
    """Given up and claimed again by the same worker, before it has heard of it."""
    worker = await site.app.serve(site.v1, heartbeat=20)
    handle = await site.v1.start(site.app.client)
    await eventually(site.app.ledger.lines)
    store = site.app.client.partitions.of(handle.id)
    snapshot = await store.runs.snapshot(handle.id, timeout=10)
    life = worker.incarnations[store.number]
    await store.runs.release(handle.id, str(snapshot.epoch), life)
    assert await handle.wait_for_completion(60) == 2
    site.was_left_before_it_was_begun_again()
    await eventually(lambda: worker.hosted == 0)


@pytest.mark.plain_only("executes nothing")
async def test_a_store_that_was_emptied_ends_the_worker_and_is_not_filled_again(
    site: Site,
) -> None:
    worker = site.app.worker(site.v1, client=await site.app.connect(), heartbeat=0.05)
    await worker.start()
    link, base = site.app.client.store.link, f"aiki:{site.app.namespace}:{{0}}:"
    for key in await link.send(("KEYS", f"{base}*")):
        await link.send(("DEL", key))
    await asyncio.wait_for(worker.stopping.wait(), 60)
    with pytest.raises(AikiError, match="flushed, restored or replaced"):
        await worker.stop()
    assert await link.send(("EXISTS", f"{base}meta", f"{base}workers")) == 0


async def test_a_loop_that_stands_still_is_reported_with_what_it_does(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiki.heartbeat.LAG", 0.3)

    @task
    async def stands_still() -> None:
        time.sleep(1.5)  # noqa: ASYNC251 - that is the point

    async def handler(run: Run) -> None:
        await stands_still.start(run)

    version = workflow("still").v("1.0.0", exec=handler)
    worker = await app.serve(version, heartbeat=0.05)
    life = worker.incarnation
    with caplog.at_level(logging.WARNING):
        await app.result(version.bind())
    told = [r.getMessage() for r in caplog.records if "stood still" in r.getMessage()]
    reports = [each for each in told if "in stands_still" in each]  # a busy machine adds others
    assert len(reports) == 1, "once is enough"
    assert "time.sleep(1.5)" in reports[0]
    assert worker.incarnation == life, "it was not still for long enough to lose its lease"


async def test_a_loop_that_stands_still_for_too_long_costs_the_worker_its_runs(
    app: App, tmp_path: Path
) -> None:
    """Its lease runs out, a worker in another thread takes the run, and it is fenced."""
    ledger = Ledger(tmp_path / "other-ledger")
    is_done, main = threading.Event(), threading.current_thread()

    @task
    async def stands_still() -> str:
        thread = threading.current_thread()
        ledger.note("first" if thread is main else "second")
        if thread is main:
            is_done.wait(60)
        return "first" if thread is main else "second"

    async def handler(run: Run) -> str:
        return await stands_still.start(run)

    version = workflow("still").v("1.0.0", exec=handler)
    handle = await version.start(app.client)

    def rescue() -> None:
        async def serve() -> None:
            await eventually(ledger.lines, what="the first owner")
            other = App(app.url, app.namespace, tmp_path)
            await other.open()
            await other.serve(version, heartbeat=0.2, lease=2.0)
            try:
                await other.client.handle(handle.id).wait_for_completion(60)
            finally:
                is_done.set()
                await other.close()

        asyncio.run(serve())

    rescuing = threading.Thread(target=rescue)
    rescuing.start()
    worker = await app.serve(version, heartbeat=0.2, lease=2.0, hang_timeout=0.5)
    life = worker.incarnation
    assert await handle.wait_for_completion(60) == "second"
    assert ledger.lines() == ["first", "second"]
    await asyncio.to_thread(rescuing.join)
    await eventually(lambda: worker.incarnation != life, what="another life")
    assert (await handle.status()).status is Status.COMPLETED
    assert await outcomes(handle) == [("stands-still", "completed")]


async def test_a_worker_that_was_given_up_before_it_heard_that_it_is_registered_begins_anew(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = app.client.store.workers
    register, given_up = workers.register, list[str]()

    async def answered_after_a_lease(incarnation: str, *about: Any) -> str:
        word = await register(incarnation, *about)
        if given_up:
            return word
        given_up.append(incarnation)
        await workers.recover(incarnation, cause="its lease ran out")
        return await register(incarnation, *about)  # as it is sent again for want of an answer

    monkeypatch.setattr(workers, "register", answered_after_a_lease)
    site = Site(app)
    worker = await app.serve(site.v1)
    assert worker.incarnation not in given_up
    site.gate.set()
    assert await app.result(site.v1.bind()) == 1
