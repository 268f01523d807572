"""How long one run takes when nothing else is going on, beside its script calls one at a time."""

from __future__ import annotations

import time

from aiki.valkey_setup import Durability
from tests.benchmarks.figures import Bar, Figure, Report, Scale, percentile
from tests.benchmarks.floor import Floor
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import Service
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.workload import process_one

MODULE = "tests.benchmarks.workload"
OF_THE_FLOOR = Bar(2)


async def measure(plan: Plan) -> Report:
    """Start runs one after the other, with every write on disk and with one sync a second."""
    always = await _with_durability(plan, "always")
    everysec = await _with_durability(plan, "everysec")
    return Report([*always, *everysec])


async def _with_durability(plan: Plan, durability: Durability) -> list[Figure]:
    loops: list[float] = []
    runs: list[list[float]] = []
    floors: list[list[float]] = []
    async with Service(MODULE, durability=durability) as service:
        await service.start()
        async with service.client() as client, service.client("floor") as beside:
            run_id = ""
            for _ in range(plan.alone):
                run_id = await process_one(client)
            floor = await Floor.like(beside, client, run_id)
            for number in range(plan.rounds):
                loop_before = loop_seconds()
                runs.append([])
                floors.append([])
                # In turn, for the time that a disk takes changes from one second to the next.
                for _ in range(plan.alone):
                    begun = time.perf_counter()
                    await process_one(client)
                    runs[-1].append(time.perf_counter() - begun)
                    floors[-1].append(floor.alone())
                loops.append((loop_before + loop_seconds()) / 2)
                p50 = percentile(runs[-1], 0.5)
                say(f"latency at {durability}: round {number + 1}: p50 {p50 * 1e3:.2f} ms")
            await floor.close()

    def at(share: float, rounds: list[list[float]]) -> list[float]:
        return [percentile(times, share) * 1e3 for times in rounds]

    pairs = zip(at(0.5, runs), at(0.5, floors), strict=True)
    ratios = [run / calls for run, calls in pairs]
    where, scale = f"at {durability}", Scale.TIME
    return [
        Figure(f"one run alone {where}: p50", "ms", at(0.5, runs), scale, loops),
        Figure(f"one run alone {where}: p99", "ms", at(0.99, runs), scale, loops),
        Figure(f"its calls one at a time {where}: p50", "ms", at(0.5, floors), scale, loops),
        Figure(f"its calls one at a time {where}: p99", "ms", at(0.99, floors), scale, loops),
        Figure(f"one run alone / its calls {where}: p50", "", ratios, bar=OF_THE_FLOOR),
    ]
