"""Definitions of schedules: what starts runs of a workflow again and again, by cron or interval."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from aiki.call import Call, PlainCall
from aiki.client import Client
from aiki.durations import Seconds
from aiki.errors import DataError, DefinitionError
from aiki.names import checked_name
from aiki.records import StoredSchedule
from aiki.schedule import CATCH_UP, Timing, timing
from aiki.schedule import cron as by_cron
from aiki.schedule import every as by_interval
from aiki.schedule_handle import Overlap, ScheduleHandle, checked_overlap


@dataclass(frozen=True, slots=True)
class Schedule:
    """A definition; nothing is started by it until it is activated. Made by `schedule`."""

    name: str
    timing: Timing
    overlap: str
    start: PlainCall[Any]

    async def activate(
        self, client: Client, *, on_conflict: Literal["error", "replace"] = "error"
    ) -> ScheduleHandle:
        """Have the schedule started by whoever looks after the store, from now on.

        The same definition again changes nothing, so every deployment may activate it. Where the
        name has another definition this raises `Conflict`, or puts this one in its place with
        `on_conflict="replace"`: what was counted and what is buffered stays, and so does a pause.
        """
        if not isinstance(client, Client):
            raise DefinitionError(
                f"schedule {self.name!r} is activated with the client that aiki.client() gives, "
                f"not with {type(client).__qualname__}"
            )
        if on_conflict not in ("error", "replace"):
            raise DataError(f'on_conflict is "error" or "replace", not {on_conflict!r:.100}')
        return await client.activate(self.stored(), self.timing, replace=on_conflict == "replace")

    def stored(self) -> StoredSchedule:
        """Give the form in which it is stored; the digest tells one definition from another."""
        call, rule = self.start, self.timing.to_json()
        more = call.options.packed()
        parts = (call.workflow, call.version, call.options.pool, self.overlap, rule, more)
        digest = hashlib.blake2b("\n".join(parts).encode() + b"\n" + call.payload, digest_size=16)
        return StoredSchedule(
            id=self.name,
            digest=digest.hexdigest(),
            workflow=call.workflow,
            version=call.version,
            pool=call.options.pool,
            input=call.payload,
            overlap=self.overlap,
            timing=rule,
            more=more,
        )

    def __str__(self) -> str:
        return f"schedule {self.name}: {self.timing.rule}"


def schedule(
    name: str,
    start: PlainCall[Any],
    *,
    cron: str | None = None,
    timezone: str = "UTC",
    every: Seconds | None = None,
    overlap: Overlap = "skip",
    catch_up_window: Seconds = CATCH_UP,
    jitter: Seconds = 0,
) -> Schedule:
    """Define a schedule that starts `version.bind(…)` by `cron` or `every`.

    `cron` has five fields: minute, hour, day of month, month, day of week, read in `timezone`.
    `every` is an interval of at least a second; its times are multiples since 1970 in UTC.
    `overlap` says what becomes of an occurrence while a run of the one before is under way.
    What was planned while nobody was there is made up for within `catch_up_window`, at least ten
    seconds. `jitter` puts each start off by up to so long, always the same for one occurrence.

    Raises `DefinitionError` for what cannot work: an expression that never fires, an unknown time
    zone, a start with options about one run.
    """
    checked = checked_name(name, "schedule")
    if (cron is None) == (every is None):
        raise DefinitionError(f"schedule {checked!r}: give one of cron and every")
    if cron is None and timezone != "UTC":
        raise DefinitionError(
            f"schedule {checked!r}: an interval has no time zone; give a cron expression"
        )
    try:
        rule = by_cron(cron, timezone) if cron is not None else by_interval(every or 0)
        return Schedule(
            name=checked,
            timing=timing(rule, catch_up_window=catch_up_window, jitter=jitter),
            overlap=checked_overlap(overlap),
            start=_checked_start(start),
        )
    except (DataError, DefinitionError) as error:
        raise DefinitionError(f"schedule {checked!r}: {error}") from None


def _checked_start(start: Call[Any]) -> PlainCall[Any]:
    if isinstance(start, PlainCall):
        return start
    if isinstance(start, Call):
        raise DefinitionError(
            "its start has options about one run, such as an idempotency key, a delay or a "
            "deadline that is a datetime; bind the version without them"
        )
    raise DefinitionError(
        f"it starts what a version's bind(…) gives, not {type(start).__qualname__}"
    )
