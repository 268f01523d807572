"""What must be done whoever does it: due timers, expired leases, unserved runs, retention, sweep.

Every supervisor and every library worker runs this. Whether something is due is decided by the
scripts, so any number of housekeepers may do it at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from aiki.errors import AikiError
from aiki.store import Store
from aiki.store.timers import BATCH, SWEEP_EVERY

_logger = logging.getLogger("aiki.housekeeping")

TIMERS_EVERY = 5.0  # without a hint of an earlier one
CASCADES_EVERY = 10.0  # likewise
RETENTION_EVERY = 60.0
IDLE_EVERY = 10.0
SERVER_EVERY = 15.0
RETENTION = 7 * 86400.0  # seconds that a finished run is kept
UNSERVED_EVERY = 60.0
UNSERVED_AFTER = 86400.0  # seconds that a run waits for somebody who serves its version


class Housekeeping:
    """The recurring jobs of one process."""

    def __init__(
        self,
        store: Store,
        *,
        lease: float,
        retention: float | None = None,
        unserved_after: float | None = None,
    ) -> None:
        self._store = store
        self._lease = lease
        # Only supervisors are told these; without one on the store, the usual times hold.
        self._retention = retention
        self._unserved_after = unserved_after
        self._wake = asyncio.Event()
        self._due: dict[Callable[[], Awaitable[float]], float] = {}  # by the loop's clock

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        # Before the first hint can come, which is at once.
        self._due = dict.fromkeys(
            (
                self._fire_timers,
                self._cascade,
                self._recover_expired,
                self._requeue,
                self._stall_unserved,
                self._remove,
                self._sweep,
                self._look_at_the_server,
            ),
            0.0,
        )
        await self._store.inbox.subscribe("timers", self._on_timer_hint, self._wake.set)
        await self._store.inbox.subscribe("cascades", self._on_cascade_hint)
        troubled: set[Callable[[], Awaitable[float]]] = set()
        while True:
            for job in self._due:
                if loop.time() < self._due[job]:
                    continue
                self._due[job] = math.inf
                try:
                    self._hint(job, await job())
                    troubled.discard(job)
                except AikiError as error:
                    self._hint(job, 1.0)
                    if not troubled:
                        _logger.warning("housekeeping waits for the store: %s", error)
                    troubled.add(job)
            self._wake.clear()
            try:
                async with asyncio.timeout_at(min(self._due.values())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _hint(self, job: Callable[[], Awaitable[float]], pause: float) -> None:
        """Note that a job is due in so many seconds, unless it is earlier."""
        due = asyncio.get_running_loop().time() + pause
        if due < self._due[job]:
            self._due[job] = due
            self._wake.set()

    def _on_timer_hint(self, message: bytes) -> None:
        self._hint(self._fire_timers, int(message) / 1000)

    def _on_cascade_hint(self, _message: bytes) -> None:
        self._hint(self._cascade, 0.0)

    async def _fire_timers(self) -> float:
        loop, count = asyncio.get_running_loop(), BATCH
        left: float | None = None
        asked = loop.time()
        while count == BATCH:
            asked = loop.time()
            count, left = await self._store.timers.fire()
        if left is None:
            return TIMERS_EVERY
        # From when we asked: by when the answer is written to disk and read, it is old.
        return max(0.0, min(left, TIMERS_EVERY) - (loop.time() - asked))

    async def _cascade(self) -> float:
        while await self._store.children.cascade():
            pass  # each look leaves fewer children
        return CASCADES_EVERY

    async def _recover_expired(self) -> float:
        expired = await self._store.workers.find_expired(self._lease)
        for incarnation in expired:
            # Several at once point at the host or the store, not at a run.
            recovered = await self._store.workers.recover(
                incarnation,
                cause="its lease ran out",
                counted=len(expired) == 1,
                only_if_expired=True,
            )
            _logger.warning(
                "the lease of worker %s ran out: %d runs queued again, %d stalled",
                incarnation,
                len(recovered.queued),
                len(recovered.stalled),
            )
        return self._lease / 4

    async def _requeue(self) -> float:
        moved = await self._store.workers.requeue_idle(self._lease)
        if moved:
            _logger.warning("%d ready entries were delivered and not claimed; queued again", moved)
        return IDLE_EVERY

    async def _stall_unserved(self) -> float:
        after = self._unserved_after
        if after is None:
            if await self._there_is_a_supervisor():
                return UNSERVED_EVERY
            after = UNSERVED_AFTER
        every = min(UNSERVED_EVERY, after / 10)
        held = await self._store.timers.stall_unserved(after, every=every)
        for run_id in held:
            _logger.warning("run %s is held: nobody has served its version for long", run_id)
        return 0.0 if len(held) == BATCH else every

    async def _there_is_a_supervisor(self) -> bool:
        return (await self._store.workers.beat_supervisor("", 0))[1] > 0

    async def _remove(self) -> float:
        workflows = await self._store.catalog.workflows()
        retention = self._retention
        if retention is None:
            if await self._there_is_a_supervisor():
                return RETENTION_EVERY
            retention = RETENTION
        while await self._store.timers.remove_finished(retention, workflows) == BATCH:
            pass
        return min(RETENTION_EVERY, max(1.0, retention / 10))

    async def _look_at_the_server(self) -> float:
        store = self._store
        wrong = "; ".join(await store.preflight.look_again(store.link))
        if wrong:  # each time, since a key that is evicted is a run that is lost
            _logger.error("%s is about to lose runs: %s", store.address.described, wrong)
        return SERVER_EVERY

    async def _sweep(self) -> float:
        for run_id, words in await self._store.timers.sweep():
            _logger.error("the sweep mended run %s: it %s", run_id, words)
        return SWEEP_EVERY
