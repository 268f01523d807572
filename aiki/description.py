"""What is told of a run: its record and its journal in the words of their readers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from aiki.envelope import Sealed
from aiki.errors import Failure
from aiki.failures import failure_from_json
from aiki.records import Entry, EntryKind, RunSnapshot
from aiki.states import WAITING, Status

_KINDS = {
    EntryKind.OPEN: "retrying",
    EntryKind.RESULT: "completed",
    EntryKind.FAILURE: "failed",
    EntryKind.CANCELLED: "cancelled",
    EntryKind.TIMEOUT: "timed out",
    EntryKind.NOTE: "noted",
    EntryKind.ABANDONED: "abandoned",
}


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run was when it was asked."""

    status: Status
    since: datetime
    reason: str
    """Why it waits, in words; empty where there is nothing to say."""


@dataclass(frozen=True, slots=True)
class RunDescription:
    """A run as it was when it was asked: what `describe` and `client.runs` tell."""

    id: str
    workflow: str
    version: str
    pool: str
    status: Status
    since: datetime
    created: datetime
    reason: str
    """Why it waits, in words; empty where there is nothing to say."""
    details: str
    """What its handler says that it is at: `run.set_details`."""
    tags: tuple[str, ...]
    memo: dict[str, Any]
    due: datetime | None
    """When it starts, or its next attempt does, where it waits for that."""
    start_by: datetime | None
    finish_by: datetime | None
    attempt: int
    generation: int
    """How often it has continued as new."""
    forked_from: str
    """The run that it was forked from, and the step where one was named; else empty."""
    parent: str
    """The run that it is a child of; empty where it is none."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One entry of a run's journal."""

    task: str
    key: str
    outcome: str
    """`completed`, `failed`, `cancelled`, `timed out` or `abandoned`; `noted` of what was known at
    once; of what is not over `retrying`, `waiting`, or `executing` of a first attempt, which is
    recorded only where a heartbeat or a time-out needs it."""
    attempts: int
    started: datetime
    recorded: datetime
    due: datetime | None
    """When the next attempt is due, where there is one."""
    worker: str
    result: Any
    """The recorded result as plain JSON, or `aiki.Sealed` where its key is not known here."""
    failure: Failure | None
    heartbeat: Any = None
    """What an attempt said last by `heartbeat`, until the step is over."""


def moment(milliseconds: int) -> datetime:
    """Give a stored time as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def run_status(snapshot: RunSnapshot) -> RunStatus:
    """Give the status in a record as users see it."""
    return RunStatus(snapshot.status, moment(snapshot.since), why(snapshot))


def description(snapshot: RunSnapshot) -> RunDescription:
    """Give a record as users see it."""
    return RunDescription(
        id=snapshot.id,
        workflow=snapshot.workflow,
        version=snapshot.version,
        pool=snapshot.pool,
        status=snapshot.status,
        since=moment(snapshot.since),
        created=moment(snapshot.created),
        reason=why(snapshot),
        details=snapshot.details,
        tags=snapshot.tags,
        memo=_memo(snapshot.memo),
        due=_moment(snapshot.wake),
        start_by=_moment(snapshot.start_by),
        finish_by=_moment(snapshot.finish_by),
        attempt=snapshot.attempt,
        generation=snapshot.generation,
        forked_from=snapshot.forked_from,
        parent=snapshot.parent,
    )


def _memo(data: bytes) -> dict[str, Any]:
    # A damaged record is shown as far as it can be read: it must not hide the others in a list.
    try:
        memo: object = json.loads(data)
    except ValueError:
        memo = None
    return cast("dict[str, Any]", memo) if isinstance(memo, dict) else {}


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else moment(milliseconds)


def why(snapshot: RunSnapshot) -> str:
    """Say in words why a run is where it is."""
    if snapshot.status is Status.STALLED:  # each death in it begins with the server's time
        return re.sub(
            r"^\d{13}\b",
            lambda time: moment(int(time[0])).isoformat(timespec="seconds"),
            snapshot.reason,
            flags=re.MULTILINE,
        )
    if snapshot.status is Status.SCHEDULED and snapshot.wake is not None:
        return f"is to start at {moment(snapshot.wake).isoformat()}"
    if snapshot.status in WAITING:
        return _waits(snapshot)
    if snapshot.status is Status.QUEUED:
        pool = f"a worker of pool {snapshot.pool!r} that serves"
        quarantined = " alone, since it ended workers before" if snapshot.quarantined else ""
        return f"waits for {pool} {snapshot.workflow} {snapshot.version}{quarantined}"
    if snapshot.cancel is not None and not snapshot.status.is_final:
        return "its cancel is on the way to the handler"
    return "rests until it is resumed" if snapshot.status is Status.PAUSED else ""


def _waits(snapshot: RunSnapshot) -> str:
    # Each a key; behind many of them, how many more there are
    names = [_awaited(key) for key in snapshot.waits]
    until = "" if snapshot.wake is None else moment(snapshot.wake).isoformat()
    match snapshot.status:
        case Status.SLEEPING:
            return f"sleeps until {until}: {', '.join(names)}"
        case Status.AWAITING_EVENT:
            return f"waits for {', '.join(names)}" + (f", or {until}" if until else "")
        case Status.AWAITING_CHILD:
            return f"waits for its children: {', '.join(names)}" + (
                f", or {until}" if until else ""
            )
        case _ if not snapshot.waits:
            return f"{snapshot.reason}; the next attempt is due at {until}"
        case _:
            return f"its next attempt is due at {until}"


def _name(key: str) -> str:
    """Give what people call what has a key."""
    name = (key.rpartition("#")[0] or key).partition(":")[0]
    # The key of a promise has that of an awakeable in it
    return name.rpartition("#")[0] if name.startswith("promise/") else name


def _awaited(key: str) -> str:
    name = _name(key)
    kind, _, rest = name.partition("/")
    match kind:
        case "end":
            return rest
        case "map":
            return f"those of {rest} that are mapped"
        case _:
            return name


def recorded_steps(entries: Mapping[str, Entry]) -> list[RecordedStep]:
    """Give a journal as users see it, in the order in which it was recorded."""
    return [_recorded_step(key, entry) for key, entry in sorted(entries.items(), key=_place)]


def _place(item: tuple[str, Entry]) -> tuple[bool, int, int]:
    _, entry = item
    return entry.seq == 0, entry.seq, entry.written  # those kept from a failed attempt come last


def _recorded_step(key: str, entry: Entry) -> RecordedStep:
    # An open entry without attempts is a first one that is under way, or a wait that is not over.
    # What is no task has a slash in its name, which a task cannot have.
    is_open, is_task = entry.kind is EntryKind.OPEN, "/" not in key
    sealed = None if entry.kind is EntryKind.CANCELLED else Sealed.of(entry.payload)
    said = entry.details if is_open and is_task and not sealed else b""
    failure = entry.failure if is_open else entry.payload
    failed = entry.kind is EntryKind.FAILURE or (is_open and entry.attempts)
    outcome = _KINDS[entry.kind]
    if is_open and not failed:
        outcome = "executing" if is_task else "waiting"
    begun = entry.written - (entry.spent if entry.kind is not EntryKind.ABANDONED else 0)
    return RecordedStep(
        task=_name(key),
        key=key,
        outcome=outcome,
        attempts=entry.attempts,
        started=moment(begun),
        recorded=moment(entry.written),
        due=moment(entry.due) if entry.due else None,
        worker=entry.worker,
        result=(sealed or json.loads(entry.payload)) if entry.kind is EntryKind.RESULT else None,
        failure=(sealed.failure() if sealed else failure_from_json(failure)) if failed else None,
        heartbeat=json.loads(said) if said else None,
    )
