"""Every script that is sent, by processes that die at each of its points, or lose its reply.

A story is a life in which each of its scripts is sent. It is told once with all of them trapped,
one death after the other; and once for each script, which takes minutes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import aiki
from aiki import NotFound, RunCancelled
from aiki.states import Status
from aiki.store.scripts import SCRIPTS
from tests.faults.caller import plain_v1
from tests.faults.cast import LONG, Cast, cast_of
from tests.faults.nursery import Nursery
from tests.faults.points import STORIES
from tests.faults.site import site_at
from tests.faults.traps import POINTS
from tests.faults.voyage import (
    Log,
    leg_v1,
    mooring_v1,
    name_of,
    parent_v1,
    rename,
    voyage_v1,
    wreck_v1,
)
from tests.faults.workload import Order, letter, order_v1
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


def test_each_script_is_sent_by_somebody_who_may_die() -> None:
    assert {script for _, scripts in STORIES.values() for script in scripts} == set(SCRIPTS)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("story", STORIES)
async def test_a_story_comes_to_its_end_though_each_script_has_its_fault(
    tmp_path: Path, nursery: Nursery, story: str, point: str
) -> None:
    _, scripts = STORIES[story]
    await told(tmp_path, nursery, story, point, *scripts)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("story", "script"),
    [(story, script) for story, (_, scripts) in STORIES.items() for script in scripts],
)
async def test_a_story_comes_to_its_end_though_a_script_has_its_fault(
    tmp_path: Path, nursery: Nursery, story: str, script: str, point: str
) -> None:
    await told(tmp_path, nursery, story, point, script)


async def told(directory: Path, nursery: Nursery, story: str, point: str, *scripts: str) -> None:
    """Tell a story in which these scripts have a fault at this point, each once."""
    role, _ = STORIES[story]
    async with site_at(directory) as site, cast_of(site, nursery, role) as cast:
        site.traps.set(*(f"{point}-{script}" for script in scripts))
        await STORY[story](cast)
        # A story may be over before each of those in it has beaten.
        await eventually(lambda: not site.traps.unsprung("beat"), LONG, "a beat")
        await cast.ends()
        assert not site.traps.unsprung(), site.traps.unsprung()
        if point != "lose":
            assert cast.deaths == len(scripts)
        await site.is_consistent(workers=0)


async def voyage(cast: Cast) -> None:
    """See a run through that does everything, while it is asked, changed and paused."""
    site, client = cast.site, cast.site.client
    cast.enter("supervisor")
    for _ in range(2):
        cast.enter("worker")
    handle = await voyage_v1.start(client, 1, Log())

    async def has_beaten() -> bool:
        return any(step.heartbeat for step in await handle.journal() if step.task == "climb")

    await eventually(has_beaten, LONG, "a heartbeat")
    site.open("seen")
    request = rename.with_options(id="a name", timeout=LONG)
    _, renamed = await asyncio.gather(
        name_of.with_options(timeout=LONG).ask(handle), request.ask(handle, "Argo")
    )
    await rests(cast, handle, "first")

    async def has_continued() -> bool:
        return (await handle.describe()).generation == 1

    await eventually(has_continued, LONG, "its second leg")
    await eventually(lambda: has(handle, Status.AWAITING_EVENT), LONG, "its wait")
    await letter.send(handle, "to the voyage", idempotency_key="once")
    await rests(cast, handle, "second")
    log = await handle.wait_for_completion(LONG)
    assert log.told == [
        "attempt", "late", "far enough", "to myself", "to the voyage",
    ]  # fmt: skip
    assert await request.ask(handle, "Argo") == renamed
    assert len(log.done) == 7
    check_executions(cast, {*log.done.values(), renamed})
    counts = await client.count_runs()
    assert counts["voyages"] == {Status.COMPLETED: 1}
    assert counts["legs"] == {Status.COMPLETED: 4}
    assert counts["strays"] == {Status.CANCELLED: 1}


async def rests(cast: Cast, handle: aiki.Handle[Log], gate: str) -> None:
    """Let a run rest for a moment while it is at a step that waits for a gate."""

    def is_at_gate() -> bool:
        effects = [effect for effect in cast.site.effects(handle.id) if effect.task == "ship"]
        ended = {effect.step for effect in effects if effect.phase == "end"}
        return any(effect.step not in ended for effect in effects)

    await eventually(is_at_gate, LONG, f"its {gate} rest")
    await handle.pause()
    cast.site.open(gate)
    await eventually(lambda: has(handle, Status.PAUSED), LONG, "its rest")
    await handle.resume()


def check_executions(cast: Cast, executions: set[str]) -> None:
    """See that what was recorded was done, and that no step began again after that."""
    effects = cast.site.effects()
    for execution in executions:
        (done,) = (
            number
            for number, effect in enumerate(effects)
            if (effect.execution, effect.phase) == (execution, "end")
        )
        step = effects[done].run, effects[done].step
        again = [e for e in effects[done:] if (e.run, e.step) == step and e.phase == "start"]
        assert again == [], effects[done]


async def has(handle: aiki.Handle[object], status: Status) -> bool:
    return (await handle.status()).status is status


async def wreck(cast: Cast) -> None:
    """Hold a run whose code was changed, and let it go on when the change is taken back."""
    cast.enter("supervisor")
    cast.enter("worker", divergence=0.3)
    handle = await wreck_v1.start(cast.site.client)
    await eventually(lambda: has(handle, Status.AWAITING_EVENT), LONG, "its wait")
    cast.site.open("changed")
    await letter.send(handle, "hello", idempotency_key="once")
    await eventually(lambda: has(handle, Status.STALLED), LONG, "its hold")
    cast.site.shut("changed")
    await handle.resume()
    assert await handle.wait_for_completion(LONG) == "hello, 32"
    assert Counter(e.task for e in cast.site.effects() if e.phase == "end") == {
        "validate": 1, "charge": 1,
    }  # fmt: skip


async def crowd(cast: Cast) -> None:
    """Offer more to a worker that waits than it has room for."""
    client = cast.site.client
    cast.enter("supervisor")
    cast.enter("worker", slots=1)
    handles: list[aiki.Handle[str]] = []
    while cast.site.traps.unsprung():
        # Started together, they are one command
        handles += await asyncio.gather(
            leg_v1.start(client, "of many"), plain_v1.start(client, "of many")
        )
        for handle in handles[-2:]:
            await handle.wait_for_completion(LONG)
    results = [await handle.wait_for_completion() for handle in handles]
    check_executions(cast, set(results))
    assert len(set(results)) == len(results)


async def chores(cast: Cast) -> None:
    """Do all that a supervisor does in the store, one thing of each kind at least."""
    site, client = cast.site, cast.site.client
    # Given a worker that was killed when no supervisor was there
    victim = cast.enter("worker")
    orphan = await mooring_v1.start(client, "orphan")
    await eventually(lambda: site.effects(orphan.id), LONG, "its step")
    await cast.kill(victim)
    site.open("orphan")
    # What is to be removed, held, started and cancelled
    cast.enter("worker")
    old = await plain_v1.start(client, "old")
    await old.wait_for_completion(LONG)
    unserved = await order_v1.start(client, Order("unserved"))
    later = await plain_v1.with_options(delay=0.3).start(client, "later")
    parent = await parent_v1.start(client)
    order = mooring_v1.bind("occasion")
    defined = aiki.schedule("occasions", order, every=1, overlap="buffer_all")
    schedule = await defined.activate(client)
    child = client.handle(await parent.wait_for_completion(LONG))
    # Waited for from now on: what is over is gone after two seconds.
    waits = [asyncio.create_task(each.wait_for_completion(LONG)) for each in (child, later, orphan)]
    for _ in range(2):
        cast.enter("supervisor", retention=2.0, unserved=1.0)
    cancelled, *others = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(cancelled, RunCancelled)
    assert [each for each in others if isinstance(each, BaseException)] == []

    async def is_buffered() -> bool:
        return len((await schedule.describe()).buffered) > 0

    await eventually(is_buffered, LONG, "an occurrence that waits")
    (first,) = (await schedule.describe()).recent
    site.open("occasion")
    await eventually(lambda: has(unserved, Status.STALLED), LONG, "a hold")
    await eventually(lambda: is_gone(old), LONG, "a removal")
    while site.traps.unsprung():  # a supervisor may have died of something else in the middle
        await one_more_dies(cast)
    begun = (await schedule.describe()).started

    async def goes_on() -> bool:
        found = await schedule.describe()
        return found.started >= begun + 2 and not found.buffered

    await eventually(goes_on, LONG, "two more occurrences")
    await schedule.pause()
    found = await schedule.describe()
    assert found.missed == found.skipped == found.dropped == 0
    planned = [occurrence.planned.timestamp() for occurrence in reversed(found.recent)]
    assert {b - a for a, b in pairwise(planned)} == {1.0}
    # It remembers the last twenty; all of them are one for each second.
    assert len(planned) == min(found.started, 20)
    assert planned[-1] - first.planned.timestamp() == found.started - 1
    runs = {occurrence.run_id for occurrence in found.recent}
    await eventually(lambda: runs <= ended(cast), LONG, "the end of each")
    check_each_step_ended_once(cast)
    await unserved.cancel()


async def one_more_dies(cast: Cast) -> None:
    """Let a worker die, and wait until a supervisor that starts has found it."""
    worker = cast.enter("worker")

    async def is_registered() -> bool:
        return worker.pid in [each.pid for each in await cast.site.client.store.workers.list()]

    async def is_given_up() -> bool:
        return not await is_registered()

    await eventually(is_registered, LONG, "a lease")
    await cast.kill(worker)
    cast.enter("supervisor", retention=2.0, unserved=1.0)
    await eventually(is_given_up, LONG, "its recovery")


async def is_gone(handle: aiki.Handle[str]) -> bool:
    try:
        await handle.status()
    except NotFound:
        return True
    return False


def ended(cast: Cast) -> set[str]:
    return {effect.run for effect in cast.site.effects() if effect.phase == "end"}


def check_each_step_ended_once(cast: Cast) -> None:
    """See that no step had its effect twice, where no worker has died in it."""
    ends = Counter((e.run, e.step) for e in cast.site.effects() if e.phase == "end")
    assert set(ends.values()) == {1}, ends


async def calls(cast: Cast) -> None:
    """Send everything that clients send."""
    cast.enter("supervisor")
    for _ in range(2):
        cast.enter("worker")
    cast.enter("caller")
    await eventually(lambda: not cast.has("caller"), LONG, "the end of the caller")
    check_each_step_ended_once(cast)
    counts = await cast.site.client.count_runs()
    # Two have keys, and whoever comes again forks again, and triggers again.
    assert 4 <= counts.pop("plain")[Status.COMPLETED] <= 4 + 2 * cast.deaths
    assert counts == {
        "listeners": {Status.COMPLETED: 1},
        "sleepers": {Status.COMPLETED: 1, Status.CANCELLED: 2},
        "fragile": {Status.COMPLETED: 1},
        "asked": {Status.COMPLETED: 1},
        "tellers": {Status.COMPLETED: 1},
    }


STORY: dict[str, Callable[[Cast], Awaitable[None]]] = {
    "voyage": voyage,
    "wreck": wreck,
    "crowd": crowd,
    "chores": chores,
    "calls": calls,
}
