"""Whether a run costs more when many finished ones are stored."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from aiki import Client
from tests.benchmarks.figures import Bar, Figure, Report, Scale
from tests.benchmarks.floor import Floor
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import ScriptTime, Service, persistence
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.workload import process_one, process_orders

MODULE = "tests.benchmarks.workload"
OF_THE_EMPTY = Bar(0.90, at_least=True)

_PIECE = 1_000
_REWRITE = 120.0


@dataclass(slots=True)
class _Side:
    """One of the two services, and what its turns gave."""

    name: str
    client: Client
    rates: list[float] = field(default_factory=list[float])
    loops: list[float] = field(default_factory=list[float])
    scripts: list[float] = field(default_factory=list[float])

    async def take_turn(self, plan: Plan) -> None:
        """Process half a round of orders: what is compared is to be close together in time."""
        before, loop_before = await ScriptTime.read(self.client), loop_seconds()
        runs = plan.runs // 2
        self.rates.append(runs / await process_orders(self.client, runs))
        self.loops.append((loop_before + loop_seconds()) / 2)
        spent = (await ScriptTime.read(self.client)).seconds - before.seconds
        self.scripts.append(spent / runs * 1e6)

    def throughput(self) -> Figure:
        return Figure(f"throughput, {self.name}", "runs/s", self.rates, Scale.RATE, self.loops)

    def script_time(self) -> Figure:
        return Figure(
            f"server: scripts, {self.name}", "µs/run", self.scripts, Scale.TIME, self.loops
        )


async def measure(plan: Plan) -> Report:
    """Process orders in turn with a service on an empty store and with one on a full store."""
    async with AsyncExitStack() as stack:
        at_empty = await stack.enter_async_context(Service(MODULE))
        at_full = await stack.enter_async_context(Service(MODULE))
        await at_empty.start()
        empty = _Side("empty store", await stack.enter_async_context(at_empty.client()))
        await process_orders(empty.client, plan.warm_up)
        full = _Side(
            f"{plan.stored:,} finished runs", await stack.enter_async_context(at_full.client())
        )
        # Filled before it has workers: they would take what is being stored.
        filled_in = await _fill(full.client, empty.client, plan.stored)
        await at_full.start()
        await process_orders(full.client, plan.warm_up)

        sides = (empty, full)
        for side in sides:
            await _end_rewrites(side.client)
        before = [await persistence(side.client, "aof_rewrites") for side in sides]
        # Of each two turns the first is once the one, once the other.
        for turns in (sides, sides[::-1]) * 2 * plan.rounds:
            for side in turns:
                await side.take_turn(plan)
            say(f"growth: {empty.rates[-1]:,.0f} and {full.rates[-1]:,.0f} runs/s")
        after = [await persistence(side.client, "aof_rewrites") for side in sides]
    # Each calibrates the other. The fixed loop knows of one core for a moment.
    ratios = [a / b for a, b in zip(full.rates, empty.rates, strict=True)]
    return Report(
        [
            *(side.throughput() for side in sides),
            Figure(f"{full.name} / {empty.name}", "", ratios, bar=OF_THE_EMPTY),
            *(side.script_time() for side in sides),
        ],
        {
            "seconds_to_fill": filled_in,
            "aof_rewrites_meanwhile": [b - a for a, b in zip(before, after, strict=True)],
        },
    )


async def _fill(client: Client, model: Client, count: int) -> float:
    """Store finished runs, made by the script calls that real ones make; seconds that it took."""
    begun = time.perf_counter()
    floor = await Floor.like(client, model, await process_one(model))
    for done in range(0, count, _PIECE):
        floor.together(min(_PIECE, count - done))
        await asyncio.sleep(0)  # other connections are answered, and Ctrl-C is heard
        if done % (count // 4 // _PIECE * _PIECE or count) == 0:
            say(f"growth: {done:,} of {count:,} finished runs are stored")
    await floor.close()
    return time.perf_counter() - begun


async def _end_rewrites(client: Client) -> None:
    """Let the append-only file be compact, and stay as it is from now on."""
    link = client.store.link
    await link.send(("CONFIG", "SET", "auto-aof-rewrite-percentage", "0"))
    async with asyncio.timeout(_REWRITE):
        while await persistence(client, "aof_rewrite_in_progress"):  # noqa: ASYNC110  (only asked)
            await asyncio.sleep(0.1)
