"""The client: a connection to the store, and the door through which runs are started."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from aiki.codec import MAX_PAYLOAD, Codec
from aiki.completion import Completions
from aiki.durations import Seconds, seconds
from aiki.embedded import EmbeddedServer
from aiki.errors import AikiError, ConfigError, Conflict
from aiki.handle import Handle
from aiki.hints import Hints
from aiki.names import checked_name
from aiki.records import RunSnapshot
from aiki.states import Status
from aiki.store import Store
from aiki.store.connection import Address
from aiki.store.keys import new_run_id
from aiki.store.runs import NewRun
from aiki.valkey_setup import Durability

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

DATA_DIR = ".aiki"
REDIS_VARIABLE = "AIKI_REDIS_URL"
LONGEST_START = 3600.0
STARTED_TOGETHER = 32  # runs, by one script


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Options of a start, beside its input."""

    pool: str = "default"
    idempotency_key: str | None = None
    on_conflict: Literal["error", "return_existing"] = "error"


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """A start with its input, ready to be sent. Made by `bind`."""

    workflow: str
    version: str
    payload: bytes
    result: Codec
    options: StartOptions


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
    ) -> None:
        if redis is not None and data_dir is not None:
            raise ConfigError("give either redis or data_dir: the data is in one of them")
        if redis is None and data_dir is None:
            redis = os.environ.get(REDIS_VARIABLE) or None
        # Looked at now, so that a malformed address is refused where it is written
        self._address = None if redis is None else Address(redis)
        self._data_dir = Path(data_dir if data_dir is not None else DATA_DIR)
        self._durability: Durability = durability
        self._namespace = checked_name(namespace, "namespace")
        self._start_timeout = seconds(start_timeout, what="start_timeout")
        if not 0 < self._start_timeout <= LONGEST_START:
            raise ConfigError("start_timeout is more than 0 seconds and at most an hour")
        self._embedded: EmbeddedServer | None = None
        self._store: Store | None = None
        self._completions: Completions | None = None
        self._hints: Hints | None = None

    async def connect(self) -> None:
        """Open the connection; `async with` does it.

        Raises:
            StoreUnavailable: the server cannot be reached.
            StoreRefused: it must not be used as it is.
        """
        if self._store is not None:
            raise ConfigError("the client is connected already")
        address = self._address
        if address is None:
            self._embedded = EmbeddedServer(self._data_dir, durability=self._durability)
            address = Address(await asyncio.to_thread(self._embedded.attach))
        store = Store(address, self._namespace)
        try:
            await store.open()
        except BaseException:
            await store.close()
            await self._detach()
            raise
        self._store = store
        self._completions = Completions(store)
        self._hints = Hints(store)

    async def aclose(self) -> None:
        """Close the connection; an embedded server ends with its last user."""
        store, self._store = self._store, None
        if self._completions is not None:
            self._completions.close()
        if store is not None:
            await store.close()
        await self._detach()

    @property
    def store(self) -> Store:
        """The open store, for workers and supervisors."""
        if self._store is None:
            raise ConfigError("the client is not connected; use it with `async with`")
        return self._store

    def handle(self, run_id: str) -> Handle[object]:
        """Give a handle on a run by its id; its result is plain JSON.

        Whether there is such a run is asked by the handle's methods, which raise `NotFound`.
        """
        return self.typed_handle(run_id, Codec(object, "a handle's result"))

    def typed_handle(self, run_id: str, result: Codec) -> Handle[Any]:
        """Give a handle whose result is read by a codec. `WorkflowVersion.handle` is this."""
        if self._completions is None or self._hints is None:
            raise ConfigError("the client is not connected; use it with `async with`")
        store, hints = self.store, self._hints
        timeout = self._start_timeout
        return Handle(run_id, store, self._completions, hints, result, timeout=timeout)

    async def start_call(self, call: Call[R]) -> Handle[R]:
        """Send a start. `WorkflowVersion.start` is this, with the input checked before.

        Raises:
            Conflict: the idempotency key belongs to a run with another input or version.
            StoreUnavailable, StoreRefused: it was not, or may not have been, started.
        """
        (started,) = await self._start([call])
        if isinstance(started, AikiError):
            raise started
        return started

    async def _start(self, calls: Sequence[Call[R]]) -> list[Handle[R] | AikiError]:
        """Send starts together; for each a handle, or why it was not started."""
        runs = [_new_run(call) for call in calls]
        try:
            outcomes = await self.store.runs.start(runs, timeout=self._start_timeout)
        except AikiError as error:
            return [error] * len(calls)
        started: list[Handle[R] | AikiError] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Conflict) and call.options.on_conflict == "return_existing":
                started.append(self.typed_handle(outcome.run_id, call.result))
            elif isinstance(outcome, AikiError):
                started.append(outcome)
            else:
                started.append(self.typed_handle(outcome, call.result))
        return started

    async def snapshots(
        self,
        *,
        status: Status | None = None,
        workflow: str | None = None,
        limit: int = 50,
    ) -> list[RunSnapshot]:
        """Read the records of the runs that most recently changed, newest first."""
        catalog, runs = self.store.catalog, self.store.runs
        statuses = tuple(Status) if status is None else (status,)
        if status is Status.RUNNING:
            ids = await catalog.running()
        elif status is Status.QUEUED:  # listed together with those that run
            both = limit + len(await catalog.running())
            ids = await catalog.newest(statuses=statuses, workflow=workflow, limit=both)
        else:
            ids = await catalog.newest(statuses=statuses, workflow=workflow, limit=limit)
        found = [
            snapshot
            for snapshot in await runs.snapshots(ids, timeout=self._start_timeout)
            if snapshot.status in statuses and workflow in (None, snapshot.workflow)
        ]
        return sorted(found, key=lambda snapshot: snapshot.since, reverse=True)[:limit]

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
    parts = await asyncio.gather(*map(client._start, _parts(calls)))
    return [outcome for part in parts for outcome in part]


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


def _new_run(call: Call[Any]) -> NewRun:
    digest = hashlib.blake2b(call.version.encode() + b"\n" + call.payload, digest_size=16)
    return NewRun(
        id=new_run_id(0),
        workflow=call.workflow,
        version=call.version,
        pool=call.options.pool,
        input=call.payload,
        reference=call.options.idempotency_key or "",
        input_hash=digest.hexdigest(),
    )


# The tutorial's spelling: `aiki.client(…)` makes one.
client = Client
