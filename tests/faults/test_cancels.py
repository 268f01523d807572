"""A person's cancel that races with the commits of the run, with its end, and with deaths."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from aiki.errors import RunCancelled
from aiki.handle import Handle
from aiki.states import Status
from tests.faults.site import Site, serving
from tests.faults.workload import STEPS, Receipt

# A handler that is told may still do this.
CLEANUP = "restore"


async def outcome(handle: Handle[Receipt]) -> Receipt | str:
    try:
        return await handle.wait_for_completion(timeout=60)
    except RunCancelled as cancelled:
        return cancelled.reason


async def check_cancelled(site: Site, handle: Handle[Receipt]) -> None:
    """Check that nothing began after the cancel was delivered but the cleanup, which ran once."""
    recorded = await handle.journal()
    effects = site.effects(handle.id)
    if not recorded:
        assert effects == [], "it was never claimed"
        return
    cleanup = [step for step in recorded if step.task == CLEANUP]
    assert [step.outcome for step in cleanup] == ["completed"]
    record = await site.record(handle)
    point = next(step for step in recorded if step.key == record["cancel_at"])
    assert point.outcome == "abandoned"
    assert {step.task for step in recorded} <= {*STEPS, CLEANUP}
    # The one step in a thread may come to its first line after it was given up.
    late = {"validate"} & {point.task}
    begun = [e.task for e in effects if e.phase == "start" and e.task not in late]
    assert begun.count(CLEANUP) == 1
    assert begun[-1] == CLEANUP, begun
    # Its own effect may have happened, that of a step after it may not.
    after = STEPS[STEPS.index(point.task) + 1 :] if point.task in STEPS else ()
    siblings = {"reserve", "notify"} if point.task in ("reserve", "notify") else set[str]()
    assert not set(begun) & (set(after) - siblings), begun


async def test_a_cancel_at_any_moment_ends_a_run_once_and_for_good(
    tmp_path: Path, rng: random.Random
) -> None:
    async with serving(tmp_path) as (site, found):
        # About as long as an order takes on this machine at this hour
        begun = time.monotonic()
        await site.complete(await site.start_many(40, "warm"))
        typical = (time.monotonic() - begun) / 3

        async def one(number: int) -> Handle[Receipt]:
            await asyncio.sleep(rng.uniform(0, 1.5))
            handle = await site.start(f"n{number}")
            await asyncio.sleep(rng.uniform(0, typical) * rng.choice((0.1, 1, 3)))
            await handle.cancel("changed my mind")
            return handle

        handles: list[Handle[Receipt]] = []
        outcomes: list[Receipt | str] = []
        cancelled: list[Handle[Receipt]] = []
        completed: list[Handle[Receipt]] = []
        # The race must go both ways: where the machine is another by now, later or sooner.
        while len(handles) < 150 or min(len(cancelled), len(completed)) <= 5:
            assert len(handles) < 1500, f"{len(cancelled)} cancelled, {len(completed)} completed"
            numbers = range(len(handles), len(handles) + 150)
            more = await asyncio.gather(*(one(number) for number in numbers))
            ends = await asyncio.gather(*(outcome(handle) for handle in more))
            cancelled += [h for h, end in zip(more, ends, strict=True) if isinstance(end, str)]
            completed += [h for h, end in zip(more, ends, strict=True) if not isinstance(end, str)]
            handles += more
            outcomes += ends
            typical *= 3 if len(completed) < len(cancelled) else 1 / 3
        stories = await site.complete(completed)
        assert all(story.is_undisturbed() for story in stories)
        for handle in cancelled:
            assert (await handle.status()).status is Status.CANCELLED
            await check_cancelled(site, handle)
            assert await handle.cancel("again") is Status.CANCELLED
        journals = [await handle.journal() for handle in handles]
        await site.is_alive()
        assert [await handle.journal() for handle in handles] == journals
        assert await asyncio.gather(*(outcome(handle) for handle in handles)) == outcomes
        await site.is_consistent(workers=2)
        await site.ends(found)


@pytest.mark.parametrize(
    "points",
    [
        ("before-abandon_step", "after-abandon_step"),
        pytest.param(("before-finish_run", "after-finish_run"), marks=pytest.mark.slow),
    ],
)
async def test_a_death_around_the_delivery_of_a_cancel_delivers_it_once_at_that_point(
    tmp_path: Path, points: tuple[str, ...]
) -> None:
    async with serving(tmp_path, "--lease", "60s") as (site, found):
        for point in points:
            handle = await site.start(point, charge=f"gate:{point}")
            await site.under_way(handle, "charge")
            site.traps.set(point)
            await handle.cancel("no longer wanted")
            assert await outcome(handle) == "no longer wanted"
            record = await site.record(handle)
            assert record["cancel_at"].startswith("charge:")
            begun = [e.task for e in site.effects(handle.id) if e.phase == "start"]
            assert begun.count("restore") == begun.count("validate") == 1
            assert begun.count("charge") <= 2
            await found.has_workers(2)
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)
