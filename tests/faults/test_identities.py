"""Process ids that are used again, and a data directory that is used by many."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from aiki.process import this_host
from aiki.store.workers import AboutWorker
from tests.faults.site import has_ended, site_at
from tests.faults.workload import Order, order_v1
from tests.support.embedded_users import servers
from tests.support.store import Scene

STREAM = "ready:orders/1.0.0/default"


async def test_a_foreign_process_with_the_pid_of_a_dead_worker_is_left_alone(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        # A worker of this host died, and its pid belongs to somebody else by now.
        with psutil.Popen(["sleep", "600"]) as foreign:
            try:
                born = foreign.create_time()
                about = AboutWorker("late", this_host(), foreign.pid, born - 100.0)
                await site.client.store.workers.register("late", 600.0, about, (STREAM,))
                handle = await site.start("a")
                scene = Scene(site.client.store)
                await scene.take("late")
                with site.supervised("--lease", "600s", workers=1) as found:
                    await found.serves()
                    (story,) = await site.complete([handle])
                    assert story.epoch == 3
                    await site.is_consistent(workers=1)
                    await site.ends(found)
                assert foreign.poll() is None
            finally:
                foreign.kill()


@pytest.mark.slow
async def test_a_living_worker_of_another_supervisor_is_left_alone(tmp_path: Path) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised(name="first") as first:
            await first.serves()
            handle = await site.start("a", charge="gate:open")
            await site.under_way(handle, "charge")
            with site.supervised(name="second") as second:
                await second.serves()
                await site.is_consistent(workers=4)
                site.open("open")
                (story,) = await site.complete([handle])
                assert story.is_undisturbed()
                await site.ends(second, remaining=2)
            await site.is_alive()
            await site.ends(first)


async def test_supervisors_and_clients_of_one_directory_share_one_server_until_the_last_leaves(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path, embedded=True) as site:
        with (
            site.supervised(name="first", workers=1) as first,
            site.supervised(name="second", workers=1) as second,
        ):
            # Ten more who come at the same time.
            clients = [site.make_client() for _ in range(10)]
            await asyncio.gather(*(client.connect() for client in clients))
            await first.serves()
            await second.serves()
            (server,) = servers(tmp_path)
            handles = [await order_v1.start(client, Order("n")) for client in clients]
            for client in clients:
                await client.aclose()
            await site.complete([site.handle(handle.id) for handle in handles])
            await site.is_consistent(workers=2)
            await site.ends(first, remaining=1)
            await site.is_alive()
            assert servers(tmp_path) == [server]
            await site.ends(second)
        assert servers(tmp_path) == [server]
    await has_ended(server)
    assert servers(tmp_path) == []
