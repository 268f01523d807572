"""Runs in whose life every script of a worker is sent, and small ones for everything else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiki
from aiki import Run, RunCancelled, current_step, fixed, task, workflow
from tests.faults.workload import POLL, charge, is_open, letter, notify, restore, ship, validate

sights = aiki.topic("sights", str)
voyages = workflow("voyages")
legs = workflow("legs")
strays = workflow("strays")
wrecks = workflow("wrecks")
parents = workflow("parents")
moorings = workflow("moorings")

ITEMS = ["x", "y", "z"]


@dataclass(frozen=True)
class Log:
    """What a voyage was told, and the executions whose results it was given, by step."""

    told: list[str] = field(default_factory=list[str])
    done: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Ship:
    """What may be asked and changed while a voyage is under way."""

    name: str = "nameless"


@task(retry=fixed(max_attempts=2, delay=0.01), heartbeat_timeout=60)
async def climb() -> str:
    """Say how far it is, and what is seen from there; fail the first time it has come so far."""
    step = current_step()
    step.heartbeat(f"attempt {step.attempt}")
    step.progress(1, 3)
    step.publish(sights, f"attempt {step.attempt}")
    while not is_open("seen"):  # noqa: ASYNC110 - opened by another process
        await asyncio.sleep(POLL)
    if step.attempt == 1:
        raise ConnectionError("fog")
    return str(step.heartbeat_details).partition(" ")[0]


@legs.v("1.0.0")
async def leg_v1(run: Run, name: str) -> str:
    """Be a child with one step."""
    return await validate.start(run, name, "")


@strays.v("1.0.0")
async def stray_v1(run: Run) -> None:
    """Be a child that has something to clean up when it is cancelled."""
    run.compensate(restore, "stray")
    await notify.start(run, "stray", "")
    await run.sleep("long", 3600)


@voyages.v("1.0.0", retry=fixed(max_attempts=2, delay=0.01))
async def voyage_v1(run: Run, leg: int, log: Log) -> Log:
    """Do everything that a run can do, one thing after the other."""
    told, done = list(log.told), dict(log.done)
    if leg == 1:
        await run.set_details("on the way")
        run.progress(1, 2)
        run.publish(sights, "a harbour")
        done["charge"] = await charge.start(run, "voyage", "once")
        told.append(await climb.start(run))
        try:
            async with asyncio.timeout(0.05):
                await notify.start(run, "voyage", "gate:never")
        except TimeoutError:
            told.append("late")
        await run.sleep("rest", 0.05)
        child = await leg_v1.start_as_child(run, "first")
        done["leg first"] = await child.wait_for_completion()
        mapped = await run.map(leg_v1, ITEMS)
        done |= {f"leg {item}": each for item, each in zip(ITEMS, mapped, strict=True)}
        stray = await stray_v1.start_as_child(run)
        await stray.cancel("far enough")
        try:
            await stray.wait_for_completion()
        except RunCancelled as cancelled:
            told.append(cancelled.reason)
        await letter.send(run, run.id, "to myself")
        told.append(await letter.wait(run))
        run.progress(1, 1)
        done["first rest"] = await ship.start(run, "first rest", "gate:first")
        if run.attempt == 1:
            raise RuntimeError("as it was told, the first time")
        await run.continue_as_new(2, Log(told, done))
    told.append(await letter.wait(run))
    run.progress(2, 2)
    done["second rest"] = await ship.start(run, "second rest", "gate:second")
    return Log(told, done)


@voyage_v1.query
def name_of(state: Ship) -> str:
    """Tell the name."""
    return state.name


@voyage_v1.update
async def rename(run: Run, state: Ship, name: str) -> str:
    """Give another name, by a step."""
    done = await restore.start(run, name)
    state.name = name
    return done


@wrecks.v("1.0.0")
async def wreck_v1(run: Run) -> str:
    """Ask another step, when it is repeated while the code is changed, than was recorded."""
    first = await validate.start(run, "wreck", "")
    if not is_open("changed"):
        await charge.start(run, "wreck", "")
    told = await letter.wait(run)
    return f"{told}, {len(first)}"


@parents.v("1.0.0")
async def parent_v1(run: Run) -> str:
    """End before its child does, which is cancelled for it."""
    return (await stray_v1.start_as_child(run)).id


@moorings.v("1.0.0")
async def mooring_v1(run: Run, gate: str) -> str:
    """Be held at a gate."""
    return await ship.start(run, "mooring", f"gate:{gate}")


HARBOURS = (voyages, legs, strays, wrecks, parents, moorings)
