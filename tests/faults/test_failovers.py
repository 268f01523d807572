"""A primary that dies, comes back as a replica, or is told to change places with one.

Clients, workers and supervisors ask the sentinels where the primary is. Nobody is restarted.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from aiki.client import Client
from aiki.errors import StoreUnavailable
from aiki.states import Status
from tests.faults.site import site_at
from tests.faults.traffic import traffic_on
from tests.support.replicated import Replicated, Server, kill, replicated, until
from tests.support.waiting import eventually

LONG = 60.0


async def died(service: Replicated, primary: Server) -> None:
    """End the primary as a power cut would, and wait for another one."""
    kill(primary)
    await eventually(lambda: service.primary() is not primary, LONG, "another primary")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["", "?durability=replicated"])
async def test_runs_complete_while_primaries_die_again_and_again(
    tmp_path: Path, level: str
) -> None:
    with replicated(tmp_path / "service") as service:
        async with site_at(tmp_path, url=service.url + level) as site, traffic_on(site) as traffic:
            for _ in range(2):
                primary = service.primary()
                await died(service, primary)
                began = time.monotonic()  # how long an election takes is the sentinels' affair
                await traffic.flows()
                assert time.monotonic() - began < LONG / 2
                primary.start()
                await asyncio.to_thread(service.is_whole, 2)
                assert primary.errors("READONLY") == 0


@pytest.mark.slow
async def test_a_primary_that_changes_places_with_a_replica_is_followed(tmp_path: Path) -> None:
    with replicated(tmp_path / "service") as service:
        async with site_at(tmp_path, url=service.url) as site, traffic_on(site) as traffic:
            primary = service.primary()
            # Nothing that is acknowledged by then may be missing at its successor.
            service.hand_over()
            await eventually(lambda: service.primary() is not primary, LONG, "another primary")
            await traffic.flows()
            # Each connection is told once at most that it is at the wrong place: some soon, and
            # those that write rarely when they do.
            await eventually(lambda: primary.replication()["role"] == "slave")

            async def is_left() -> bool:
                told = primary.errors("READONLY")
                await traffic.flows()
                return primary.errors("READONLY") == told

            await eventually(is_left, LONG, "a primary that was left")


@pytest.mark.slow
async def test_a_client_follows_the_sentinels_of_the_majority(tmp_path: Path) -> None:
    with replicated(tmp_path / "service", replicas=1) as service:
        async with site_at(tmp_path, url=service.url) as site:
            first, *others = service.sentinels
            primary = service.primary()
            before = site.client.store.address.whereabouts
            assert str(primary.port) in before
            # One sentinel stands still, and goes on believing in the old primary.
            first.signal(signal.SIGSTOP)
            kill(primary)
            await asyncio.to_thread(until, lambda: others[0].primary() != primary.port)
            handle = await site.start("after the failover")
            assert site.client.store.address.whereabouts != before
            # It wakes up; whoever asks now is not sent back.
            first.signal(signal.SIGCONT)
            async with site.make_client() as other:
                assert (await other.handle(handle.id).status()).status is Status.QUEUED


async def test_without_a_sentinel_that_knows_it_is_said_who_was_asked(tmp_path: Path) -> None:
    with replicated(tmp_path / "service", replicas=0) as service:
        client = Client(service.url.replace("/runs", "/other"))
        with pytest.raises(StoreUnavailable, match="watches no service 'other'"):
            await client.connect()
