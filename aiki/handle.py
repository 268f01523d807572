"""Following and steering one run from outside."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

from aiki.codec import Codec
from aiki.completion import Completions
from aiki.controls import Controls
from aiki.durations import Seconds, seconds
from aiki.envelope import SEALED, Sealed
from aiki.errors import DataError, Failure, RunCancelled, RunFailed
from aiki.failures import failure_from_json
from aiki.hints import Hints
from aiki.question import Question
from aiki.records import Entry, EntryKind, RunSnapshot
from aiki.states import WAITING, Status
from aiki.store import Store
from aiki.stream import follow
from aiki.topic import Chunk, Progress, Topic

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_NAMED = 5  # of all that a run waits for

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


class Handle(Controls, Generic[R_co]):
    """One run. Made by `start` or `client.handle(id)`; it holds nothing but the id."""

    def __init__(
        self,
        run_id: str,
        store: Store,
        completions: Completions,
        hints: Hints,
        result: Codec,
        *,
        timeout: float,
    ) -> None:
        super().__init__(run_id, store, timeout)
        self._store = store
        self._completions = completions
        self._hints = hints
        self._result = result

    async def wait_for_completion(self, timeout: Seconds | None = None) -> R_co:
        """Wait until the run is over and return its result.

        Told by the store, not polled. With a time-out of 0 it only looks.

        Raises:
            RunFailed: its handler failed.
            RunCancelled: it was cancelled.
            TimeoutError: it was not over in time; it goes on.
            NotFound: there is no such run.
            DataError: the result is not what this handle's type says.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        if limit == 0:
            snapshot = await self._store.runs.snapshot(self.id, timeout=self._timeout)
            if not snapshot.status.is_final:
                raise TimeoutError(f"run {self.id} is {snapshot.status}")
            status, payload = snapshot.status, snapshot.result or snapshot.failure or b""
        elif limit is None:
            status, payload = await self._completions.wait(self.id)
        else:
            try:
                async with asyncio.timeout(limit):
                    status, payload = await self._completions.wait(self.id)
            except TimeoutError:
                raise TimeoutError(f"run {self.id} was not over within {limit:g} s") from None
        if payload[:1] == SEALED:
            payload = self._store.runs.end(self.id, status, payload)
        if status is Status.FAILED:
            failure = failure_from_json(payload)
            raise RunFailed(
                f"run {self.id} failed: {failure.type}: {failure.message}",
                run_id=self.id,
                failure=failure,
            )
        if status is Status.CANCELLED:
            reason = payload.decode(errors="replace")
            raise RunCancelled(
                f"run {self.id} was cancelled" + (f": {reason}" if reason else ""),
                run_id=self.id,
                reason=reason,
            )
        result: R_co = self._result.decode(payload)
        return result

    async def status(self) -> RunStatus:
        """Tell where the run is, since when, and why it waits.

        Raises `NotFound` if there is no such run.
        """
        snapshot = await self._store.runs.snapshot(self.id, timeout=self._timeout)
        return RunStatus(snapshot.status, moment(snapshot.since), why(snapshot))

    async def describe(self) -> RunDescription:
        """Tell what there is to know of the run beside its data: tags, memo, deadlines, details.

        Raises `NotFound` if there is no such run.
        """
        return description(await self._store.runs.snapshot(self.id, timeout=self._timeout))

    async def fork(self, at: str | None = None) -> Handle[R_co]:
        """Start a run that begins with what is recorded of this one, and return its handle.

        `at` is the `key` of a step in `journal()`: what was recorded before it is taken over, and
        it is the first that is executed anew. Without it everything is taken over that has a
        result. Neither messages nor deadlines are. Random numbers and UUIDs stay those of this run.

        Raises:
            NotFound: there is no such run.
            DataError: nothing is recorded under that key.
        """
        run_id = await self._forked(at)
        return Handle(
            run_id,
            self._store,
            self._completions,
            self._hints,
            self._result,
            timeout=self._timeout,
        )

    async def post(
        self, topic: str, payload: bytes, key: str | None, secret: tuple[str, str] | None = None
    ) -> None:
        """Put a message into the run's mailbox. `Event.send` is this."""
        message_id = None if key is None else f"{topic}/{key}"
        await self._store.mailbox.post(
            self.id, topic, payload, message_id=message_id, timeout=self._timeout, secret=secret
        )

    def stream(self, topic: Topic[T], /, *, from_offset: int = 0) -> AsyncIterator[Chunk[T]]:
        """Read what the run publishes under a topic: `async for chunk in handle.stream(topic)`.

        It begins with what was published before, at `from_offset`, and ends when the run is over or
        has closed the topic. Told by the store, not polled. Raises, when it is read:

            NotFound: there is no such run.
            DataError: a chunk is not what the topic's type describes.
            StoreUnavailable: the store gave no answer; go on behind the last chunk's offset.
        """
        offset: object = from_offset
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise DataError(f"from_offset is a whole number from 0, not {offset!r:.100}")
        return follow(
            self.id,
            topic,
            offset,
            streams=self._store.streams,
            hints=self._hints,
            completions=self._completions,
            timeout=self._timeout,
        )

    async def progress(self) -> Progress | None:
        """Tell how far the run is by its own account; None where it has not said.

        Raises `NotFound` if there is no such run.
        """
        note = await self._store.streams.progress(self.id, timeout=self._timeout)
        if note is None:
            return None
        at, done, total = note.decode().split(" ")
        return Progress(float(done), float(total) if total else None, moment(int(at)))

    async def question(
        self,
        topic: str,
        payload: bytes,
        *,
        timeout: float | None,
        update_id: str | None = None,
        answer_key: str = "",
    ) -> bytes:
        """Ask the run, and give the stored answer. `Query.ask` and `Update.ask` are this."""
        asked = Question(self.id, topic, payload, update_id, answer_key)
        doors = self._store.mailbox, self._hints, self._completions
        try:
            async with asyncio.timeout(timeout):
                return await asked.ask(*doors, timeout=self._timeout)
        except TimeoutError:
            now = await self.status()
            why_not = f" and {now.reason}" if now.reason else ""
            raise TimeoutError(
                f"run {self.id} has not answered {topic.replace('/', ' ', 1)} within "
                f"{timeout:g} s: it is {now.status}{why_not}"
            ) from None

    async def journal(self) -> list[RecordedStep]:
        """Read what is recorded of the run's steps, in the order in which they were recorded.

        Raises `NotFound` if there is no such run.
        """
        entries = await self._store.runs.journal(self.id, timeout=self._timeout)
        if not entries:
            await self._store.runs.snapshot(self.id, timeout=self._timeout)
        return [recorded_step(key, entry) for key, entry in sorted(entries.items(), key=_place)]

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"


def _place(item: tuple[str, Entry]) -> tuple[bool, int, int]:
    _, entry = item
    return entry.seq == 0, entry.seq, entry.written  # those kept from a failed attempt come last


def moment(milliseconds: int) -> datetime:
    """Give a stored time as an aware datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


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


def recorded_step(key: str, entry: Entry) -> RecordedStep:
    """Give a journal entry as users see it."""
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
