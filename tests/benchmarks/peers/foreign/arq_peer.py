"""arq on Redis: a job is a coroutine with nothing recorded inside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from arq import create_pool
from arq.connections import RedisSettings

from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, redis_server

_MODULE = "tests.benchmarks.peers.foreign.arq_peer"
_URL = "PEERS_REDIS"
_TOGETHER = 100


async def job(_context: dict[str, object], order: Order) -> str:
    return await act_async(STEPS[-1], order)


class WorkerSettings:
    """What `arq` reads."""

    functions = (job,)
    redis_settings = RedisSettings.from_dsn(os.environ.get(_URL, "redis://"))
    poll_delay = 0.01 if os.environ.get("PEERS_SETTING") == "tuned" else 0.5
    max_jobs = 50 if os.environ.get("PEERS_SETTING") == "tuned" else 10


class Arq(Peer):
    """Two workers, with the settings that come with it or with two of them changed."""

    STEPS_TOGETHER = True

    def __init__(self, site: Site) -> None:
        self._site = site
        self._poll = 0.001 if site.setting == "tuned" else 0.5

    async def start(self) -> None:
        url = await redis_server(self._site)
        variables = {_URL: url, "PEERS_SETTING": self._site.setting}
        for _ in range(2):
            self._site.worker("arq", f"{_MODULE}.WorkerSettings", **variables)
        await self._site.says("Starting worker", 2)
        self._pool = await create_pool(RedisSettings.from_dsn(url))

    async def submit(self, orders: Sequence[Order]) -> None:
        for first in range(0, len(orders), _TOGETHER):
            jobs = (self._pool.enqueue_job("job", each)
                    for each in orders[first : first + _TOGETHER])  # fmt: skip
            await asyncio.gather(*jobs)

    async def process_one(self, order: Order) -> None:
        started = await self._pool.enqueue_job("job", order)
        await started.result(timeout=60, poll_delay=self._poll)

    async def close(self) -> None:
        await self._pool.aclose()
