"""What is executed when waits are measured: runs that sleep, and runs that wait for messages."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from aiki import Run, event, task, workflow
from tests.benchmarks.workload import Order

sleeping = workflow("sleeping-order")
timer = workflow("timer")
answering = workflow("answering")
long = workflow("long")
loop = workflow("loop")

sent = event("sent")


@task
async def stamp(number: int) -> float:
    """Give the time; the number tells the steps of a run apart."""
    return time.time() + 0 * number


@sleeping.v("1.0.0")
async def sleeping_v1(run: Run, order: Order) -> str:
    """Sleep for a day."""
    await run.sleep("a day", timedelta(days=1))
    return order.email


@timer.v("1.0.0")
async def timer_v1(run: Run, moment: datetime) -> float:
    """Give how late the handler is called at a moment, in seconds."""
    await run.sleep_until("moment", moment)
    return time.time() - moment.timestamp()


@answering.v("1.0.0")
async def answering_v1(run: Run) -> float:
    """Give the time at which an event was given."""
    await sent.wait(run)
    return time.time()


@long.v("1.0.0")
async def long_v1(run: Run, steps: int) -> float:
    """Make so many steps, and give the time at which an event behind them was given."""
    for number in range(steps):
        await stamp.start(run, number)
    await sent.wait(run)
    return time.time()


@loop.v("1.0.0")
async def loop_v1(run: Run, sleeps: int) -> list[float]:
    """Sleep so often, and give the times at which that ended."""
    ends: list[float] = []
    for number in range(sleeps):
        await run.sleep("again", timedelta(days=1))
        ends.append(await stamp.start(run, number))
    return ends
