"""How cost grows: `python -m tests.benchmarks.curves`. A curve for each thing that may grow."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from aiki import Client, Handle, start_many
from tests.benchmarks import sized
from tests.benchmarks.figures import percentile, shown
from tests.benchmarks.peers.environments import PLOTTING, environment
from tests.benchmarks.peers.site import ROOT
from tests.benchmarks.plan import say
from tests.benchmarks.service import Service
from tests.benchmarks.sized import sized_v1
from tests.benchmarks.sleepers import all_sleep, start_sleepers
from tests.benchmarks.speed import REFERENCE, loop_seconds
from tests.benchmarks.workload import process_one, process_orders

ORDERS = "tests.benchmarks.workload"
SIZED = "tests.benchmarks.sized"
SLEEPERS = "tests.benchmarks.waiters"
_PATIENCE = 240.0
_PIECE = 10_000
Process = Callable[[Client, int], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Point:
    """One size, and what it cost."""

    curve: str
    size: int
    work: int
    """Steps of a run."""
    rate: float
    p50: float
    reference_rate: float
    reference_p50: float


class Curves:
    """Measures throughput and latency at each size of each thing that grows."""

    def __init__(self, runs: int, alone: int, most: int) -> None:
        self._runs = runs
        self._alone = alone
        self._most = most
        self.points: list[Point] = []

    async def workers(self) -> None:
        for size in (1, 2, 4):
            async with _serving(ORDERS, workers=size) as client:
                await self._point("workers", size, client)

    async def slots(self) -> None:
        for size in (1, 10, 50, 200, 1_000):
            options = ("--max-concurrent-workflow-runs", str(size))
            async with _serving(ORDERS, *options) as client:
                await self._point("runs at a time per worker", size, client)

    async def steps(self) -> None:
        async with _serving(SIZED) as client:
            for size in (1, 5, 20, 100, 500, 2_000):
                count = max(4, 4 * self._runs // size)
                await self._point(
                    "steps per run", size, client, _process(size, "x"), runs=count, work=size
                )

    async def payload(self) -> None:
        async with _serving(SIZED) as client:
            for size in (100, 1_000, 10_000, 100_000, 1_000_000):
                count = max(10, min(self._runs, 20_000_000 // size))
                work = _process(4, "x" * size)
                await self._point("bytes per payload", size, client, work, runs=count)

    async def waiting(self) -> None:
        async with _serving(ORDERS, SLEEPERS) as client:
            there = 0
            for size in self._powers():
                await start_sleepers(client, size - there)
                await all_sleep(client, size)
                there = size
                await self._point("runs that sleep", size, client)

    async def finished(self) -> None:
        async with _serving(ORDERS) as client:
            there = 0
            for size in self._powers():
                while there < size:
                    await process_orders(client, min(_PIECE, size - there))
                    there += min(_PIECE, size - there)
                await self._point("finished runs", size, client)

    async def workflows(self) -> None:
        for size in (1, 10, 100, 500):
            os.environ[sized.VARIABLE] = str(size)
            async with _serving(SIZED) as client:
                await self._point("workflows registered", size, client, _process(4, "x"))

    def _powers(self) -> list[int]:
        sizes = (0, 1_000, 10_000, 100_000, 300_000, 1_000_000)
        return [size for size in sizes if size <= self._most]

    async def _point(
        self, curve: str, size: int, client: Client, process: Process = process_orders,
        *, runs: int = 0, work: int = 4,
    ) -> None:  # fmt: skip
        runs = runs or self._runs
        one = process_one if process is process_orders else None
        await process(client, max(2, runs // 10))
        loop = loop_seconds()
        rate = runs / await process(client, runs)
        alone: list[float] = []
        begun = time.perf_counter()
        while len(alone) < self._alone and (len(alone) < 3 or time.perf_counter() - begun < 5):
            at = time.perf_counter()
            await (one(client) if one else process(client, 1))
            alone.append((time.perf_counter() - at) * 1e3)
        slow = (loop + loop_seconds()) / 2 / REFERENCE
        p50 = percentile(alone, 0.5)
        self.points.append(Point(curve, size, work, rate, p50, rate * slow, p50 / slow))
        say(f"{curve}: {size:,}: {rate:,.0f} runs/s, {p50:.1f} ms")


@asynccontextmanager
async def _serving(module: str, *options: str, workers: int = 2) -> AsyncGenerator[Client]:
    async with Service(module, *options, workers=workers) as service:
        await service.start()
        async with service.client() as client:
            yield client


def _process(steps: int, payload: str) -> Process:
    async def process(client: Client, count: int) -> float:
        async with asyncio.timeout(_PATIENCE):
            begun = time.perf_counter()
            started = await start_many(client, [sized_v1.bind(steps, payload)] * count)
            await asyncio.gather(*map(_result, started))
            return time.perf_counter() - begun

    return process


async def _result(started: Handle[int] | Exception) -> int:
    if isinstance(started, Exception):
        raise started
    return await started.wait_for_completion()


def _page(result: dict[str, Any], points: Sequence[Point]) -> str:
    lines = [
        "# How cost grows\n",
        "<!-- Written by `make bench-growth`; see docs/benchmarks.md. -->\n",
        f"{result['measured']}: {result['runs']:,} runs per point, or fewer where they are large;",
        f"the p50 is of up to {result['alone']} runs, one after the other. At reference speed:",
        "see [benchmarks](benchmarks.md).\n",
        "![throughput and latency](growth.png)\n",
        "| | size | runs/s | steps/s | p50 ms | runs/s at ref. speed | p50 ms at ref. speed |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.curve} | {each.size:,} | {shown(each.rate)} | {shown(each.rate * each.work)}"
            f" | {shown(each.p50)} | {shown(each.reference_rate)} | {shown(each.reference_p50)} |"
            for each in points
        ),
    ]
    return "\n".join(lines) + "\n"


async def _measure(curves: Curves, names: Sequence[str]) -> None:
    for name in names:
        await NAMES[name](curves)


NAMES: dict[str, Callable[[Curves], Awaitable[None]]] = {
    "workers": Curves.workers,
    "slots": Curves.slots,
    "steps": Curves.steps,
    "payload": Curves.payload,
    "waiting": Curves.waiting,
    "finished": Curves.finished,
    "workflows": Curves.workflows,
}


def main() -> None:
    """Measure the curves that the command line names, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="may be repeated")
    parser.add_argument("--runs", type=int, default=2_000, help="a point; default: %(default)s")
    parser.add_argument("--alone", type=int, default=50, help="one by one; default: %(default)s")
    parser.add_argument("--most", type=int, default=100_000,
                        help="waiting and finished runs; default: %(default)s")  # fmt: skip
    parser.add_argument("--into", type=Path, default=ROOT / "docs", metavar="DIR",
                        help="for growth.md, growth.json, growth.png; default: docs")  # fmt: skip
    wanted = parser.parse_args()
    plotting = environment("plot", PLOTTING)
    curves = Curves(wanted.runs, wanted.alone, wanted.most)
    uvloop.run(_measure(curves, wanted.only or list(NAMES)))
    result: dict[str, Any] = {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "runs": wanted.runs,
        "alone": wanted.alone,
        "points": [asdict(each) for each in curves.points],
    }
    wanted.into.mkdir(parents=True, exist_ok=True)
    source, image = wanted.into / "growth.json", wanted.into / "growth.png"
    source.write_text(json.dumps(result, indent=1) + "\n")
    text = _page(result, curves.points)
    (wanted.into / "growth.md").write_text(text)
    module = "tests.benchmarks.peers.foreign.plot_growth"
    subprocess.run([plotting, "-m", module, source, image], check=True, cwd=ROOT)
    print(text)


if __name__ == "__main__":
    main()
