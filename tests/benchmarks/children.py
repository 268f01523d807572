"""Runs as the children of one run, beside as many plain ones."""

from __future__ import annotations

from tests.benchmarks.figures import Bar, Figure, Report, Scale
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import Service
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.workload import (
    gathered_batch,
    mapped_batch,
    process_batch,
    process_orders,
)

MODULE = "tests.benchmarks.workload"
OF_PLAIN_RUNS = Bar(0.5, at_least=True)


async def measure(plan: Plan) -> Report:
    """Process orders plainly, mapped and gathered, round by round."""
    count = max(100, plan.runs // 5)
    plain: list[float] = []
    mapped: list[float] = []
    gathered: list[float] = []
    loops: list[float] = []
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client:
            await process_orders(client, plan.warm_up)
            for batch in (mapped_batch, gathered_batch):
                await process_batch(client, batch, count)
            for number in range(plan.rounds):
                before = loop_seconds()
                # Half of the plain ones before and half after, as the machine's speed changes.
                half = await process_orders(client, count)
                mapped.append(count / await process_batch(client, mapped_batch, count))
                gathered.append(count / await process_batch(client, gathered_batch, count))
                plain.append(2 * count / (half + await process_orders(client, count)))
                loops.append((before + loop_seconds()) / 2)
                say(f"children: round {number + 1}: {mapped[-1]:,.0f} mapped a second")

    def of_plain(rates: list[float]) -> list[float]:
        return [rate / beside for rate, beside in zip(rates, plain, strict=True)]

    name = f"{count:,} children"
    return Report(
        [
            Figure(f"{count:,} plain runs", "runs/s", plain, Scale.RATE, loops),
            Figure(f"{name}, mapped", "runs/s", mapped, Scale.RATE, loops),
            Figure(f"{name}, gathered", "runs/s", gathered, Scale.RATE, loops),
            Figure("mapped / plain", "", of_plain(mapped), bar=OF_PLAIN_RUNS),
            Figure("gathered / plain", "", of_plain(gathered), bar=OF_PLAIN_RUNS),
        ]
    )
