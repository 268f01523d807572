"""A server that dies, is restarted, stands still, forgets its scripts or drops its connections.

No worker and no supervisor has to be restarted for any of it, and since no worker dies, each step
is executed once.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest
import redis.asyncio

from aiki.handle import Handle
from tests.faults.site import Site, site_at, stop
from tests.faults.workload import Receipt
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

# Runs out while the server is away; elsewhere a busy machine shall not let it.
SHORT_LEASE = ("--lease", "2500ms", "--heartbeat", "500ms")
# Between two starts, so that some order is always between two of its steps.
PACE = 0.02
MORE = 10
LONG = 40.0  # seconds, on a busy machine


class Traffic:
    """Orders under way on a supervisor, while something happens to the server."""

    def __init__(self, site: Site, found: Supervised) -> None:
        self._site = site
        self._found = found
        self._moving: list[Handle[Receipt]] = []
        self._waiting: list[Handle[Receipt]] = []
        self._parked: list[Handle[Receipt]] = []

    async def begin(self) -> None:
        """Have steps under way, runs parked, and orders coming in."""
        self._workers = await self._found.has_workers(2)
        self._waiting = await self._site.start_many(5, "waiting", charge="gate:over")
        self._parked = await self._site.start_many(3, "parked", reserve="fail:over")
        for handle in self._waiting:
            await self._site.under_way(handle, "charge")
        self._starting = asyncio.create_task(self._start())

    async def end(self) -> None:
        """See that everything was done once, by the workers that were there before."""
        begun = len(self._moving)
        more = f"{MORE} orders after the fault"
        await eventually(lambda: len(self._moving) >= begun + MORE, LONG, more)
        self._starting.cancel()
        await asyncio.wait([self._starting])
        self._site.open("over")
        handles = [*self._waiting, *self._moving]
        stories = await self._site.complete(handles, within=LONG)
        assert [story for story in stories if not story.is_undisturbed()] == []
        stories = await self._site.complete(self._parked)
        assert all(story.ends.total() == 5 for story in stories)
        await self._site.is_alive()
        assert self._found.workers() == self._workers
        await self._site.is_consistent(workers=2)
        await self._site.ends(self._found)

    async def _start(self) -> None:
        while True:
            self._moving.append(await self._site.start(f"moving-{len(self._moving)}"))
            await asyncio.sleep(PACE)


def everybody(found: Supervised) -> list[psutil.Process]:
    return [psutil.Process(found.pid), *found.workers()]


def cpu(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


@pytest.mark.parametrize(
    ("how", "policy", "away"),
    [
        ("kill", "everysec", 0.0),
        ("stop", "always", 0.0),
        # For longer than a lease, which ran out for nobody: none could renew it.
        ("kill", "always", 3.0),
        pytest.param("stop", "always", 30.0, marks=pytest.mark.slow),
    ],
)
async def test_a_server_that_is_killed_or_restarted_loses_nothing(
    tmp_path: Path, how: str, policy: str, away: float
) -> None:
    async with site_at(tmp_path, "--appendfsync", policy) as site:
        with site.supervised(*SHORT_LEASE if away > 1 else ()) as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            before = site.server.pid
            if how == "kill":
                site.server.kill()
            else:
                site.server.stop()
            processes = everybody(found)
            lines, spent = len(found.output().splitlines()), cpu(processes)
            await asyncio.sleep(away)  # the fault
            spent, lines = cpu(processes) - spent, len(found.output().splitlines()) - lines
            site.server.start()
            assert site.server.pid != before
            assert spent <= 0.05 * away + 0.2, "a hot loop"
            assert lines <= 10 * away + 10
            back = time.monotonic()
            await site.is_alive(1)
            assert time.monotonic() - back < 10.0
            await traffic.end()


@pytest.mark.parametrize("away", [2.0, pytest.param(9.0, marks=pytest.mark.slow)])
async def test_a_server_that_stands_still_does_what_was_sent_again_once(
    tmp_path: Path, away: float
) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised(*SHORT_LEASE if away > 3 else ()) as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            await stop(psutil.Process(site.server.pid))
            await asyncio.sleep(away)  # the fault
            site.server.signal(signal.SIGCONT)
            await traffic.end()


async def test_scripts_that_are_forgotten_again_and_again_are_missed_by_nobody(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised() as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            async with redis.asyncio.Redis.from_url(site.server.url) as admin:
                for _ in range(20):
                    await admin.script_flush()
                    await asyncio.sleep(0.1)
                stats = await admin.info("errorstats")
                assert stats["errorstat_NOSCRIPT"]["count"] > 10
            await traffic.end()


@pytest.mark.parametrize("kind", ["normal", pytest.param("pubsub", marks=pytest.mark.slow)])
async def test_connections_that_are_cut_again_and_again_cost_nothing_but_time(
    tmp_path: Path, kind: str
) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised() as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            async with redis.asyncio.Redis.from_url(site.server.url) as admin:
                cut: list[int | None] = []
                for _ in range(12):
                    cut.append(await admin.client_kill_filter(_type=kind, skipme=True))
                    await asyncio.sleep(0.25)
            assert sum(each or 0 for each in cut) > 12
            await traffic.end()
