"""A store in a cluster: its slot on another node, on its way to one, or on one that dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.site import site_at
from tests.faults.test_failovers import LONG, Stream, ends_well
from tests.support.cluster import SLOT, Cluster, cluster
from tests.support.replicated import ask, kill
from tests.support.waiting import eventually


async def arrives(found: Cluster, port: int) -> None:
    """Wait until all who live know that our slot is there."""

    def everybody_knows() -> bool:
        return all(found.holder(each).port == port for each in found.servers)

    await eventually(everybody_knows, LONG, "the slot's arrival")


@pytest.mark.slow
async def test_runs_complete_while_the_slot_moves(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        async with site_at(tmp_path, url=found.url) as site:
            with site.supervised() as supervisor:
                await supervisor.serves()
                workers = await supervisor.has_workers(2)
                stream = Stream(site)
                await stream.begin()
                # Key by key. Whoever followed the slot would find half a store.
                source, target = found.holder(), found.others()[0]
                found.begin_move(source, target)
                assert await asyncio.to_thread(found.move_keys, source, target) > 0
                await eventually(lambda: source.errors("ASK") > 0)
                found.end_move(source, target)
                await arrives(found, target.port)
                await stream.goes_on()
                assert source.errors("ASK") > 0
                assert source.errors("MOVED") > 0
                assert target.errors("TRYAGAIN") == 0
                # All at once, where the server can.
                source, target = target, source
                name = found.name(target.port)
                ask(source.port, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", name)
                await arrives(found, target.port)
                await stream.goes_on()
                await stream.end()
                await ends_well(site, supervisor, workers)


@pytest.mark.slow
async def test_runs_complete_when_the_node_of_their_slot_dies(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        async with site_at(tmp_path, url=found.url) as site:
            with site.supervised() as supervisor:
                await supervisor.serves()
                workers = await supervisor.has_workers(2)
                stream = Stream(site)
                await stream.begin()
                holder = found.holder()
                kill(holder)
                await eventually(lambda: found.holder() is not holder, LONG, "another holder")
                await stream.goes_on()
                holder.start()
                await eventually(lambda: holder.replication()["role"] == "slave", LONG)
                await stream.goes_on()
                assert holder.errors("READONLY") == 0
                await stream.end()
                await ends_well(site, supervisor, workers)
