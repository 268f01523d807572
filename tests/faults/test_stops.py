"""Workers that are stopped and go on: shorter than their lease, longer, and again and again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from aiki.handle import Handle
from tests.faults.site import kill, serving, stop
from tests.faults.workload import Receipt
from tests.support.store import Scene
from tests.support.supervised import Supervised

# The supervisor would replace a worker that hangs; here its lease alone is to decide.
LEASE = ("--lease", "2500ms", "--heartbeat", "500ms", "--hang-timeout", "60s")


async def test_a_worker_stopped_for_longer_than_its_lease_changes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        workers = await found.has_workers(2)
        scene = Scene(site.client.store)
        handles = await site.start_many(6, charge="gate:open")
        begun = {handle.id: (await site.under_way(handle, "charge"))[0] for handle in handles}
        victim = begun[handles[0].id]
        late, *others = [handle for handle in handles if begun[handle.id] == victim]
        await stop(psutil.Process(victim))
        told = await scene.store.workers.list()
        (incarnation,) = (each.incarnation for each in told if each.pid == victim)
        expires = float(await scene.command("ZSCORE", scene.base + "workers", incarnation))
        for handle in (late, *others):
            pids = await site.under_way(handle, "charge", 2)
            assert pids[0] == victim != pids[1]
        seconds, microseconds = map(int, await scene.command("TIME"))
        assert seconds * 1000 + microseconds / 1000 > expires, "its lease was not over"
        # It wakes when its steps are free to end, and so are those that took their place.
        site.open("open")
        kill(victim, number=signal.SIGCONT)
        stories = await site.complete(handles)
        assert sum(story.epoch > 1 for story in stories) == 1 + len(others)
        # And once more, when all is over.
        last = await site.start("last", charge="gate:last")
        (victim,) = await site.under_way(last, "charge")
        kill(victim, number=signal.SIGSTOP)
        await site.under_way(last, "charge", 2)
        site.open("last")
        await site.complete([last])
        kill(victim, number=signal.SIGCONT)
        await site.is_consistent(workers=2)
        await site.complete([last])
        await site.is_alive()
        assert all(worker.is_running() for worker in workers)
        await site.ends(found)


async def test_a_worker_stopped_for_less_than_its_lease_keeps_its_runs(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "8s") as (site, found):
        handle = await site.start("a", charge="gate:open")
        (victim,) = await site.under_way(handle, "charge")
        await stop(psutil.Process(victim))
        await asyncio.sleep(2.5)  # the fault
        kill(victim, number=signal.SIGCONT)
        site.open("open")
        (story,) = await site.complete([handle])
        assert story.is_undisturbed()
        await site.is_consistent(workers=2)
        await site.ends(found)


async def storm(found: Supervised, rng: random.Random, seconds: float) -> int:
    """Stop and continue workers at random for so long, and three times at least; tell how often."""
    count = 0
    over = time.monotonic() + seconds
    while time.monotonic() < over or count < 3:
        for worker in rng.sample(found.workers(), rng.randint(1, 2)):
            await stop(worker)
            count += 1
        await asyncio.sleep(rng.choice((0.05, 0.3, 3.0)))
        for worker in found.workers():
            kill(worker.pid, number=signal.SIGCONT)
        await asyncio.sleep(rng.uniform(0.05, 0.4))
    return count


@pytest.mark.parametrize("seconds", [4.0, pytest.param(40.0, marks=pytest.mark.slow)])
async def test_workers_stopped_again_and_again_do_everything_once_for_the_record(
    tmp_path: Path, rng: random.Random, seconds: float
) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        workers = await found.has_workers(2)
        storming = asyncio.create_task(storm(found, rng, seconds))
        handles: list[Handle[Receipt]] = []
        while not storming.done():
            handles += await site.start_many(10, f"order{len(handles)}")
            await asyncio.sleep(0.2)
        await site.complete(handles, within=100, stops=await storming)
        await site.is_alive()
        assert all(worker.is_running() for worker in workers)
        await site.is_consistent(workers=2)
        await site.ends(found)
