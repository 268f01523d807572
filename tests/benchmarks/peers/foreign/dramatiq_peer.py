"""dramatiq on Redis, with its threads."""

from __future__ import annotations

import os
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from tests.benchmarks.peers.orders import STEPS, Order, act
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, redis_server

_MODULE = "tests.benchmarks.peers.foreign.dramatiq_peer"
_URL = "PEERS_REDIS"


def broker_at(url: str) -> RedisBroker:
    made = RedisBroker(url=url)
    made.add_middleware(Results(backend=RedisBackend(url=url)))
    return made


dramatiq.set_broker(broker_at(os.environ.get(_URL, "redis://localhost")))


@dramatiq.actor(queue_name="jobs")
def job(order: Order) -> None:
    act(STEPS[-1], order)


@dramatiq.actor(queue_name="jobs", store_results=True)
def answered(order: Order) -> str:
    return act(STEPS[-1], order)


class Dramatiq(Peer):
    """Results are stored only where they are asked for."""

    STEPS_TOGETHER = True

    def __init__(self, site: Site) -> None:
        self._site = site

    async def start(self) -> None:
        url = await redis_server(self._site)
        for _ in range(2):
            self._site.worker("dramatiq", _MODULE, "-p", "1", "-t", "8", **{_URL: url})
        await self._site.says("Worker process is ready for action", 2)
        self._broker = broker_at(url)
        for actor in (job, answered):
            actor.broker = self._broker
            self._broker.declare_actor(actor)

    async def submit(self, orders: Sequence[Order]) -> None:
        for order in orders:
            job.send(order)

    async def process_one(self, order: Order) -> None:
        answered.send(order).get_result(backend=self._broker.get_results_backend(), block=True)

    async def close(self) -> None:
        self._broker.close()
