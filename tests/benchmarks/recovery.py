"""How soon others have the runs of a worker that is killed, and whether anything is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field

from aiki import Client, Handle, start_many
from aiki.records import RunSnapshot, WorkerRecord
from tests.benchmarks.figures import Bar, Figure, Report, Scale, percentile
from tests.benchmarks.ledger import executions, gate_file, held_workflow_v1
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import WORKERS, Service
from tests.benchmarks.speed import loop_seconds
from tests.support.waiting import eventually

MODULE = "tests.benchmarks.ledger"
MILLISECONDS = Bar(250)
NONE = Bar(0)

KILLS = 10
VICTIMS = 100
"""Runs on the worker that is killed, out of its 200 slots; the other one has room for them."""

_PATIENCE = 60.0


@dataclass(slots=True)
class _Findings:
    delays: list[float] = field(default_factory=list[float])
    """From each kill to each claim of its runs by another worker, in ms."""
    medians: list[float] = field(default_factory=list[float])
    loops: list[float] = field(default_factory=list[float])
    runs: int = 0
    lost: int = 0
    repeated: int = 0
    interrupted: int = 0


async def measure(_plan: Plan) -> Report:
    """Kill one of two workers ten times, and follow the runs that it had."""
    found = _Findings()
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client:
            for number in range(KILLS):
                loop_before = loop_seconds()
                await _kill_one(service, client, f"{number}", found)
                found.loops.append((loop_before + loop_seconds()) / 2)
                say(f"recovery: kill {number + 1}: median {found.medians[-1]:.0f} ms")
    return _report(found)


def _report(found: _Findings) -> Report:
    loop = percentile(found.loops, 0.5)
    times = found.delays
    p99, scale = [percentile(times, 0.99)], Scale.TIME
    name = "kill to claimed by another worker"
    return Report(
        [
            Figure(f"{name}: p99 of {len(times)}", "ms", p99, scale, [loop], MILLISECONDS),
            Figure(f"{name}: all", "ms", times, scale, [loop] * len(times)),
            Figure("killed: runs that did not complete", "runs", [found.lost], bar=NONE),
            Figure("killed: completed steps run again", "steps", [found.repeated], bar=NONE),
        ],
        {
            "kills": KILLS,
            "runs": found.runs,
            "interrupted_steps_run_again": found.interrupted,
            "median_milliseconds_per_kill": found.medians,
        },
    )


async def _kill_one(service: Service, client: Client, gate: str, found: _Findings) -> None:
    """Have both workers execute runs, kill the one with the most, and count what becomes of it."""
    handles, victim = await _fill_one(service, client, gate)
    victims = await client.store.workers.owned_runs(victim.incarnation)

    killed = time.time()
    os.kill(victim.pid, signal.SIGKILL)

    async def claimed() -> list[RunSnapshot]:
        runs = await client.store.runs.snapshots(list(victims), timeout=_PATIENCE)
        theirs = [run for run in runs if run.owner not in ("", victim.incarnation)]
        return theirs if len(theirs) == len(victims) else []

    runs = await eventually(claimed, _PATIENCE, "the claims of the killed worker's runs")
    # A record has the server's time of its claim, in whole milliseconds.
    delays = [run.since + 1 - killed * 1e3 for run in runs]
    found.delays += delays
    found.medians.append(percentile(delays, 0.5))

    gate_file(service.supervised.ledger, gate).touch()
    await _count(service, handles, set(victims), found)


async def _fill_one(
    service: Service, client: Client, gate: str
) -> tuple[list[Handle[str]], WorkerRecord]:
    """Start runs until one of the workers has exactly `VICTIMS`, each inside its second step."""
    handles: list[Handle[str]] = []
    while True:
        workers = await eventually(lambda: _two_workers(service, client), _PATIENCE, "two workers")
        owned = {
            worker: len(await client.store.workers.owned_runs(worker.incarnation))
            for worker in workers
        }
        victim = max(workers, key=lambda worker: owned[worker])
        if owned[victim] == VICTIMS:
            return handles, victim
        # Never more than the fuller one may still get, whoever claims them.
        calls = [held_workflow_v1.bind(gate) for _ in range(VICTIMS - owned[victim])]
        for started in await start_many(client, calls):
            if isinstance(started, Exception):
                raise started
            handles.append(started)
        await _all_inside(service, {handle.id for handle in handles})


async def _two_workers(service: Service, client: Client) -> list[WorkerRecord]:
    alive = {process.pid for process in service.workers()}
    workers = [each for each in await client.store.workers.list() if each.pid in alive]
    return workers if len(workers) == WORKERS else []


async def _all_inside(service: Service, runs: set[str]) -> None:
    """Wait until each of these runs executes the step that holds it."""

    def are_inside() -> bool:
        counts = executions(service.supervised.ledger)
        return all(counts["hold", run_id] for run_id in runs)

    await eventually(are_inside, _PATIENCE, "all runs inside a step")


async def _count(
    service: Service, handles: list[Handle[str]], victims: set[str], found: _Findings
) -> None:
    """Wait for the ends, and look into the ledger."""
    ends = await asyncio.gather(
        *(handle.wait_for_completion(timeout=_PATIENCE) for handle in handles),
        return_exceptions=True,
    )
    found.runs += len(handles)
    found.lost += sum(isinstance(end, BaseException) for end in ends)
    counts = executions(service.supervised.ledger)
    for handle in handles:
        found.repeated += sum(
            max(0, counts[step, handle.id] - 1) for step in ("prepare", "conclude")
        )
        again = max(0, counts["hold", handle.id] - 1)
        # What was executing when its worker was killed was not completed, and is to run again.
        allowed = 1 if handle.id in victims else 0
        found.interrupted += min(again, allowed)
        found.repeated += max(0, again - allowed)
