"""Throughput of a real service, beside the floor of the script calls that its runs make."""

from __future__ import annotations

import statistics

from aiki import Client
from tests.benchmarks.figures import Bar, Figure, Report, Scale
from tests.benchmarks.floor import Floor
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import Bytes, CpuTime, ScriptTime, Service, persistence
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.workload import STEPS, process_one, process_orders

MODULE = "tests.benchmarks.workload"
RUNS_A_SECOND = Bar(3_000, at_least=True)
OF_THE_FLOOR = Bar(0.30, at_least=True)
SCRIPTS_A_RUN = Bar(100)

_BATCHES = 20
_ROLES = ("client", "workers", "server", "supervisor")
_PARTS = ("received", "sent", "logged", "held")


class _Rounds:
    """What each round gave."""

    def __init__(self) -> None:
        self.loops: list[float] = []
        self.rates: list[float] = []
        self.floors: list[float] = []
        self.scripts: list[float] = []
        self.calls: list[float] = []
        self.bytes: dict[str, list[float]] = {part: [] for part in _PARTS}
        self.cpu: dict[str, list[float]] = {role: [] for role in (*_ROLES, "others")}

    def figures(self) -> list[Figure]:
        """Give the figures of all rounds."""
        ratios = [rate / floor for rate, floor in zip(self.rates, self.floors, strict=True)]
        steps = [STEPS * rate for rate in self.rates]
        rate, time = Scale.RATE, Scale.TIME
        return [
            Figure("throughput", "runs/s", self.rates, rate, self.loops, RUNS_A_SECOND),
            Figure("durable steps", "steps/s", steps, rate, self.loops),
            Figure("packed floor", "runs/s", self.floors, rate, self.loops),
            Figure("throughput / packed floor", "", ratios, bar=OF_THE_FLOOR),
            Figure("server: scripts", "µs/run", self.scripts, time, self.loops, SCRIPTS_A_RUN),
            *(
                Figure(f"CPU: {role}", "µs/run", self.cpu[role], time, self.loops)
                for role in _ROLES
            ),
            Figure("CPU: everybody else on the machine", "cores", self.cpu["others"]),
            *(Figure(f"server: {part}", "bytes/run", self.bytes[part]) for part in _PARTS),
        ]


async def measure(plan: Plan) -> Report:
    """Process orders round by round, each between two halves of the floor."""
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client, service.client("floor") as beside:
            await process_orders(client, plan.warm_up)
            run_id = await process_one(client)
            floor = await Floor.like(beside, client, run_id)
            floor.together(plan.warm_up)
            rounds = _Rounds()
            rewrites = await persistence(client, "aof_rewrites")
            for number in range(plan.rounds):
                await _one_round(plan, service, client, floor, rounds)
                say(f"throughput: round {number + 1}: {rounds.rates[-1]:,.0f} runs/s")
            rewrites = await persistence(client, "aof_rewrites") - rewrites
            costs = list(zip(floor.script_names, floor.on_server(_BATCHES), strict=True))
            await floor.close()
    counted = statistics.median(rounds.calls)
    calls = [f"{name}: {seconds * 1e6:.1f} µs of the server" for name, seconds in costs]
    return Report(
        rounds.figures(),
        {
            "script_calls_of_one_run": calls,
            "script_calls_per_run_counted": counted,
            "aof_rewrites_meanwhile": rewrites,
        },
        [f"The floor of one run; {counted:.2f} calls were counted in the rounds:", *calls],
    )


async def _one_round(
    plan: Plan, service: Service, client: Client, floor: Floor, rounds: _Rounds
) -> None:
    # Half of the floor before and half after, for the machine's speed changes meanwhile.
    half = plan.runs // 2
    loop_before, floor_before = loop_seconds(), floor.together(half)
    scripts, weight = await ScriptTime.read(client), await Bytes.read(client)
    cpu = CpuTime(service)
    elapsed = await process_orders(client, plan.runs)
    spent, scripts_after = cpu.spent(), await ScriptTime.read(client)
    weight_after = await Bytes.read(client)
    for part in _PARTS:
        grown: int = getattr(weight_after, part) - getattr(weight, part)
        rounds.bytes[part].append(grown / plan.runs)
    rounds.cpu["others"].append(max(0.0, spent["others"]) / cpu.elapsed())
    for role in _ROLES:
        rounds.cpu[role].append(spent[role] / plan.runs * 1e6)
    rounds.rates.append(plan.runs / elapsed)
    rounds.scripts.append((scripts_after.seconds - scripts.seconds) / plan.runs * 1e6)
    rounds.calls.append((scripts_after.calls - scripts.calls) / plan.runs)
    rounds.floors.append(2 * half / (floor_before + floor.together(half)))
    rounds.loops.append((loop_before + loop_seconds()) / 2)
