"""How soon a parked run goes on: at its time, by an event, behind many recorded steps."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from aiki import Client, Handle, Status
from tests.benchmarks.figures import Bar, Figure, Report, Scale, percentile
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import Service
from tests.benchmarks.speed import loop_seconds
from tests.benchmarks.waiters import answering_v1, long_v1, loop_v1, sent, timer_v1

MODULE = "tests.benchmarks.waiters"
ALONE = Bar(20)
P50, P99 = Bar(5), Bar(25)
RESUME = Bar(100)
DEARER = Bar(3)

_PATIENCE = 240.0
_STEPS = 2_000
_NAPS = 50
_LOOPS = 5


async def measure(plan: Plan) -> Report:
    """Let one thing happen after the other, to runs that are parked."""
    loops: list[float] = []
    timers: list[list[float]] = []
    events: list[list[float]] = []
    trips: list[list[float]] = []
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client:
            for _ in range(20):
                await _event(client)
            for number in range(plan.rounds):
                loop_before = loop_seconds()
                timers.append(await _late(client, plan.alone))
                pairs = [await _event(client) for _ in range(plan.alone)]
                events.append([each for each, _ in pairs])
                trips.append([trip for _, trip in pairs])
                loops.append((loop_before + loop_seconds()) / 2)
                p50 = percentile(events[-1], 0.5)
                say(f"waits: round {number + 1}: event to handler p50 {p50:.2f} ms")
            resumes = [await _resume(client) for _ in range(plan.rounds)]
            say(f"waits: {_NAPS} sleeps in a loop")
            dearer = [await _dearer(client) for _ in range(plan.rounds)]

    def at(share: float, values: list[list[float]]) -> list[float]:
        return [percentile(each, share) for each in values]

    ratios = [event / trip for event, trip in zip(at(0.5, events), at(0.5, trips), strict=True)]
    scale = Scale.TIME
    figures = [
        Figure("one timer: late at the handler, p50", "ms", at(0.5, timers), scale, loops),
        Figure("one timer: late at the handler, p99", "ms", at(0.99, timers), scale, loops, ALONE),
        Figure("event sent to resumed handler: p50", "ms", at(0.5, events), scale, loops, P50),
        Figure("event sent to resumed handler: p99", "ms", at(0.99, events), scale, loops, P99),
        Figure("event sent to resumed handler / round trip: p50", "", ratios),
        Figure(f"resume of a run of {_STEPS:,} steps", "ms", resumes, scale, loops, RESUME),
        Figure(f"resume {_NAPS} of a loop of sleeps / the first", "", dearer, bar=DEARER),
    ]
    return Report(figures)


async def _late(client: Client, count: int) -> list[float]:
    """Let one timer after the other be due; milliseconds from then to the handler."""
    first = datetime.now(UTC) + timedelta(seconds=1.5)
    # Far enough from each other that each finds a service that has nothing to do
    moments = [first + timedelta(milliseconds=25 * number) for number in range(count)]
    handles = [await timer_v1.start(client, moment) for moment in moments]
    return [await handle.wait_for_completion(_PATIENCE) * 1000 for handle in handles]


async def _event(client: Client) -> tuple[float, float]:
    """Send an event to a parked run: ms until its handler goes on, and of one round trip."""
    handle = await answering_v1.start(client)
    await _becomes(handle, Status.AWAITING_EVENT)
    begun = time.perf_counter()
    await client.store.link.send(("PING",))
    trip = time.perf_counter() - begun
    return await _sent(handle) * 1000, trip * 1000


async def _sent(handle: Handle[float]) -> float:
    at = time.time()
    await sent.send(handle, None)
    return await handle.wait_for_completion(_PATIENCE) - at


async def _resume(client: Client) -> float:
    """Call a run with many recorded steps; ms until it is behind them."""
    handle = await long_v1.start(client, _STEPS)
    await _becomes(handle, Status.AWAITING_EVENT)
    return await _sent(handle) * 1000


async def _dearer(client: Client) -> float:
    """Give how much longer the last of a loop of sleeps takes to go on than the first."""
    first: list[float] = []
    last: list[float] = []
    for _ in range(_LOOPS):
        handle = await loop_v1.start(client, _NAPS)
        woken: list[float] = []
        for _ in range(_NAPS):
            await _becomes(handle, Status.SLEEPING)
            woken.append(time.time())
            await handle.wake_up()
        ends = await handle.wait_for_completion(_PATIENCE)
        first.append(ends[0] - woken[0])
        last.append(ends[-1] - woken[-1])
    return percentile(last, 0.5) / percentile(first, 0.5)


async def _becomes(handle: Handle[Any], status: Status) -> None:
    async with asyncio.timeout(_PATIENCE):
        while (await handle.status()).status is not status:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
