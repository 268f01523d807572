"""Celery on Redis: worker processes that are forked."""

from __future__ import annotations

import os
from collections.abc import Sequence

from celery import Celery

from tests.benchmarks.peers.orders import STEPS, Order, act
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, redis_server

_MODULE = "tests.benchmarks.peers.foreign.celery_peer"
_URL = "PEERS_REDIS"

app = Celery("peers")
app.conf.update(broker_url=os.environ.get(_URL), result_backend=os.environ.get(_URL),
                worker_prefetch_multiplier=64)  # fmt: skip


@app.task(ignore_result=True)
def job(order: Order) -> None:
    act(STEPS[-1], order)


@app.task
def answered(order: Order) -> str:
    return act(STEPS[-1], order)


class CeleryPeer(Peer):
    """Two workers of one pool process each; results are stored only where they are asked for."""

    STEPS_TOGETHER = True

    def __init__(self, site: Site) -> None:
        self._site = site

    async def start(self) -> None:
        url = await redis_server(self._site)
        variables = {_URL: url, "C_FORCE_ROOT": "1"}
        for name in ("one@%h", "two@%h"):
            options = ("-c", "1", "-n", name, "--loglevel", "INFO")
            self._site.worker("celery", "-A", _MODULE, "worker", *options, **variables)
        await self._site.says(" ready.", 2)
        app.conf.update(broker_url=url, result_backend=url)

    async def submit(self, orders: Sequence[Order]) -> None:
        for order in orders:
            job.delay(order)

    async def process_one(self, order: Order) -> None:
        answered.delay(order).get(timeout=60)

    async def close(self) -> None:
        app.close()
