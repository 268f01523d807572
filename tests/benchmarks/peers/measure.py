"""Measure one peer, in its own environment: `python -m tests.benchmarks.peers.measure`.

The driver starts this once for the speed of a peer and once for its recovery; what was found is
the last line of the output, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import json
import signal
import sys
import time
from typing import Any

from tests.benchmarks.peers.orders import STEPS, make_order
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import Site
from tests.benchmarks.speed import loop_seconds

PAUSE = 0.05
_PATIENCE = 300.0
_LAST_WORDS = 3_000


async def speed(peer: Peer, site: Site, wanted: argparse.Namespace) -> dict[str, Any]:
    """Measure throughput, cost and latency."""
    await _round(peer, site, max(50, wanted.runs // 10))
    rounds: list[dict[str, Any]] = []
    begun = time.monotonic()
    while len(rounds) < wanted.rounds and time.monotonic() - begun < wanted.seconds:
        rounds.append(await _round(peer, site, wanted.runs))
    memory = site.memory()
    alone: list[float] = []
    loop, begun = loop_seconds(), time.monotonic()
    # A peer that looks once a second would take minutes for the same number.
    while len(alone) < wanted.alone and time.monotonic() - begun < wanted.seconds / 4:
        started = time.perf_counter()
        await peer.process_one(make_order(len(alone)))
        alone.append((time.perf_counter() - started) * 1e3)
    alone_loop = (loop + loop_seconds()) / 2
    return {"rounds": rounds, "alone": alone, "alone_loop": alone_loop, "mebibytes": memory}


async def _round(peer: Peer, site: Site, runs: int) -> dict[str, Any]:
    orders = [make_order(number) for number in range(runs)]
    site.tally.clear()
    loop, cpu, begun = loop_seconds(), site.cpu(), time.perf_counter()
    await peer.submit(orders)
    submitted = time.perf_counter() - begun
    await site.tally.reaches(runs, _PATIENCE)
    await peer.results()
    seconds = time.perf_counter() - begun
    spent = {role: now - cpu[role] for role, now in site.cpu().items()}
    _say(f"{runs / seconds:,.0f} runs/s")
    return {
        "runs": runs,
        "seconds": seconds,
        "submitted": submitted,
        "cpu": spent,
        "loop": (loop + loop_seconds()) / 2,
    }


async def recovery(peer: Peer, site: Site, wanted: argparse.Namespace) -> dict[str, Any]:
    """Kill one of two workers when a third of the work is done; wait for the last run."""
    together, count = peer.STEPS_TOGETHER, wanted.killed
    pause = PAUSE * len(STEPS) if together else PAUSE
    await _round(peer, site, 50)
    site.tally.clear()
    submitting = asyncio.create_task(
        peer.submit([make_order(number, pause) for number in range(count)])
    )
    third = count // 3 if together else count * len(STEPS) // 3
    await site.tally.reaches(third, _PATIENCE)
    killed = time.monotonic()
    site.kill(site.victim, restart=wanted.restart)
    await submitting
    deadline = killed + wanted.patience
    while (whole := site.tally.ended()) < count and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    seconds = time.monotonic() - killed
    executed = site.tally.executed()
    return {
        "killed_at_steps": third,
        "runs": count,
        "ended": whole,
        "seconds": seconds if whole == count else None,
        "patience": wanted.patience,
        "executed_twice": sum(times - 1 for times in executed.values()),
    }


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


async def _measure(wanted: argparse.Namespace) -> dict[str, Any]:
    module, _, name = wanted.peer.partition(":")
    kind: type[Peer] = getattr(importlib.import_module(f"tests.benchmarks.peers.{module}"), name)
    site = Site(wanted.setting)
    this = asyncio.current_task()
    assert this is not None
    # Told to end by a driver that is interrupted or has waited long enough, it cleans up as well.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        peer = kind(site)
        await peer.start()
        found = await (recovery if wanted.phase == "recovery" else speed)(peer, site, wanted)
        await peer.close()
    except BaseException:
        sys.stderr.write(site.log.read_text(errors="replace")[-_LAST_WORDS:])
        raise
    finally:
        await site.close()
    return found | {"servers": site.versions}


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", help="module:class")
    parser.add_argument("phase", choices=("speed", "recovery"))
    parser.add_argument("--setting", default="")
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--killed", type=int, default=200)
    parser.add_argument("--patience", type=float, default=150.0)
    parser.add_argument("--restart", action="store_true")
    wanted = parser.parse_args()
    gc.collect()
    gc.freeze()
    run = asyncio.run
    if importlib.util.find_spec("uvloop"):  # where the peer's own packages bring it
        run = importlib.import_module("uvloop").run
    print(json.dumps(run(_measure(wanted))))


if __name__ == "__main__":
    main()
