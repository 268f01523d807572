"""When a schedule is due: cron and interval, catch-up, jitter. No clock and no store.

Theory. A schedule is a rule that gives *planned times*, in whole milliseconds of UTC, each later
than the one before; nothing else is known of the past but the planned time that comes next. A
planned time is one occurrence, and one occurrence starts at most one run. When it is due, that is
at its planned time plus its jitter, a decision is a pure function of (rule, planned time, now):
start it, or count it as missed because nobody was there to start it within the catch-up window;
either way the next planned time takes its place. So a whole outage is worked off in order, step by
step, each step a compare-and-set by whoever comes first.

Planned times of a cron expression are read off a wall clock in a time zone, as Debian's cron does:
a time that a change to summer time skips is made up for when the skipped hour is over, and one
that comes twice counts the first time. An expression whose minute or hour begins with `*` follows
the hours that pass instead. Those of an interval are its multiples since 1970-01-01T00:00Z, so
they depend neither on when the schedule was activated nor by whom.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from aiki.durations import Seconds, seconds
from aiki.errors import DataError, DefinitionError

SHORTEST_INTERVAL = 1000  # ms; what comes more often is a loop, and belongs into a run
SHORTEST_WINDOW = 10_000  # ms; a busy machine may be some seconds late without an outage
CATCH_UP = 86_400.0  # s
LONGEST_CRON = 200  # characters
MISSED_TOGETHER = 200  # times passed over in one step: 30 ms of cron, which hold up a loop

_ROUNDED = 1e-4  # ms; what floats lose of a number of milliseconds is less
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_TRIED_FROM = datetime(2024, 1, 1, tzinfo=UTC)  # to see whether it ever fires; any time would do


@dataclass(frozen=True, slots=True)
class Cron:
    """Five fields of cron, read in a time zone. Made by `cron`."""

    expression: str
    timezone: str

    def next_after(self, time: int) -> int:
        """Give the first planned time after this one."""
        start = _moment(time)
        zone = _zone(self.timezone)
        if any(field.startswith("*") for field in self.expression.split()[:2]):
            return _milliseconds(_next_by_hours(self.expression, zone, start))
        # Steps from the second pass of a doubled hour lead back into its first one.
        for found in CronSim(self.expression, start.astimezone(zone)):
            if found.astimezone(UTC) > start:
                return _milliseconds(found)
        raise AssertionError("an expression that was tried fires")

    def __str__(self) -> str:
        return f"{self.expression} ({self.timezone})"


@dataclass(frozen=True, slots=True)
class Every:
    """An interval in milliseconds. Made by `every`."""

    interval: int

    def next_after(self, time: int) -> int:
        """Give the first planned time after this one."""
        return (time // self.interval + 1) * self.interval

    def __str__(self) -> str:
        return f"every {timedelta(milliseconds=self.interval)}"


@dataclass(frozen=True, slots=True)
class Start:
    """The occurrence is to be started, and then the next planned time holds."""

    occurrence: int
    next: int
    due: int
    """When the next one is due."""


@dataclass(frozen=True, slots=True)
class Miss:
    """So many planned times are too long ago; then the next planned time holds."""

    count: int
    next: int
    due: int


@dataclass(frozen=True, slots=True)
class Timing:
    """The rule of one schedule: its planned times, and how far and how late it keeps to them."""

    rule: Cron | Every
    catch_up: int
    """Milliseconds by which an occurrence may be late."""
    jitter: int
    """Milliseconds by which an occurrence is put off at most."""

    def next_after(self, time: int) -> int:
        """Give the first planned time after this one."""
        return self.rule.next_after(time)

    def due(self, schedule: str, planned: int) -> int:
        """Give when an occurrence is due: always the same, and never after the next one."""
        if self.jitter == 0:
            return planned
        room = min(self.jitter, self.next_after(planned) - planned - 1)
        digest = hashlib.blake2b(f"{schedule}\n{planned}".encode(), digest_size=8).digest()
        return planned + int.from_bytes(digest) * room // 2**64

    def step(self, schedule: str, planned: int, now: int) -> Start | Miss | None:
        """Decide about the planned time that comes next; None where it is not due."""
        if self.due(schedule, planned) > now:
            return None
        missed = 0
        while missed < MISSED_TOGETHER and self._is_missed(schedule, planned, now):
            missed += 1
            planned = self.next_after(planned)
        if missed:
            return Miss(missed, planned, self.due(schedule, planned))
        later = self.next_after(planned)
        return Start(planned, later, self.due(schedule, later))

    def between(self, start: int, end: int) -> Iterator[int]:
        """Yield the planned times from `start` on, before `end`."""
        time = self.next_after(start - 1)
        while time < end:
            yield time
            time = self.next_after(time)

    def to_json(self) -> str:
        """Give the form in which it is stored."""
        rule = (
            {"cron": self.rule.expression, "timezone": self.rule.timezone}
            if isinstance(self.rule, Cron)
            else {"every": self.rule.interval}
        )
        return json.dumps(rule | {"catch_up": self.catch_up, "jitter": self.jitter})

    @classmethod
    def from_json(cls, text: str | bytes) -> Timing:
        """Read the stored form.

        Raises:
            DataError: it is none, or of a time zone that is not known here.
        """
        try:
            stored: dict[str, Any] = json.loads(text)
            rule = (
                cron(stored["cron"], stored["timezone"])
                if "cron" in stored
                else every(timedelta(milliseconds=stored["every"]))
            )
            return cls(rule, int(stored["catch_up"]), int(stored["jitter"]))
        except (DefinitionError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"the stored timing of a schedule cannot be read: {error}") from None

    def _is_missed(self, schedule: str, planned: int, now: int) -> bool:
        return self.due(schedule, planned) < now - self.catch_up


def timing(
    rule: Cron | Every, *, catch_up_window: Seconds = CATCH_UP, jitter: Seconds = 0
) -> Timing:
    """Make the rule of a schedule. Raises `DefinitionError` for durations that cannot work."""
    window = _whole(catch_up_window, "catch_up_window")
    if window < SHORTEST_WINDOW:
        raise DefinitionError(
            f"catch_up_window is at least {SHORTEST_WINDOW // 1000} s, not {catch_up_window!r}: "
            "a busy machine may be some seconds late, and what is later is not started"
        )
    return Timing(rule, window, _whole(jitter, "jitter"))


def every(interval: Seconds) -> Every:
    """Plan the multiples of an interval, 1 second to 10 years.

    Raises `DefinitionError` for any other, and for parts of a millisecond.
    """
    try:
        is_short = seconds(interval, what="every") * 1000 < SHORTEST_INTERVAL
    except DataError as error:
        raise DefinitionError(str(error)) from None
    if is_short:
        raise DefinitionError(f"every is at least 1 second, not {interval!r}")
    return Every(_whole(interval, "every"))


def cron(expression: str, timezone: str = "UTC") -> Cron:
    """Plan by five fields of cron: minute, hour, day of month, month, day of week.

    Raises `DefinitionError` for what is none, with the field and its place, for an expression
    that never fires, and for an unknown time zone.
    """
    given: object = expression
    if not isinstance(given, str):
        raise DefinitionError(
            f'cron is a str of five fields such as "0 9 * * MON-FRI", not {given!r:.100}'
        )
    _zone(timezone)
    _check_fields(given)
    normal = " ".join(given.upper().split())
    try:
        next(CronSim(normal, _TRIED_FROM))
    except (CronSimError, StopIteration):
        # Each field by itself is right: together they name a day that does not come.
        raise DefinitionError(
            f"cron {given!r} never fires: no month that it names has such a day"
        ) from None
    return Cron(normal, timezone)


def _next_by_hours(expression: str, zone: ZoneInfo, start: datetime) -> datetime:
    """Give the first moment after this one at which the clock of a zone shows such a time.

    Between two of its changes a clock runs evenly, so the expression is read off one of UTC that is
    set anew at each change. CronSim would go over changes in steps of whole hours, which is wrong
    where a zone changes by half an hour, or at midnight.
    """
    before = moment = start.replace(microsecond=0)
    while True:
        offset = _offset(moment, zone)
        found = next(CronSim(expression, before + offset)) - offset
        later = moment
        while moment < found:
            later = min(found, moment + _DAY)  # no clock changes twice in a day
            if _offset(later, zone) != offset:
                break
            moment = later
        else:
            return found
        while later - moment > _SECOND:
            middle = moment + (later - moment) // (2 * _SECOND) * _SECOND
            if _offset(middle, zone) == offset:
                moment = middle
            else:
                later = middle
        before, moment = moment, later


def _offset(time: datetime, zone: ZoneInfo) -> timedelta:
    return time.astimezone(zone).utcoffset() or timedelta()


def _check_fields(expression: str) -> None:
    fields = expression.split()
    if len(expression) > LONGEST_CRON or len(fields) != len(_FIELDS):
        raise DefinitionError(
            f"cron {expression!r:.220} has {len(fields)} fields; there are five, in at most "
            f"{LONGEST_CRON} characters: {', '.join(_FIELDS)}"
        )
    position = 0
    for number, field in enumerate(fields):
        position = expression.index(field, position)
        alone = ["*"] * len(_FIELDS)
        alone[number] = field
        if _FIELDS[number] == "day of month":
            alone[3] = "1"  # so that it is not judged by the month: January has every day
        try:
            CronSim(" ".join(alone), _TRIED_FROM)
        except CronSimError:
            raise DefinitionError(
                f"cron {expression!r}: {field!r}, field {number + 1} at character {position + 1}, "
                f"is no {_FIELDS[number]}; write {_GRAMMAR[number]}"
            ) from None
        position += len(field)


_LISTS = "*, a list (1,2), a range (1-5) or steps (*/5)"
_GRAMMAR = (
    f"0 to 59, {_LISTS}",
    f"0 to 23, {_LISTS}",
    f"1 to 31, L for the last, {_LISTS}",
    f"1 to 12, JAN to DEC, {_LISTS}",
    f"0 to 7, SUN to SAT, MON#1 for the first Monday, {_LISTS}",
)


def _zone(name: str) -> ZoneInfo:
    given: object = name
    try:
        if isinstance(given, str):
            return ZoneInfo(given)  # which keeps them itself
    except (KeyError, ValueError, OSError):  # unknown, malformed, a directory of zones
        pass
    raise DefinitionError(
        f'timezone is a name such as "Europe/Amsterdam" or "UTC", not {given!r:.100}'
    )


def _whole(value: Seconds, what: str) -> int:
    try:
        exact = seconds(value, what=what) * 1000
    except DataError as error:
        raise DefinitionError(str(error)) from None
    whole = round(exact)
    if abs(exact - whole) > _ROUNDED:
        raise DefinitionError(f"{what} is whole milliseconds, not {value!r}")
    return whole


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)
