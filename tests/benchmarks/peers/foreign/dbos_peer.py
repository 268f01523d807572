"""DBOS on PostgreSQL: started directly, and through its queue.

Its workflows are executed by the processes of the application. `python -m …dbos_peer ID` is one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Listener

from dbos import DBOS, DBOSClient, DBOSConfig, WorkflowHandle

from tests.benchmarks.peers.orders import STEPS, Order, act
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site, postgres_server

QUEUE = "orders"
READY = "executes workflows"
_MODULE = "tests.benchmarks.peers.foreign.dbos_peer"
# More threads in one process made it slower: they want one interpreter lock.
_TOGETHER = 2
_TUNED = {"polling_interval_sec": 0.02, "worker_concurrency": 8}


@DBOS.step()
def step(name: str, order: Order) -> str:
    return act(name, order)


@DBOS.workflow()
def order_workflow(order: Order) -> list[str]:
    return [step(name, order) for name in STEPS]


def launch(url: str, executor: str) -> None:
    """Make this process one that executes workflows."""
    config = DBOSConfig(name="peers", system_database_url=url, executor_id=executor,
                        application_version="1", log_level="ERROR")  # fmt: skip
    DBOS(config=config)
    DBOS.launch()


def process_all(orders: Sequence[Order]) -> None:
    """Start the workflows of these orders, a few at a time, and wait for each."""
    with ThreadPoolExecutor(_TOGETHER) as threads:
        list(threads.map(lambda each: DBOS.start_workflow(order_workflow, each).get_result(),
                         orders))  # fmt: skip


class Queued(Peer):
    """A client that enqueues, and two processes that take from the queue."""

    STEPS_TOGETHER = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._poll = 0.01 if site.setting == "tuned" else 1.0  # of the client, for results

    async def start(self) -> None:
        url = await postgres_server(self._site)
        for number in (1, 2):
            self._site.worker(_MODULE, url, f"worker-{number}", self._site.setting)
            await self._site.says(READY, number)
        self._client = DBOSClient(system_database_url=url, application_name="peers")

    async def submit(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self._enqueue(order)

    async def process_one(self, order: Order) -> None:
        self._enqueue(order).get_result(polling_interval_sec=self._poll)

    async def close(self) -> None:
        self._client.destroy()

    def _enqueue(self, order: Order) -> WorkflowHandle[list[str]]:
        options = {"queue_name": QUEUE, "workflow_name": order_workflow.__qualname__,
                   "app_version": "1"}  # fmt: skip
        return self._client.enqueue(options, order)


class Direct(Peer):
    """Two processes that start workflows and execute them, of which this is one."""

    STEPS_TOGETHER = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._at_work: asyncio.Future[None] | None = None

    async def start(self) -> None:
        url = await postgres_server(self._site)
        launch(url, "client")
        address = str(self._site.directory / "other")
        self._site.worker(_MODULE, url, "other", address)
        await self._site.says(READY)
        self._other = Client(address)

    async def submit(self, orders: Sequence[Order]) -> None:
        half = len(orders) // 2
        self._other.send(orders[:half])
        self._at_work = asyncio.ensure_future(asyncio.to_thread(process_all, orders[half:]))

    async def results(self) -> None:
        await self._at_work
        await asyncio.to_thread(self._other.recv)

    async def process_one(self, order: Order) -> None:
        DBOS.start_workflow(order_workflow, order).get_result()

    async def close(self) -> None:
        DBOS.destroy()


def main() -> None:
    """Execute what is in the queue, or what comes through a socket."""
    url, executor, setting = sys.argv[1:]
    launch(url, executor)
    if os.sep in setting:
        with Listener(setting) as listener:
            print(READY)
            with listener.accept() as client:
                while True:
                    process_all(client.recv())
                    client.send("done")
    DBOS.register_queue(QUEUE, **(_TUNED if setting == "tuned" else {}))
    print(READY, os.getpid())
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
