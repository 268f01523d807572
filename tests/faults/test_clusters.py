"""A store in a cluster: its slots on other nodes, on their way to some, or on one that dies."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from aiki.handle import Handle
from aiki.states import Status
from aiki.store.keys import partition_of
from tests.faults.site import Site, site_at
from tests.faults.test_failovers import LONG
from tests.faults.traffic import ends_well, traffic_on
from tests.faults.workload import Receipt
from tests.support.cluster import PRIMARIES, SLOT, Cluster, cluster, slot_of
from tests.support.replicated import ask, kill
from tests.support.waiting import eventually


async def arrives(found: Cluster, port: int, slot: str = SLOT) -> None:
    """Wait until all who live know that a slot is there."""

    def everybody_knows() -> bool:
        return all(found.holder(each, slot=slot).port == port for each in found.servers)

    await eventually(everybody_knows, LONG, "the slot's arrival")


@pytest.mark.slow
async def test_runs_complete_while_the_slot_moves(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        async with site_at(tmp_path, url=found.url) as site, traffic_on(site) as traffic:
            # Key by key. Whoever followed the slot would find half a store.
            source, target = found.holder(), found.others()[0]
            found.begin_move(source, target)
            assert await asyncio.to_thread(found.move_keys, source, target) > 0
            await eventually(lambda: source.errors("ASK") > 0)
            found.end_move(source, target)
            await arrives(found, target.port)
            await traffic.flows()
            assert source.errors("ASK") > 0
            assert source.errors("MOVED") > 0
            assert target.errors("TRYAGAIN") == 0
            # All at once, where the server can.
            source, target = target, source
            name = found.name(target.port)
            ask(source.port, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", name)
            await arrives(found, target.port)
            await traffic.flows()


@pytest.mark.slow
async def test_runs_complete_when_the_node_of_their_slot_dies(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        async with site_at(tmp_path, url=found.url) as site, traffic_on(site) as traffic:
            holder = found.holder()
            kill(holder)
            await eventually(lambda: found.holder() is not holder, LONG, "another holder")
            await traffic.flows()
            holder.start()
            await eventually(lambda: holder.replication()["role"] == "slave", LONG)
            await traffic.flows()
            assert holder.errors("READONLY") == 0


# Several partitions

COUNT = 4
PARTITIONS = f"?partitions={COUNT}"
# Else all nodes stop, when one is gone, or a replica that comes back with it takes over what it has
# just acknowledged.
PARTIAL = ("--cluster-require-full-coverage", "no", "--cluster-replica-no-failover", "yes")
LEASE = ("--heartbeat", "0.5s", "--lease", "4s")


async def one_in_each(site: Site, **how: str) -> list[Handle[Receipt]]:
    """Start orders until there is one in each partition; give those, in their order."""
    found: dict[int, Handle[Receipt]] = {}
    while len(found) < COUNT:
        handle = await site.start(f"first-{len(site.started)}", **how)
        found[partition_of(handle.id) or 0] = handle
    return [found[number] for number in range(COUNT)]


@pytest.mark.slow
async def test_partitions_are_spread_over_the_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        async with site_at(tmp_path, url=found.url + PARTITIONS) as site:
            with site.supervised() as supervisor:
                await supervisor.serves()
                workers = await supervisor.has_workers(2)
                await site.complete(await site.start_many(40), within=LONG)
                holders = [found.holder(slot=slot_of(number)) for number in range(COUNT)]
                assert len(set(holders)) == PRIMARIES
                for number, holder in enumerate(holders):
                    keys = holder.ask("CLUSTER", "COUNTKEYSINSLOT", slot_of(number))
                    assert keys >= 2 * 10, "records and journals of a quarter of the orders"
                    assert holder.errors("CROSSSLOT") == holder.errors("MOVED") == 0
                assert sum([len(await _ids(site, status)) for status in Status]) == 40
                await ends_well(site, supervisor, workers)


@pytest.mark.slow
async def test_the_slot_of_one_partition_moves_under_load(tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster") as found:
        url = found.url + PARTITIONS
        async with site_at(tmp_path, url=url) as site, traffic_on(site) as traffic:
            slot = slot_of(2)
            source, target = found.holder(slot=slot), found.others(slot=slot)[0]
            found.begin_move(source, target, slot=slot)
            assert await asyncio.to_thread(found.move_keys, source, target, slot=slot) > 0
            await eventually(lambda: source.errors("ASK") > 0)
            found.end_move(source, target, slot=slot)
            await arrives(found, target.port, slot)
            await traffic.flows()
            assert target.errors("TRYAGAIN") == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_partitions_without_a_node_wait_and_hold_up_no_other(
    tmp_path: Path, how: str
) -> None:
    with cluster(tmp_path / "cluster", *PARTIAL) as found:
        async with site_at(tmp_path, url=found.url + PARTITIONS) as site:
            with site.supervised(*LEASE) as supervisor:
                await supervisor.serves()
                workers = await supervisor.has_workers(2)
                held = await one_in_each(site, charge="gate:held")
                for each in held:
                    await site.under_way(each, "charge")
                # When the node of one partition is gone, and who would take its place, for longer
                # than leases last
                lost = found.holder(slot=slot_of(0))
                gone = [lost, found.replica_of(lost)]
                numbers = {n for n in range(COUNT) if found.holder(slot=slot_of(n)) is lost}
                assert 0 < len(numbers) < COUNT
                for server in gone:
                    kill(server) if how == "killed" else server.signal(signal.SIGSTOP)
                # Who asks nothing of a server does not notice that it is silent.
                asking = [asyncio.create_task(held[number].status()) for number in numbers]
                await eventually(lambda: not _reach(site) & numbers, LONG, "who notices")
                # Then all that is kept elsewhere goes on: what is under way, and what is new
                site.open("held")
                there = [each for n, each in enumerate(held) if n not in numbers]
                assert all(each.is_undisturbed() for each in await site.complete(there))
                for _ in range(3):
                    new = await site.start_many(10)
                    assert not {partition_of(each.id) for each in new} & numbers
                    stories = await site.complete(new)
                    assert all(each.is_undisturbed() for each in stories)
                    await asyncio.sleep(2)  # the leases of the others are renewed meanwhile
                assert supervisor.workers() == workers
                # And when it is back, what has waited there goes on too
                for server in gone:
                    server.start() if how == "killed" else server.signal(signal.SIGCONT)
                await site.complete([each for n, each in enumerate(held) if n in numbers])
                await asyncio.gather(*asking)
                await ends_well(site, supervisor, workers)


async def _ids(site: Site, status: Status) -> list[str]:
    return [run.id async for run in site.client.runs(status=status)]


def _reach(site: Site) -> set[int]:
    """Name the partitions that the client is connected to."""
    return {each.number for each in site.client.partitions.all if each.link.is_ready}
