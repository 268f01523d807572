"""Orders under way on a supervisor while something happens, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import psutil

from aiki import StoreRefused, StoreUnavailable
from aiki.handle import Handle
from tests.faults.site import Site
from tests.faults.workload import Order, Receipt, order_v1
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

# Between two starts, so that some order is always between two of its steps.
PACE = 0.02
MORE = 10
LONG = 80.0  # seconds, on a busy machine
# Of what waits for a store: a twentieth of a core, and what it costs to notice at all.
IDLE, NOTICING = 0.05, 0.6


class Traffic:
    """Steps under way, runs parked, and orders coming in."""

    def __init__(self, site: Site, found: Supervised, *, pace: float = PACE) -> None:
        self._site = site
        self.found = found
        self._pace = pace
        self.moving: list[Handle[Receipt]] = []
        self._waiting: list[Handle[Receipt]] = []
        self._parked: list[Handle[Receipt]] = []
        self._is_over = asyncio.Event()
        self.calls = Counter[str]()
        """How starts were answered: `ok`, `refused` (certainly not done) or `unknown`.

        What was not answered by ok is started again with the same key.
        """

    async def begin(self) -> None:
        """Have steps under way, runs parked, and orders coming in."""
        self._workers = await self.found.has_workers(2)
        self._waiting = await self._site.start_many(5, "waiting", charge="gate:over")
        self._parked = await self._site.start_many(3, "parked", reserve="fail:over")
        for handle in self._waiting:
            await self._site.under_way(handle, "charge")
        self._starting = asyncio.create_task(self._start())

    async def flows(self, more: int = MORE, within: float = LONG) -> None:
        """See so many more orders accepted."""
        begun, what = len(self.moving), f"{more} orders after the fault"
        await eventually(lambda: len(self.moving) >= begun + more, within, what)

    async def end(self, *, undisturbed: bool = True, strangers: int = 0) -> None:
        """See that every accepted order was done, by the workers that were there before.

        Undisturbed, each step was executed once, by the first owner of its run. There may be
        so many `strangers`: orders of which their starter never heard whether they were started.
        """
        await self.flows()
        self._is_over.set()  # not cancelled: a start that is under way may be done, or not
        await self._starting
        self._site.open("over")
        stories = await self._site.complete([*self._waiting, *self.moving], within=LONG)
        if undisturbed:
            assert [story for story in stories if not story.is_undisturbed()] == []
        stories = await self._site.complete(self._parked)
        if undisturbed:
            assert all(story.ends.total() == 5 for story in stories)
        # No start that was refused or unknown has left a second run behind.
        known = self._site.started | {each.id for each in self.moving}
        unknown = {effect.run for effect in self._site.effects()} - known
        assert len(unknown) <= strangers, f"runs that nobody has started: {unknown}"
        await ends_well(self._site, self.found, self._workers if undisturbed else None)

    async def _start(self) -> None:
        while not self._is_over.is_set():
            name = f"moving-{len(self.moving)}"
            keyed = order_v1.with_options(idempotency_key=name)
            handle: Handle[Receipt] | None = None
            while handle is None:
                try:
                    handle = await keyed.start(self._site.client, Order(name))
                except StoreRefused:
                    self.calls["refused"] += 1
                except StoreUnavailable:
                    self.calls["unknown"] += 1
                else:
                    self.calls["ok"] += 1
                await asyncio.sleep(self._pace)
            self.moving.append(handle)


@asynccontextmanager
async def traffic_on(site: Site, *arguments: str) -> AsyncGenerator[Traffic]:
    """Have orders under way on a supervisor, and see in the end that all is as it must be."""
    with site.supervised(*arguments) as found:
        await found.serves()
        traffic = Traffic(site, found)
        await traffic.begin()
        yield traffic
        await traffic.end()


async def ends_well(
    site: Site, found: Supervised, workers: list[psutil.Process] | None = None
) -> None:
    """See that all is well, with the same workers if so told, and end it in order."""
    await site.is_alive()
    if workers is not None:
        assert found.workers() == workers
    await site.is_consistent(workers=2)
    await site.ends(found)


def everybody(found: Supervised) -> list[psutil.Process]:
    """Give the supervisor and its workers."""
    return [psutil.Process(found.pid), *found.workers()]


def cpu(processes: list[psutil.Process]) -> float:
    """Give the seconds of processor time that processes have taken."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


@asynccontextmanager
async def at_rest(found: Supervised) -> AsyncGenerator[None]:
    """See that the processes of a supervisor neither spin nor babble while the block lasts."""
    processes = everybody(found)
    lines, spent, begun = len(found.output().splitlines()), cpu(processes), time.monotonic()
    yield
    lasted = time.monotonic() - begun
    spent, lines = cpu(processes) - spent, len(found.output().splitlines()) - lines
    assert spent <= IDLE * lasted + NOTICING, f"a hot loop: {spent:.2f} s in {lasted:.1f} s"
    assert lines <= 10 * lasted + 10, f"{lines} lines in {lasted:.1f} s"
