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

from tests.faults.site import site_at, stop
from tests.faults.traffic import Traffic, at_rest

# Runs out while the server is away; elsewhere a busy machine shall not let it.
SHORT_LEASE = ("--lease", "2500ms", "--heartbeat", "500ms")


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
            async with at_rest(found):
                await asyncio.sleep(away)  # the fault
            site.server.start()
            assert site.server.pid != before
            back = time.monotonic()
            await site.is_alive(1)
            assert time.monotonic() - back < 25.0
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
                missed = flushed = 0
                while missed <= 10 or flushed < 20:
                    await admin.script_flush()
                    await asyncio.sleep(0.1)
                    stats = await admin.info("errorstats")
                    missed = stats.get("errorstat_NOSCRIPT", {"count": 0})["count"]
                    flushed += 1
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
                cut: list[int] = []
                while len(cut) < 12 or sum(cut) <= 12:
                    cut.append(await admin.client_kill_filter(_type=kind, skipme=True) or 0)
                    await asyncio.sleep(0.25)
            await traffic.end()
