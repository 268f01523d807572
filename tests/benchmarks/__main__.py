"""Measure, print a table, write JSON: `python -m tests.benchmarks`. It judges and never fails."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psutil
import uvloop

from tests.benchmarks import (
    children,
    growth,
    idle,
    latency,
    recovery,
    resumes,
    sleepers,
    throughput,
    timers,
)
from tests.benchmarks.figures import Figure, Report, table
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.speed import REFERENCE

MEASUREMENTS: dict[str, Callable[[Plan], Awaitable[Report]]] = {
    "throughput": throughput.measure,
    "latency": latency.measure,
    "recovery": recovery.measure,
    "idle": idle.measure,
    "growth": growth.measure,
    "sleepers": sleepers.measure,
    "timers": timers.measure,
    "resumes": resumes.measure,
    "children": children.measure,
}
# Each takes about a minute; one that hangs is to end.
_LONGEST = 300.0

JSON = Path("benchmarks.json")


async def _measure(names: list[str], plan: Plan) -> dict[str, Report]:
    reports: dict[str, Report] = {}
    for name in names:
        say(f"{name} …")
        async with asyncio.timeout(_LONGEST):
            reports[name] = await MEASUREMENTS[name](plan)
    return reports


def _speed(figures: list[Figure]) -> Figure:
    loops = sorted({loop for figure in figures for loop in figure.loops})
    return Figure("fixed Python loop", "ms", [loop * 1e3 for loop in loops])


def _machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _arguments() -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="may be repeated")
    parser.add_argument("--rounds", type=_count, default=plan.rounds, help="default: %(default)s")
    parser.add_argument("--runs", type=_count, default=plan.runs, help="default: %(default)s")
    parser.add_argument(
        "--json", type=Path, default=JSON, metavar="PATH", help="default: %(default)s"
    )
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> None:
    """Measure what the command line names, all of it by default."""
    arguments = _arguments()
    plan = Plan(arguments.rounds, arguments.runs)
    # What is imported by now stays; a service that cares for its speed does the same.
    gc.collect()
    gc.freeze()
    reports = uvloop.run(_measure(arguments.only or list(MEASUREMENTS), plan))
    figures = [figure for report in reports.values() for figure in report.figures]
    figures.append(_speed(figures))
    details = {name: report.details for name, report in reports.items()}
    result = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "plan": asdict(plan),
        "reference_loop_seconds": REFERENCE,
        "figures": [figure.as_json() for figure in figures],
        "details": details,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    for report in reports.values():
        print(*report.remarks, sep="\n", end="\n\n" if report.remarks else "")
    print(table(figures))
    say(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
