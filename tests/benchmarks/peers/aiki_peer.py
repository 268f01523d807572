"""aiki itself: a supervisor with two workers, and the embedded store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psutil

from aiki import Client, Handle, Run, start_many, task, workflow
from aiki.valkey_setup import Durability
from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site
from tests.support.embedded_users import record
from tests.support.supervised import is_worker

_PATIENCE = 60.0


@task
async def step(name: str, order: Order) -> str:
    return await act_async(name, order)


orders = workflow("peer-orders")


@orders.v("1.0.0")
async def order_v1(run: Run, order: Order) -> list[str]:
    return [await step.start(run, name, order) for name in STEPS]


class Aiki(Peer):
    """It is used as its documentation says, with all defaults."""

    STEPS_TOGETHER = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._handles: list[Handle[list[str]]] = []

    async def start(self) -> None:
        data = self._site.directory / ".aiki"
        durability: Durability = "everysec" if self._site.setting == "everysec" else "always"
        supervisor = self._site.worker(
            *("aiki.supervisor", __name__, "--workers", "2", "--data-dir", str(data)),
            *("--durability", durability),
        )
        await self._site.says("aiki serves ")
        children = psutil.Process(supervisor).children()
        self._site.victim = next(each.pid for each in children if is_worker(each))
        self._client = Client(data_dir=data, durability=durability)
        await self._client.connect()
        self._site.adopt("servers", record(data).pid)

    async def submit(self, orders: Sequence[Order]) -> None:
        self._handles = []
        for started in await start_many(self._client, [order_v1.bind(each) for each in orders]):
            if isinstance(started, Exception):
                raise started
            self._handles.append(started)

    async def results(self) -> None:
        await asyncio.gather(*(each.wait_for_completion(_PATIENCE) for each in self._handles))

    async def process_one(self, order: Order) -> None:
        handle = await order_v1.start(self._client, order)
        await handle.wait_for_completion(_PATIENCE)

    async def close(self) -> None:
        await self._client.aclose()
