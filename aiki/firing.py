"""Firing schedules: part of what must be done whoever does it, beside `housekeeping`.

Every supervisor and every library worker runs this, and there is no leader. What is due is decided
by the store's clock, what becomes of it by `schedule`, and whether that holds by a compare-and-set
in the script that does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from aiki.errors import AikiError, DataError
from aiki.records import DueSchedule
from aiki.schedule import Miss, Start, Timing
from aiki.store import Store
from aiki.store.keys import occurrence_run_id
from aiki.store.schedules import CHANNEL

_logger = logging.getLogger("aiki.schedules")

LOOK_EVERY = 5.0  # without a hint of an earlier one
AFTER_TROUBLE = 1.0
STEPS_TOGETHER = 100  # of one schedule that has much to make up for, before others have a turn
CANCEL_WITHIN = 10.0  # else it is asked again when the schedule is looked at the next time


class Firing:
    """Fires the schedules of one partition, in one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._schedules = store.schedules
        self._wake = asyncio.Event()
        self._ended: set[str] = set()  # runs that a schedule has waited for
        self._due_at = 0.0
        self._reported: dict[str, str] = {}

    async def run(self) -> None:
        """Fire what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        await self._store.inbox.subscribe(CHANNEL, self._on_hint, self._look_now)
        is_troubled = False
        while True:
            self._due_at = loop.time() + LOOK_EVERY
            try:
                left = await self.fire()
                is_troubled = False
            except AikiError as error:
                left = AFTER_TROUBLE
                if not is_troubled:
                    _logger.warning("schedules wait for the store: %s", error)
                is_troubled = True
            self._due_at = min(self._due_at, loop.time() + left)
            while loop.time() < self._due_at:
                self._wake.clear()
                try:
                    async with asyncio.timeout_at(self._due_at):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def fire(self) -> float:
        """Look after every schedule that is due, once; seconds until the next is."""
        ended, self._ended = self._ended, set()
        for run_id in ended:
            schedule = await self._schedules.of_run(run_id)
            if schedule is not None:
                await self._tend(schedule)
        while True:
            now, left, due = await self._schedules.take()
            for each in due:
                try:
                    await self._look_after(each, now)
                except AikiError as error:
                    self._report(each, error)
            if not due:  # what was taken is listed anew by now
                return LOOK_EVERY if left is None else min(left, LOOK_EVERY)

    async def _look_after(self, due: DueSchedule, now: int) -> None:
        try:
            timing = Timing.from_json(due.timing)
        except DataError as error:
            self._report(due, error)
            return
        # Sent together they are stored together. Each holds only after the one before: if one
        # fails, so do all that follow it.
        steps = list(_steps(timing, due, now))
        outcomes = await asyncio.gather(
            *(self._fire(passing, step) for passing, step in steps), return_exceptions=True
        )
        done: list[str] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            done += outcome
        await self._ask_to_end(due.id, list(dict.fromkeys(done)))
        if due.has_buffer:
            await self._tend(due.id)

    async def _fire(self, due: DueSchedule, step: Start | Miss) -> list[str]:
        """Let one planned time pass; the runs that must be asked to end for it."""
        missed, run_id = 0, ""
        if isinstance(step, Miss):
            missed = step.count
        else:
            run_id = occurrence_run_id(self._store.number, due.id, step.occurrence)
        word, others = await self._schedules.fire(
            due, step.next, step.due, missed=missed, run_id=run_id
        )
        if word == "MISSED":
            about = "schedule %s missed %d planned times, longer ago than its catch-up window"
            _logger.warning(about, due.id, missed)
        elif word not in ("STALE", "EARLY"):
            _logger.info("schedule %s: run %s is %s", due.id, run_id, word.lower())
        return others

    async def _tend(self, schedule: str) -> None:
        word, others = await self._schedules.tend(schedule)
        if word == "STARTED":
            _logger.info("schedule %s: what was buffered first is started", schedule)
        await self._ask_to_end(schedule, others)

    async def _ask_to_end(self, schedule: str, run_ids: Sequence[str]) -> None:
        await ask_to_end(self._store, schedule, run_ids, timeout=CANCEL_WITHIN)

    def _report(self, due: DueSchedule, error: AikiError) -> None:
        """Say once what is wrong with a schedule; it is tried again and again."""
        if self._reported.get(due.id) != str(error):
            self._reported[due.id] = str(error)
            _logger.error("schedule %s cannot be fired: %s", due.id, error)

    def _on_hint(self, message: bytes) -> None:
        first = message.split(b" ", 1)[0].decode(errors="replace")
        if first.isdigit():
            self._due_at = min(self._due_at, asyncio.get_running_loop().time() + int(first) / 1000)
        else:
            self._ended.add(first)
            self._due_at = 0.0
        self._wake.set()

    def _look_now(self) -> None:
        self._due_at = 0.0
        self._wake.set()


def _steps(
    timing: Timing, due: DueSchedule, now: int
) -> Iterator[tuple[DueSchedule, Start | Miss]]:
    """Yield what is to be done about a schedule in one turn."""
    for _ in range(STEPS_TOGETHER):
        step = timing.step(due.id, due.planned, now)
        if step is None:
            return
        yield due, step
        if isinstance(step, Miss):
            return  # it took its time already
        due = replace(due, planned=step.next, due=step.due)


async def ask_to_end(
    store: Store, schedule: str, run_ids: Sequence[str], *, timeout: float
) -> None:
    """Ask runs to end that the next occurrence of their schedule waits for."""
    for run_id in run_ids:
        reason = f"schedule {schedule} starts its next run"
        try:
            await store.runs.request_cancel(run_id, reason, timeout=timeout)
        except AikiError as error:  # it is asked again when the schedule is looked at
            _logger.warning("run %s of schedule %s: %s", run_id, schedule, error)
