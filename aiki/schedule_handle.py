"""Following and steering one schedule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, Literal, TypeAlias, cast, get_args
from zoneinfo import ZoneInfo

from aiki.envelope import Sealed
from aiki.errors import DataError, LimitExceeded
from aiki.firing import ask_to_end
from aiki.records import ScheduleRecord
from aiki.schedule import Cron, Timing
from aiki.store import Store
from aiki.store.keys import new_run_id, occurrence_run_id

Overlap: TypeAlias = Literal[
    "skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"
]

NEXT_TIMES = 5
LONGEST_NOTE = 1000  # characters
MOST_FILLED_IN = 1000  # occurrences by one call; as many as a buffer holds


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time at which a schedule starts a run."""

    planned: datetime
    run_id: str
    outcome: str
    """What became of it when it was asked for: `started`, `buffered`, `skipped` or `dropped`. In
    a description the status of its run, or `removed` where that is not kept any more."""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule as it was when it was asked."""

    name: str
    workflow: str
    version: str
    pool: str
    input: Any
    """The arguments of each run, as plain JSON by parameter; `aiki.Sealed` where the key to them
    is not known here."""
    timing: str
    """In words, such as `0 9 * * * (Europe/Amsterdam)`."""
    overlap: str
    paused: bool
    note: str
    """Why it is paused, as whoever did it has said."""
    activated: datetime
    next_times: list[datetime]
    """When it starts its next five runs, jitter aside; empty while it is paused."""
    recent: list[Occurrence]
    """The last runs that it started, at most 20, the newest first."""
    buffered: list[Occurrence]
    """What waits for the end of the runs before, in order."""
    started: int
    """How many runs it has started."""
    skipped: int
    """How many occurrences its overlap policy passed over."""
    dropped: int
    """How many were buffered, or to be, and never will start: the buffer was full, or a later
    occurrence ended it."""
    missed: int
    """How many were longer ago than the catch-up window when somebody looked."""


class ScheduleHandle:
    """One schedule. Made by `Schedule.activate` or `client.schedule(name)`; it holds the name.

    Its methods raise `NotFound` where there is no such schedule.
    """

    def __init__(self, name: str, store: Store, timeout: float) -> None:
        self.name = name
        self._store = store
        self._schedules = store.schedules
        self._timeout = timeout

    async def describe(self) -> ScheduleStatus:
        """Tell when it fires next, what it started, and what waits."""
        (found,) = await _described(
            self._store,
            [await self._schedules.record(self.name, timeout=self._timeout)],
            timeout=self._timeout,
        )
        return found

    async def pause(self, note: str = "") -> None:
        """Let nothing start, planned or buffered, until `resume`; runs under way go on.

        The note, up to 1000 characters, says why. Paused again, it has the later note.
        """
        given: object = note
        if not isinstance(given, str) or len(given) > LONGEST_NOTE:
            raise DataError(f"note is a str of at most {LONGEST_NOTE} characters")
        await self._schedules.pause(self.name, _storable(given, "note"), timeout=self._timeout)

    async def resume(self) -> None:
        """Go on with what is planned from now on, and with what is buffered.

        What was planned during the pause is not made up for; `backfill` can do that.
        """
        is_resumed = False
        while not is_resumed:  # it may be replaced between the look and the change
            record, timing = await self._timing()
            planned = timing.next_after(await self._schedules.now(timeout=self._timeout))
            is_resumed = await self._schedules.resume(
                self.name,
                record.digest,
                planned,
                timing.due(self.name, planned),
                timeout=self._timeout,
            )

    async def trigger(self, *, overlap: Overlap | None = None) -> Occurrence:
        """Start a run now, also while it is paused, and tell what became of it.

        Runs under way are treated by the schedule's overlap policy, or by the one given here.
        """
        now = await self._schedules.now(timeout=self._timeout)
        return await self._ask_for(
            new_run_id(self._store.number), now, checked_overlap(overlap, optional=True)
        )

    async def backfill(
        self, start: datetime, end: datetime, *, overlap: Overlap | None = None
    ) -> list[Occurrence]:
        """Start the runs of the planned times from `start` on, before `end`, in their order.

        Both are aware datetimes in the past. An occurrence whose run is kept is not started again
        and told as `started`. Runs under way are treated by the schedule's overlap policy, or by
        the one given here: mostly `buffer_all` or `allow_all` is meant. Raises `LimitExceeded`
        for more than 1000 occurrences, and starts none.
        """
        first, last = _milliseconds(start, "start"), _milliseconds(end, "end")
        policy = checked_overlap(overlap, optional=True)
        _, timing = await self._timing()
        now = await self._schedules.now(timeout=self._timeout)
        if not first <= last <= now:
            raise DataError(
                f"backfill is for what was planned from a start to an end in the past; {start} to "
                f"{end} is not"
            )
        times = list(islice(timing.between(first, last), MOST_FILLED_IN + 1))
        if len(times) > MOST_FILLED_IN:
            raise LimitExceeded(
                f"schedule {self.name!r} has more than {MOST_FILLED_IN} planned times from {start} "
                f"to {end}; fill them in piece by piece"
            )
        return [
            await self._ask_for(
                occurrence_run_id(self._store.number, self.name, time), time, policy
            )
            for time in times
        ]

    async def delete(self) -> None:
        """Forget the schedule and what it has buffered; its runs stay.

        Deleting one that is not there changes nothing, and raises nothing.
        """
        await self._schedules.delete(self.name, timeout=self._timeout)

    async def _ask_for(self, run_id: str, time: int, overlap: str) -> Occurrence:
        word, others = await self._schedules.trigger(
            self.name, overlap, run_id, time, timeout=self._timeout
        )
        await ask_to_end(self._store, self.name, others, timeout=self._timeout)
        return Occurrence(_moment(time), run_id, word.lower())

    async def _timing(self) -> tuple[ScheduleRecord, Timing]:
        record = await self._schedules.record(self.name, timeout=self._timeout)
        return record, Timing.from_json(record.timing)

    def __repr__(self) -> str:
        return f"<ScheduleHandle {self.name}>"


def checked_overlap(value: object, *, optional: bool = False) -> str:
    """Return an overlap policy, or '' for none. Raises `DataError` for anything else."""
    if value is None and optional:
        return ""
    if value in get_args(Overlap):
        return cast("str", value)
    raise DataError(f"overlap is one of {', '.join(get_args(Overlap))}, not {value!r:.100}")


async def described(stores: Sequence[Store], *, timeout: float) -> list[ScheduleStatus]:
    """Describe all schedules of these partitions, in the order in which they are due."""
    parts = await asyncio.gather(*(_described_in(store, timeout=timeout) for store in stores))
    return [status for _, status in sorted(chain(*parts), key=lambda each: each[0])]


async def _described_in(store: Store, *, timeout: float) -> list[tuple[float, ScheduleStatus]]:
    dues = await store.schedules.dues(timeout=timeout)
    records = await store.schedules.records([*dues], timeout=timeout)
    found = await _described(store, [each for each in records if each], timeout=timeout)
    return [(dues[status.name], status) for status in found]


async def _described(
    store: Store, records: Sequence[ScheduleRecord], *, timeout: float
) -> list[ScheduleStatus]:
    run_ids = [run_id for record in records for run_id, _ in record.recent]
    found = await store.schedules.statuses(run_ids, timeout=timeout)
    statuses = iter([status or "removed" for status in found])
    return [_status(record, statuses) for record in records]


def _status(record: ScheduleRecord, statuses: Iterator[str]) -> ScheduleStatus:
    recent = [Occurrence(_moment(time), run_id, next(statuses)) for run_id, time in record.recent]
    try:
        timing = Timing.from_json(record.timing)
        words, next_times = str(timing.rule), _next_times(record, timing)
    except DataError as error:  # it must not hide the others in a list
        words, next_times = str(error), []
    return ScheduleStatus(
        name=record.id,
        workflow=record.workflow,
        version=record.version,
        pool=record.pool,
        input=Sealed.of(record.input) or json.loads(record.input),
        timing=words,
        overlap=record.overlap,
        paused=record.paused,
        note=record.note,
        activated=_moment(record.created),
        next_times=next_times,
        recent=recent[::-1],
        buffered=[Occurrence(_moment(time), id, "buffered") for id, time in record.buffer],
        started=record.started,
        skipped=record.skipped,
        dropped=record.dropped,
        missed=record.missed,
    )


def _next_times(record: ScheduleRecord, timing: Timing) -> list[datetime]:
    if record.paused:
        return []
    zone = ZoneInfo(timing.rule.timezone) if isinstance(timing.rule, Cron) else UTC
    times = [record.planned]
    while len(times) < NEXT_TIMES:
        times.append(timing.next_after(times[-1]))
    return [_moment(time).astimezone(zone) for time in times]


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _milliseconds(time: object, what: str) -> int:
    if not isinstance(time, datetime) or time.utcoffset() is None:
        raise DataError(f"{what} is an aware datetime, with a time zone; not {time!r:.100}")
    return round(time.timestamp() * 1000)


def _storable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} cannot be stored: {error}") from None
    return text
