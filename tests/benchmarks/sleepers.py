"""What many runs that sleep cost: memory of the store, and CPU of those who wait with them."""

from __future__ import annotations

import asyncio

from aiki import Client, Status, start_many
from tests.benchmarks.figures import Bar, Figure, Report, Scale
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import CpuTime, Service
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.waiters import sleeping_v1
from tests.benchmarks.workload import ORDER

MODULE = "tests.benchmarks.waiters"
KIB = Bar(2.5)
KIB_MORE = Bar(0.5)
PERCENT = Bar(1)

_PATIENCE = 240.0
_SETTLE = 3.0
_WATCH = 15.0


async def measure(plan: Plan) -> Report:
    """Compare runs that sleep with runs that are queued; then see what the service does."""
    count = plan.runs * 20
    async with Service(MODULE) as service:
        async with service.client() as client:
            empty = await _used(client)
            await start_sleepers(client, count)
            queued = (await _used(client) - empty) / count / 1024
            say(f"waits: {count:,} queued runs take {queued:.2f} KiB each")
            await service.start()
            await all_sleep(client, count)
            sleeping = (await _used(client) - empty) / count / 1024
            say(f"waits: {count:,} sleeping runs take {sleeping:.2f} KiB each")
        await asyncio.sleep(_SETTLE)
        loop_before, cpu = loop_seconds(), CpuTime(service)
        await asyncio.sleep(_WATCH)
        spent, elapsed = cpu.spent(), cpu.elapsed()
        loop = (loop_before + loop_seconds()) / 2
    idle = (spent["workers"] + spent["supervisor"]) / elapsed * 100
    figures = [
        Figure("memory of a queued run", "KiB", [queued]),
        Figure("memory of a sleeping run", "KiB", [sleeping], bar=KIB),
        Figure("memory of a sleeping run, beyond a queued one", "KiB", [sleeping - queued],
               bar=KIB_MORE),
        Figure("CPU of supervisor and workers while all sleep", "% of a core", [idle], Scale.TIME,
               [loop], PERCENT),
    ]  # fmt: skip
    return Report(figures)


async def start_sleepers(client: Client, count: int) -> None:
    for first in range(0, count, 1_000):
        calls = [sleeping_v1.bind(ORDER) for _ in range(min(1_000, count - first))]
        for started in await start_many(client, calls):
            if isinstance(started, Exception):
                raise started


async def _used(client: Client) -> int:
    reply: bytes = await client.store.link.send(("INFO", "memory"))
    for line in reply.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "used_memory":
            return int(value)
    raise RuntimeError("the server does not say what it uses")


async def all_sleep(client: Client, count: int) -> None:
    key = f"{_base(client)}index:{Status.SLEEPING}/sleeping-order"
    async with asyncio.timeout(_PATIENCE):
        while await client.store.link.send(("ZCARD", key)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # the store tells nobody that a run sleeps


def _base(client: Client) -> str:
    return f"aiki:{client.store.namespace}:{{0}}:"
