"""Faults that come together, such as a worker that dies while the store is away."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.site import has_ended, kill, serving, site_at, stop

LEASE = ("--lease", "2500ms", "--heartbeat", "500ms")


async def test_what_a_worker_held_that_died_while_the_store_was_away_is_given_back_when_it_returns(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--lease", "60s") as (site, found):
        handles = await site.start_many(6, charge="gate:open")
        pids = {(await site.under_way(handle, "charge"))[0] for handle in handles}
        site.server.kill()
        victims = [psutil.Process(pid) for pid in pids]
        kill(*pids)
        await has_ended(*victims)
        await found.has_workers(2)
        site.server.start()
        back = time.monotonic()
        for handle in handles:
            await site.under_way(handle, "charge", 2)
        assert time.monotonic() - back < 40  # and not when a lease is over
        site.open("open")
        stories = await site.complete(handles)
        assert all(story.starts["validate"] == 1 for story in stories)
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


@pytest.mark.slow
async def test_a_supervisor_that_is_to_end_while_the_store_is_away_ends(tmp_path: Path) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised(*LEASE, "--grace", "500ms") as found:
            await found.serves()
            handles = await site.start_many(6, charge="gate:open")
            for handle in handles:
                await site.under_way(handle, "charge")
            site.server.kill()
            found.send(signal.SIGTERM)
            assert await found.ends() == 0
            await found.leaves_nothing()
        site.server.start()
        site.open("open")
        with site.supervised(*LEASE, name="next") as found:
            stories = await site.complete(handles)
            assert all(story.starts["charge"] == 2 for story in stories)
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.slow
async def test_a_machine_that_was_suspended_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        handles = await site.start_many(6, charge="gate:open")
        for handle in handles:
            await site.under_way(handle, "charge")
        everything = [
            *await found.has_workers(2),
            psutil.Process(found.pid),
            psutil.Process(site.server.pid),
        ]
        for process in everything:
            await stop(process)
        await asyncio.sleep(4.0)  # the fault, longer than a lease
        for process in reversed(everything):
            kill(process.pid, number=signal.SIGCONT)
        await asyncio.sleep(3.0)  # in which whoever was to be taken for dead would be
        site.open("open")
        stories = await site.complete(handles)
        assert [story for story in stories if not story.is_undisturbed()] == []
        assert found.workers() == everything[:2]
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


async def test_a_supervisor_that_was_stopped_finds_what_happened_meanwhile(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "60s") as (site, found):
        handle = await site.start("a", charge="gate:open")
        (pid,) = await site.under_way(handle, "charge")
        victim, supervisor = psutil.Process(pid), psutil.Process(found.pid)
        await stop(supervisor)
        await site.is_alive()
        kill(pid)
        await asyncio.sleep(1.0)  # in which nobody reaps it
        kill(found.pid, number=signal.SIGCONT)
        await site.under_way(handle, "charge", 2)
        await has_ended(victim)
        site.open("open")
        await site.complete([handle])
        await site.is_consistent(workers=2)
        await site.ends(found)
