"""streaq on Redis: single jobs, and four of them in a chain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

from streaq import Worker
from streaq.task import Task

from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, redis_server

_MODULE = "tests.benchmarks.peers.foreign.streaq_peer"
_URL = "PEERS_REDIS"

worker = Worker(redis_url=os.environ.get(_URL, "redis://localhost"), concurrency=64)


@worker.task()
async def job(order: Order) -> str:
    return await act_async(STEPS[-1], order)


@worker.task()
async def link(place: int, order: Order) -> tuple[int, Order]:
    await act_async(STEPS[place], order)
    return place + 1, order


class Single(Peer):
    """Jobs that know nothing of each other."""

    STEPS_TOGETHER = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        # The module reads its address when it is imported, as a worker's does.
        url = await redis_server(self._site)
        for _ in range(2):
            self._site.worker("streaq", "run", f"{_MODULE}:worker", **{_URL: url})
        await self._site.says("starting worker", 2)
        client = Worker(redis_url=url)
        job.worker = link.worker = client
        self._client = await self._stack.enter_async_context(client)

    async def submit(self, orders: Sequence[Order]) -> None:
        for first in range(0, len(orders), 1_000):
            tasks = [job.enqueue(order) for order in orders[first : first + 1_000]]
            await self._client.enqueue_many(tasks)

    async def process_one(self, order: Order) -> None:
        await (await job.enqueue(order)).result(60)

    async def close(self) -> None:
        await self._stack.aclose()


class Chain(Single):
    """Four jobs of which each is given what the one before returned."""

    STEPS_TOGETHER = False

    async def submit(self, orders: Sequence[Order]) -> None:
        for order in orders:
            await self._chain(order)

    async def process_one(self, order: Order) -> None:
        await (await self._chain(order)).result(60)

    async def _chain(self, order: Order) -> Task:
        task = link.enqueue(0, order)
        for _ in STEPS[1:]:
            task = task.then(link)
        return await task
