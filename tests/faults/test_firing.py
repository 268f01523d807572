"""Schedules whose supervisors die while they fire them: each occurrence is started, and once."""

from __future__ import annotations

import signal
from itertools import pairwise
from pathlib import Path
from typing import Literal

import psutil
import pytest

import aiki
from aiki.schedule_handle import ScheduleHandle, ScheduleStatus
from tests.faults.site import WORKLOAD, Site, site_at
from tests.faults.workload import Order, order_v1
from tests.support.store import Scene
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

MORE = 4  # occurrences, after a supervisor has died


def supervised(site: Site, name: str) -> Supervised:
    """Prepare a supervisor that can be caught, with one worker."""
    home = site.directory / name
    home.mkdir()
    store = ("--redis", site.server.url, "--workers", "1")
    found = Supervised(home, command=("-m", "tests.faults.trapped_supervisor", WORKLOAD, *store))
    found.ledger = site.ledger
    return found


async def one_dies(one: Supervised, two: Supervised) -> tuple[Supervised, Supervised]:
    """Wait until one of two supervisors has been caught: that one, and the other."""

    def caught() -> list[Supervised]:
        return [each for each in (one, two) if _has_ended(each)]

    (dead,) = await eventually(caught, 60.0, "the death of a supervisor")
    assert await dead.ends() == -signal.SIGKILL
    return dead, two if dead is one else one


def _has_ended(found: Supervised) -> bool:
    return psutil.Process(found.pid).status() == psutil.STATUS_ZOMBIE


async def becomes(handle: ScheduleHandle, *, started: int, buffered: int = 0) -> None:
    """Wait until a schedule has started, and buffers, at least so many."""

    async def is_so() -> bool:
        found = await handle.describe()
        return found.started >= started and len(found.buffered) >= buffered

    await eventually(is_so, 60.0, f"{started} started and {buffered} buffered")


async def check_occurrences(site: Site, found: ScheduleStatus) -> None:
    """See that each planned time, from the first to the last, has one run, or waits for it."""
    assert found.missed == found.skipped == found.dropped == 0
    scene = Scene(site.client.store)
    runs = [run.id async for run in site.client.runs(workflow="orders")]
    occurrences = {run: int((await scene.record(run))["occurrence"]) / 1000 for run in runs}
    begun = sorted(occurrences.values())
    assert len(begun) == found.started
    planned = begun + [occurrence.planned.timestamp() for occurrence in found.buffered]
    assert {b - a for a, b in pairwise(planned)} == {1.0}
    # Of these it remembers the last twenty.
    recent = {occurrence.run_id: occurrence.planned.timestamp() for occurrence in found.recent}
    assert len(recent) == min(found.started, 20)
    assert sorted(recent.values()) == begun[-len(recent) :]
    assert recent.items() <= occurrences.items()


@pytest.mark.parametrize(
    ("overlap", "trap"),
    [
        ("allow_all", "before-fire_schedule"),
        pytest.param("allow_all", "after-fire_schedule", marks=pytest.mark.slow),
        pytest.param("allow_all", "after-take_schedules", marks=pytest.mark.slow),
        pytest.param("buffer_all", "before-tend_schedule", marks=pytest.mark.slow),
        pytest.param("buffer_all", "after-tend_schedule", marks=pytest.mark.slow),
    ],
)
async def test_an_occurrence_at_which_a_supervisor_dies_is_started_once_all_the_same(
    tmp_path: Path, overlap: Literal["allow_all", "buffer_all"], trap: str
) -> None:
    """Given two supervisors on one store; a reply of theirs is lost as well."""
    async with site_at(tmp_path) as site:
        with supervised(site, "one") as one, supervised(site, "two") as two:
            await one.serves()
            await two.serves()
            order = Order("a", {"charge": "gate:open"})
            defined = aiki.schedule("orders", order_v1.bind(order), every=1, overlap=overlap)
            handle = await defined.activate(site.client)
            await becomes(handle, started=1, buffered=2 * (overlap == "buffer_all"))
            site.traps.set(trap, "lose-fire_schedule")
            site.open("open")
            dead, other = await one_dies(one, two)
            await becomes(handle, started=(await handle.describe()).started + MORE)
            await handle.pause()
            found = await handle.describe()
            await check_occurrences(site, found)
            await site.complete([site.handle(each.run_id) for each in found.recent])
            await dead.leaves_nothing()
            await site.ends(other)
