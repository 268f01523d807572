"""A library worker in a process of its own, for tests that kill it: `python -m … URL LEASE`."""

from __future__ import annotations

import asyncio
import signal
import sys

from aiki import Client, RedisStreams, Worker
from tests.faults.workload import orders


async def main(url: str, lease: float) -> None:
    """Serve until SIGTERM."""
    async with Client(url) as client:
        worker = Worker(
            client,
            subscriber=RedisStreams(claim_min_idle_time=lease),
            heartbeat=lease / 5,
        )
        worker.workflow_registry.add(orders)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, worker.request_stop)
        await worker.start()
        print("serving", flush=True)
        await worker.stopping.wait()
        await worker.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
