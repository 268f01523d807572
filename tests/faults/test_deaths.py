"""Workers that die, at every point of a step and of a run's life."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from aiki.handle import Handle
from aiki.states import Status
from tests.faults.site import Site, has_ended, kill, serving, site_at
from tests.faults.workload import Receipt
from tests.support.shop import gone
from tests.support.store import ALONE, STREAM, Scene
from tests.support.waiting import eventually

# Where a worker is killed, and how often the step that is under way there then has its effect.
POINTS = {
    "before-body": 1,
    "after-effect": 2,
    "after-commit_step": 1,
    "after-claim_runs": 1,
    "after-finish_run": 1,
}
MORE_POINTS = {"before-claim_runs": 1, "before-commit_step": 2, "before-finish_run": 1}
RETRYING_POINTS = ("before-commit_attempt", "after-park_run")
MORE_RETRYING_POINTS = ("after-commit_attempt", "before-park_run")
# Longer than any wait, so that nothing here is owed to a lease that has run out.
LEASE = ("--lease", "600s")
SLOTS = 4
LONG = 80.0  # seconds, on a busy machine, for workers that are born to die


async def one_has_ended(workers: list[psutil.Process]) -> None:
    await eventually(lambda: not all(w.is_running() for w in workers), what="a death")


@pytest.mark.parametrize("points", [POINTS, pytest.param(MORE_POINTS, marks=pytest.mark.slow)])
async def test_a_worker_killed_anywhere_costs_at_most_the_step_that_was_not_recorded(
    tmp_path: Path, points: dict[str, int]
) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        for point, effects in points.items():
            workers = await found.has_workers(2)
            site.traps.set(point)
            (story,) = await site.complete([await site.start(point)])
            assert max(story.ends.values()) == effects, point
            assert sum(story.ends.values()) == 5 + effects - 1, point
            await one_has_ended(workers)
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


@pytest.mark.parametrize(
    "points", [RETRYING_POINTS, pytest.param(MORE_RETRYING_POINTS, marks=pytest.mark.slow)]
)
async def test_a_worker_killed_around_a_failed_attempt_charges_only_that_attempt(
    tmp_path: Path, points: tuple[str, ...]
) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        handles: list[Handle[Receipt]] = []
        for point in points:
            workers = await found.has_workers(2)
            site.traps.set(point)
            handle = await site.start(point, reserve="fail:well")
            handles.append(handle)
            await one_has_ended(workers)
            await site.comes_to_be(handle, Status.AWAITING_RETRY)
        site.open("well")
        stories = await site.complete(handles)
        assert all(story.starts["reserve"] >= 2 for story in stories)
        await site.is_consistent(workers=2)
        await site.ends(found)


async def test_all_workers_killed_at_once_lose_nothing_and_take_no_more_than_they_can(
    tmp_path: Path,
) -> None:
    slots = ("--max-concurrent-workflow-runs", str(SLOTS))
    async with serving(tmp_path, *LEASE, *slots) as (site, found):
        handles = await site.start_many(5 * SLOTS, charge="gate:open")

        def at_work() -> Counter[int]:
            """Count the charges under way, by living process."""
            alive = {worker.pid for worker in found.workers()}
            charges = [e for e in site.effects() if e.task == "charge"]
            return Counter(e.pid for e in charges if e.phase == "start" and e.pid in alive)

        for _ in range(2):
            await eventually(lambda: at_work().total() == 2 * SLOTS, LONG, "full workers")
            assert max(at_work().values()) == SLOTS
            victims = await found.has_workers(2)
            # Found dead one after the other, they would be charged, and their runs set apart.
            found.send(signal.SIGSTOP)
            kill(*(victim.pid for victim in victims))
            await gone(victims)
            found.send(signal.SIGCONT)
            await has_ended(*victims)
        site.open("open")
        stories = await site.complete(handles)
        assert sum(story.starts["charge"] for story in stories) > len(stories)
        assert all(story.starts["validate"] <= 2 for story in stories)
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


async def poisoned(site: Site, *ways: str) -> None:
    """Have runs kill every worker they meet, and others beside them that only want to end."""
    innocent = await site.start_many(6, "innocent", ship="gate:end")
    for handle in innocent:
        await site.under_way(handle, "ship")
    poison = [await site.start(way, charge=way) for way in ways]
    ids = {handle.id for handle in poison}
    await eventually(
        lambda: [e for e in site.effects() if e.run in ids and e.task == "charge"], LONG, "poison"
    )
    # Those that stand near come into quarantine with it, and end there one after the other.
    site.open("end")
    await site.complete(innocent, within=LONG)
    for handle in poison:
        await site.comes_to_be(handle, Status.STALLED, LONG)
        # Five deaths, of which it shares some with the other poison where there is any.
        starts = await site.under_way(handle, "charge", 3)
        assert len(ways) > 1 or len(starts) == 5
        assert "It ended 5 worker processes" in (await handle.status()).reason
    await site.is_alive()
    for handle in poison:
        assert await handle.cancel("poison") is Status.CANCELLED


@pytest.mark.parametrize("way", ["fault:never", "abort:never"])
async def test_a_run_that_crashes_every_worker_stalls_and_the_others_complete(
    tmp_path: Path, way: str
) -> None:
    async with serving(tmp_path) as (site, found):
        await poisoned(site, way)
        await site.is_consistent(workers=2)
        await site.ends(found)


async def suspected(site: Site, poison: list[Handle[Receipt]]) -> None:
    """Let runs end four workers, the last two in quarantine: one more, and they stall."""
    scene = Scene(site.client.store)
    for stream in (STREAM, STREAM, ALONE, ALONE):
        incarnation = await scene.register()
        for entry in await scene.deliver(incarnation, stream):
            await scene.claim(entry, incarnation, quarantine=stream == ALONE)
        assert len(await scene.kill(incarnation)) == len(poison)
    assert await scene.members("quarantine") == sorted(handle.id for handle in poison)


async def test_quarantined_runs_have_never_more_processes_than_there_are_workers(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        poison = [await site.start(f"poison-{n}", validate="exit:never") for n in range(2)]
        await suspected(site, poison)
        with site.supervised("--log-level", "debug", workers=1) as found:
            for handle in poison:
                await site.comes_to_be(handle, Status.STALLED, LONG)
            begun = [await site.under_way(handle, "validate") for handle in poison]
            assert [len(pids) for pids in begun] == [1, 1]
            life = r"quarantine worker \S+ \(pid (\d+)\) (is starting|ended|was killed)"
            lives = re.findall(life, found.output())
            alive: set[str] = set()
            for pid, what in lives:
                alive = alive | {pid} if what == "is starting" else alive - {pid}
                assert len(alive) <= 1, lives
            assert {str(pid) for pids in begun for pid in pids} <= {pid for pid, _ in lives}
            for handle in poison:
                assert await handle.cancel("poison") is Status.CANCELLED
            await site.is_alive()
            await site.ends(found)


@pytest.mark.slow
async def test_three_runs_that_crash_every_worker_in_three_ways_stall(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, found):
        await poisoned(site, "exit:never", "abort:never", "fault:never")
        await site.is_consistent(workers=2)
        await site.ends(found)


@pytest.mark.slow
async def test_a_crash_that_is_over_leaves_no_trace_on_the_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, found):
        handle = await site.start("unlucky", charge="abort:well")
        await site.under_way(handle, "charge", 3)
        site.open("well")
        (story,) = await site.complete([handle])
        assert story.starts["charge"] >= 3
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)
