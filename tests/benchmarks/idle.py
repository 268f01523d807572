"""What a service costs that has worked and now has nothing to do."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil

from tests.benchmarks.figures import Bar, Figure, Report, Scale
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import CpuTime, Service
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.workload import process_orders

MODULE = "tests.benchmarks.workload"
MIB = Bar(70)
PERCENT = Bar(1)

_SETTLE = 3.0
# The system counts CPU in hundredths of a second: 10 ms of each process are 0.03 % of this.
_WATCH = 30.0


async def measure(plan: Plan) -> Report:
    """Let a service work, then leave it alone and look at memory and CPU."""
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client:
            await process_orders(client, plan.runs)
        # Without the client, which is no part of the service
        await asyncio.sleep(_SETTLE)
        say(f"idle: watching for {_WATCH:g} s")
        loop_before, cpu = loop_seconds(), CpuTime(service)
        await asyncio.sleep(_WATCH)
        spent, elapsed = cpu.spent(), cpu.elapsed()
        loop = (loop_before + loop_seconds()) / 2
        workers = [_mebibytes(process) for process in service.workers()]
        others = [_mebibytes(service.supervisor()), _mebibytes(service.server())]
    roles = ("workers", "supervisor", "server")
    share = {role: spent[role] / elapsed * 100 for role in roles}
    return Report(
        [
            Figure("idle: memory of the larger worker (PSS)", "MiB", [max(workers)], bar=MIB),
            Figure("idle: memory of the supervisor (PSS)", "MiB", others[:1]),
            Figure("idle: memory of the server (PSS)", "MiB", others[1:]),
            Figure(
                "idle: CPU of supervisor, workers and server", "% of a core",
                [sum(share.values())], Scale.TIME, [loop], PERCENT,
            ),
        ],
        {"idle_percent_of_a_core": share, "worker_mebibytes": workers},
    )  # fmt: skip


def _mebibytes(process: psutil.Process) -> float:
    """Give its share of memory: shared pages count in part (PSS), elsewhere than on Linux not."""
    memory: Any = process.memory_full_info()
    size: int = getattr(memory, "pss", memory.uss)
    return size / 2**20
