"""The client: a connection to the store, and the door through which runs are started."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar, cast

from aiki.call import Call
from aiki.codec import MAX_PAYLOAD, Codec
from aiki.completion import Completions
from aiki.description import RunDescription
from aiki.durations import Seconds, seconds
from aiki.embedded import EmbeddedServer
from aiki.encryption import checked_codec
from aiki.envelope import PayloadCodec
from aiki.errors import AikiError, ConfigError, Conflict, DefinitionError
from aiki.handle import Handle
from aiki.hints import Hints
from aiki.listing import list_runs
from aiki.names import checked_name, checked_run_id
from aiki.records import StoredSchedule
from aiki.revival import Revival
from aiki.schedule import Timing
from aiki.schedule_handle import ScheduleHandle, ScheduleStatus, described
from aiki.states import Status
from aiki.store import Partitions, Store
from aiki.store.connection import Address
from aiki.store.rights import Role
from aiki.store.runs import NewRun
from aiki.valkey_setup import GUARANTEES, Durability

R = TypeVar("R")

DATA_DIR = ".aiki"
REDIS_VARIABLE = "AIKI_REDIS_URL"
LONGEST_START = 3600.0
STARTED_TOGETHER = 32  # runs, by one script


Sending: TypeAlias = Callable[[Call[Any]], Awaitable[Handle[Any]]]


class AroundStart(Protocol):
    """What is called around each start; `aiki.Middleware` is one."""

    async def start(self, call: Call[Any], call_next: Sending, /) -> Handle[Any]:
        """Start a run by `call_next`, and give its handle."""
        ...


class Client:
    """Starts, finds and lists runs. Made by `aiki.client`; use it with `async with`."""

    def __init__(
        self,
        redis: str | Mapping[str, Any] | None = None,
        *,
        data_dir: str | Path | None = None,
        namespace: str = "default",
        durability: Durability = "always",
        start_timeout: Seconds = 60.0,
        middleware: AroundStart | Sequence[AroundStart] = (),
        read_only: bool = False,
        codec: PayloadCodec | None = None,
    ) -> None:
        if redis is not None and data_dir is not None:
            raise ConfigError("give either redis or data_dir: the data is in one of them")
        if redis is None and data_dir is None:
            redis = os.environ.get(REDIS_VARIABLE) or None
        # Looked at now, so that a malformed address is refused where it is written
        self._address = None if redis is None else Address(redis)
        self._data_dir = _checked_directory(DATA_DIR if data_dir is None else data_dir)
        self._durability: Durability = durability
        if durability not in GUARANTEES:
            raise ConfigError(
                f"durability is one of {', '.join(GUARANTEES)}, not {durability!r:.100}"
            )
        self._namespace = checked_name(namespace, "namespace")
        self._start_timeout = seconds(start_timeout, what="start_timeout")
        if not 0 < self._start_timeout <= LONGEST_START:
            raise ConfigError("start_timeout is more than 0 seconds and at most an hour")
        self._around = checked_around(middleware)
        if not isinstance(cast("object", read_only), bool):
            raise ConfigError(f"read_only is True or False, not {read_only!r:.100}")
        self.role = Role.READER if read_only else Role.CLIENT
        """What the server's user is to have the rights for; looked at by `connect`."""
        self._codec = checked_codec(codec)
        self._follows = ""
        self._embedded: EmbeddedServer | None = None
        self._partitions: Partitions | None = None
        self._ears: list[tuple[Completions, Hints]] = []  # by partition

    def follow(self, store_id: str) -> None:
        """Be the client of a worker whose supervisor serves the store of this id.

        It opens no other one, and leaves it to the supervisor to start an embedded server again.
        """
        self._follows = store_id

    async def connect(self) -> None:
        """Open the connection; `async with` does it.

        Raises:
            StoreUnavailable: the server cannot be reached.
            StoreRefused: it must not be used as it is.
        """
        if self._partitions is not None:
            raise ConfigError("the client is connected already")
        address = self._address
        if address is None:
            self._embedded = EmbeddedServer(self._data_dir, durability=self._durability)
            address = Address(await asyncio.to_thread(self._embedded.attach))
        revive = None
        if self._embedded is not None and not self._follows:
            revive = Revival(self._embedded)
        partitions = Partitions(
            address, self._namespace, revive=revive, role=self.role, codec=self._codec
        )
        try:
            await partitions.open(self._follows)
        except BaseException:
            await partitions.close()
            await self._detach()
            raise
        self._partitions = partitions
        self._ears = [(Completions(store), Hints(store)) for store in partitions.all]

    async def aclose(self) -> None:
        """Close the connection; an embedded server ends with its last user."""
        partitions, self._partitions = self._partitions, None
        for completions, _ in self._ears:
            completions.close()
        if partitions is not None:
            await partitions.close()
        await self._detach()

    @property
    def partitions(self) -> Partitions:
        """The open store, for workers and supervisors."""
        if self._partitions is None:
            raise ConfigError("the client is not connected; use it with `async with`")
        return self._partitions

    @property
    def store(self) -> Store:
        """The first partition, which is the whole store where there is one: for tests."""
        return self.partitions.first

    def handle(self, run_id: str) -> Handle[object]:
        """Give a handle on a run by its id; its result is plain JSON.

        Whether there is such a run is asked by the handle's methods, which raise `NotFound`.
        Raises `DataError` for what can be no id.
        """
        return self.typed_handle(checked_run_id(run_id), Codec(object, "a handle's result"))

    def typed_handle(self, run_id: str, result: Codec) -> Handle[Any]:
        """Give a handle whose result is read by a codec. `WorkflowVersion.handle` is this."""
        store = self.partitions.of(run_id)
        completions, hints = self._ears[store.number]
        return Handle(run_id, store, completions, hints, result, timeout=self._start_timeout)

    def schedule(self, name: str) -> ScheduleHandle:
        """Give a handle on a schedule by its name.

        Whether there is such a schedule is asked by the handle's methods, which raise `NotFound`.
        """
        store = self.partitions.named(checked_name(name, "schedule"))
        return ScheduleHandle(name, store, self._start_timeout)

    async def schedules(self) -> list[ScheduleStatus]:
        """Describe all schedules in the order in which they are due; paused ones come last."""
        return await described(self.partitions.all, timeout=self._start_timeout)

    async def activate(
        self, schedule: StoredSchedule, timing: Timing, *, replace: bool
    ) -> ScheduleHandle:
        """Send a schedule. `Schedule.activate` is this, with its options checked before."""
        store, timeout = self.partitions.named(schedule.id).schedules, self._start_timeout
        planned = timing.next_after(await store.now(timeout=timeout))
        due = timing.due(schedule.id, planned)
        await store.activate(schedule, planned, due, replace=replace, timeout=timeout)
        return self.schedule(schedule.id)

    async def start_call(self, call: Call[R]) -> Handle[R]:
        """Send a start. `WorkflowVersion.start` is this, with the input checked before.

        Raises:
            Conflict: the idempotency key belongs to a run with another input or version.
            StoreUnavailable, StoreRefused: it was not, or may not have been, started.
        """
        send: Sending = self._start_one
        for each in reversed(self._around):
            send = partial(_through, each, send)
        return await send(call)

    async def _start_one(self, call: Call[R]) -> Handle[R]:
        (started,) = await self._start([call])
        if isinstance(started, AikiError):
            raise started
        return started

    async def _try_start(self, call: Call[R]) -> Handle[R] | AikiError:
        try:
            return await self.start_call(call)
        except AikiError as error:
            return error

    async def _start(self, calls: Sequence[Call[R]]) -> list[Handle[R] | AikiError]:
        """Send starts together; for each a handle, or why it was not started."""
        partitions = self.partitions
        runs = [_new_run(call, partitions) for call in calls]
        outcomes = await partitions.start(runs, timeout=self._start_timeout)
        started: list[Handle[R] | AikiError] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Conflict) and call.options.on_conflict == "return_existing":
                started.append(self.typed_handle(outcome.run_id, call.result))
            elif isinstance(outcome, AikiError):
                started.append(outcome)
            else:
                started.append(self.typed_handle(outcome, call.result))
        return started

    def runs(
        self,
        *,
        status: Status | Collection[Status] | None = None,
        workflow: str | None = None,
        tag: str | None = None,
        since: datetime | None = None,
    ) -> AsyncIterator[RunDescription]:
        """List runs, those first that changed last; with a tag, those that were started last.

        Read in pages, as one iterates: what it costs depends on how far one goes and not on what
        is stored. With a tag, the runs that have it are gone through, whatever else is asked.
        `since` leaves out runs that have not changed from then on. A run that changes while one
        iterates may be left out.

        Raises `DataError`, before anything is asked, for what is no status or has no time zone.
        """
        return list_runs(
            self.partitions,
            status=status,
            workflow=workflow,
            tag=tag,
            since=since,
            timeout=self._start_timeout,
        )

    async def count_runs(self, *, workflow: str | None = None) -> dict[str, dict[Status, int]]:
        """Count runs by workflow and status, without looking at any; what is none is left out.

        Runs on the move between `queued` and `running` may be counted as either.
        """
        name = None if workflow is None else checked_name(workflow, "workflow")
        return await self.partitions.overview.counts(name)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _detach(self) -> None:
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            await asyncio.to_thread(embedded.detach)


async def start_many(client: Client, calls: Sequence[Call[R]]) -> list[Handle[R] | AikiError]:
    """Start many runs at once: for each call, in its order, a handle or why it was not started."""
    _check_calls(calls)
    if client._around:
        return list(await asyncio.gather(*map(client._try_start, calls)))
    parts = await asyncio.gather(*map(client._start, _parts(calls)))
    return [outcome for part in parts for outcome in part]


async def _through(around: AroundStart, send: Sending, call: Call[Any]) -> Handle[Any]:
    return await around.start(call, send)


def _check_calls(calls: object) -> None:
    wrong = calls
    if isinstance(calls, Sequence):
        wrong = next(
            (call for call in cast("Sequence[object]", calls) if not isinstance(call, Call)), None
        )
        if wrong is None:
            return
    raise DefinitionError(
        f"start_many takes a list of what a version's bind(…) gives, not {wrong!r:.100}"
    )


def _checked_directory(given: object) -> Path:
    if not isinstance(given, str | Path) or not str(given) or "\0" in str(given):
        raise ConfigError(f"data_dir is the path of a directory, not {given!r:.100}")
    return Path(given)


def checked_around(given: object) -> tuple[AroundStart, ...]:
    """Return the middleware of a client. Raises `ConfigError` for what is none."""
    several = cast("Sequence[object]", given if isinstance(given, list | tuple) else (given,))
    for each in several:
        if isinstance(each, type) or not inspect.iscoroutinefunction(getattr(each, "start", None)):
            raise ConfigError(f"a client's middleware has an `async def start`; {each!r:.100} not")
    return cast("tuple[AroundStart, ...]", tuple(several))


def _parts(calls: Sequence[Call[R]]) -> Iterator[Sequence[Call[R]]]:
    """Cut into what is sent together: so many, and no more than the largest single payload."""
    first, size = 0, 0
    for number, call in enumerate(calls):
        size += len(call.payload)
        if number - first == STARTED_TOGETHER or (size > MAX_PAYLOAD and number > first):
            yield calls[first:number]
            first, size = number, len(call.payload)
    if calls:
        yield calls[first:]


def _new_run(call: Call[Any], partitions: Partitions) -> NewRun:
    digest = hashlib.blake2b(call.version.encode() + b"\n" + call.payload, digest_size=16)
    return NewRun(
        id=partitions.new_run_id(call.workflow, call.options.idempotency_key or ""),
        workflow=call.workflow,
        version=call.version,
        pool=call.options.pool,
        input=call.payload,
        reference=call.options.idempotency_key or "",
        input_hash=digest.hexdigest(),
        more=call.options.packed(),
    )


# The tutorial's spelling: `aiki.client(…)` makes one.
client = Client
