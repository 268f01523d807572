"""What the workers of these tests execute: orders whose every effect is in the ledger.

Under a supervisor: `python -m aiki.supervisor tests.faults.workload`. How a step behaves is said
in the order, so that a test can let one of many misbehave.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

from aiki import Run, current_step, event, fixed, task, workflow
from tests.faults.ledger import note, place
from tests.faults.traps import die, is_caught, lay

# How often a step looks at its gate: rarely enough to count for nothing.
POLL = 0.02


@dataclass(frozen=True)
class Order:
    """What to do, and how each step is to behave: see `_behave`."""

    name: str
    how: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Receipt:
    """How an order ends: with the executions whose results were recorded, by step."""

    name: str
    executions: dict[str, str]


def is_open(gate: str) -> bool:
    """Tell whether the test has opened a gate."""
    return (place() / f"gate-{gate}").exists()


eaten: list[bytes] = []


def _eat(gate: str) -> None:
    """Use more and more memory, and touch it."""
    while not is_open(gate):
        eaten.append(os.urandom(2**20) * 8)
        time.sleep(0.01)


def _gorge(gate: str) -> None:
    """Do the same, where a trap is set."""
    if is_caught("gorge"):
        _eat(gate)


def _spin(gate: str) -> None:
    while not is_open(gate):
        pass


def _wait(gate: str) -> None:
    while not is_open(gate):
        time.sleep(POLL)


def _fail(gate: str) -> None:
    if not is_open(gate):
        note("-", "fail")
        raise RuntimeError("as it was told")


def _fail_once(_gate: str) -> None:
    if current_step().attempt == 1:
        note("-", "fail")
        raise RuntimeError("as it was told, the first time")


BEHAVIOURS: dict[str, Callable[[str], object]] = {
    "wait": _wait,
    "spin": _spin,
    "eat": _eat,
    "gorge": _gorge,
    "fail": _fail,
    "once": _fail_once,
    "nap": lambda _: time.sleep(0.03),
    "sleep": lambda _: time.sleep(1e9),
    "exit": lambda gate: is_open(gate) or os._exit(3),
    "abort": lambda gate: is_open(gate) or os.abort(),
    "fault": lambda gate: is_open(gate) or ctypes.string_at(0),
}
"""What a step may do between its effects: a word, a colon, and a gate that ends it."""


def _begin() -> str:
    begun = time.monotonic_ns()  # before anything that lets another thread go on meanwhile
    execution = uuid4().hex
    die("before-body")
    note(execution, "start", begun)
    return execution


def _end(execution: str) -> str:
    note(execution, "end")
    die("after-effect")
    return execution


async def _step(how: str) -> str:
    execution = _begin()
    word, _, gate = how.partition(":")
    if word == "gate":
        while not is_open(gate):  # noqa: ASYNC110 - opened by another process
            await asyncio.sleep(POLL)
    elif word:
        BEHAVIOURS[word](gate)
    return _end(execution)


@task
def validate(name: str, how: str) -> str:
    """Do the first step, in a thread."""
    del name
    execution = _begin()
    word, _, gate = how.partition(":")
    if word:
        BEHAVIOURS[word](gate)
    return _end(execution)


@task(retry=fixed(max_attempts=50, delay=0.05))
async def charge(name: str, how: str) -> str:
    """Do the second step, again when it fails."""
    del name
    return await _step(how)


@task(retry=fixed(max_attempts=50, delay=1.2))
async def reserve(name: str, how: str) -> str:
    """Do one of two steps at once; when it fails, the run parks until the next attempt."""
    del name
    return await _step(how)


@task
async def notify(name: str, how: str) -> str:
    """Do the other one."""
    del name
    return await _step(how)


@task
async def ship(name: str, how: str) -> str:
    """Do the last step."""
    del name
    return await _step(how)


@task
async def restore(name: str) -> str:
    """Clean up after an order that did not come to its end."""
    del name
    return await _step("")


STEPS: tuple[str, ...] = ("validate", "charge", "reserve", "notify", "ship")

orders = workflow("orders")


@orders.v("1.0.0")
async def order_v1(run: Run, order: Order) -> Receipt:
    """Do five steps, two of them at once; clean up when the order is cancelled."""
    how = order.how.get
    try:
        first = await validate.start(run, order.name, how("validate", ""))
        second = await charge.start(run, order.name, how("charge", ""))
        third, fourth = await asyncio.gather(
            reserve.start(run, order.name, how("reserve", "")),
            notify.start(run, order.name, how("notify", "")),
        )
        fifth = await ship.start(run, order.name, how("ship", ""))
    except asyncio.CancelledError:
        await restore.start(run, order.name)
        raise
    executions = dict(zip(STEPS, (first, second, third, fourth, fifth), strict=True))
    return Receipt(order.name, executions)


letter = event("letter", str)
errands = workflow("errands")


@errands.v("1.0.0")
async def errand_v1(run: Run, name: str) -> list[str]:
    """Sleep, write to itself, wait for what does not come, and for what the test sends."""
    begun = run.now()
    await run.sleep("short", 0.01)
    await run.sleep("long", 1.2)
    await letter.send(run, run.id, f"to {name}")
    own = await letter.wait(run)
    none = await letter.wait(run, timeout=0.05)
    slept = (run.now() - begun).total_seconds() >= 1.2
    answer = await letter.wait(run, timeout=600)
    await ship.start(run, name, "")
    return [own, repr(none), str(slept), str(answer)]


if multiprocessing.parent_process() is not None:
    lay()
