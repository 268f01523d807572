"""taskiq on Redis, over the broker that acknowledges: Redis streams."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from taskiq import AsyncTaskiqTask
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, redis_server

_MODULE = "tests.benchmarks.peers.foreign.taskiq_peer"
_URL = "PEERS_REDIS"
_TOGETHER = 100


def broker_at(url: str) -> RedisStreamBroker:
    return RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url))


broker = broker_at(os.environ.get(_URL, "redis://localhost"))


@broker.task(task_name="job")
async def job(order: Order) -> str:
    return await act_async(STEPS[-1], order)


class Taskiq(Peer):
    """Two workers of one process each, and results."""

    STEPS_TOGETHER = True

    def __init__(self, site: Site) -> None:
        self._site = site

    async def start(self) -> None:
        url = await redis_server(self._site)
        options = ("--workers", "1")
        for _ in range(2):
            self._site.worker("taskiq", "worker", f"{_MODULE}:broker", *options, **{_URL: url})
        await self._site.says("Listening started", 2)
        self._broker = broker_at(url)
        await self._broker.startup()

    async def submit(self, orders: Sequence[Order]) -> None:
        for first in range(0, len(orders), _TOGETHER):
            await asyncio.gather(*map(self._kick, orders[first : first + _TOGETHER]))

    async def process_one(self, order: Order) -> None:
        await (await self._kick(order)).wait_result(check_interval=0.001, timeout=60)

    async def close(self) -> None:
        await self._broker.shutdown()

    async def _kick(self, order: Order) -> AsyncTaskiqTask[str]:
        return await job.kicker().with_broker(self._broker).kiq(order)
