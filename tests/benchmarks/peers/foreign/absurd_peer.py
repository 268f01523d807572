"""absurd on PostgreSQL: a client that spawns, and two workers that poll."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import files

from absurd_sdk import AsyncAbsurd, AsyncTaskContext

from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, postgres_programs, postgres_server, run

QUEUE = "orders"
TASK = "order"
CONCURRENCY = 16
READY = "polls for tasks"
_MODULE = "tests.benchmarks.peers.foreign.absurd_peer"


class Absurd(Peer):
    """Asynchronous workers, each with one connection, at the default poll interval."""

    STEPS_TOGETHER = False

    def __init__(self, site: Site) -> None:
        self._site = site

    async def start(self) -> None:
        url = await postgres_server(self._site)
        # absurdctl fetches its schema from elsewhere; django-absurd brings the same one along.
        schema = next(each for each in files("django-absurd") or [] if each.suffix == ".sql")
        options = ("-qX", "-v", "ON_ERROR_STOP=1", url, "-f", schema.locate())
        await run(postgres_programs() / "psql", *options)
        self._client = AsyncAbsurd(url, queue_name=QUEUE)
        await self._client.create_queue(QUEUE)
        for number in (1, 2):
            self._site.worker(_MODULE, url)
            await self._site.says(READY, number)

    async def submit(self, orders: Sequence[Order]) -> None:
        for order in orders:
            await self._client.spawn(TASK, order, queue=QUEUE)

    async def process_one(self, order: Order) -> None:
        spawned = await self._client.spawn(TASK, order, queue=QUEUE)
        await self._client.await_task_result(spawned["task_id"], timeout=60)

    async def close(self) -> None:
        await self._client.close()


async def serve(url: str) -> None:
    """Execute what is spawned."""
    worker = AsyncAbsurd(url, queue_name=QUEUE)

    @worker.register_task(TASK)
    async def process(order: Order, context: AsyncTaskContext) -> list[str]:
        return [await context.step(name, lambda name=name: act_async(name, order))
                for name in STEPS]  # fmt: skip

    print(READY)
    await worker.start_worker(concurrency=CONCURRENCY)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
