"""A worker: claims runs, hosts their actors, and says once a second that it lives."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from aiki.actors import Actors
from aiki.client import Client
from aiki.context import Lifespan
from aiki.durations import Seconds, seconds
from aiki.errors import AikiError, ConfigError, DataError
from aiki.firing import Firing
from aiki.housekeeping import Housekeeping
from aiki.life import Life
from aiki.lifespans import Lifespans
from aiki.middleware import Middleware, checked_hooks
from aiki.names import checked_name
from aiki.operation import Host
from aiki.presence import Presence
from aiki.registry import Registry
from aiki.slots import Slots
from aiki.store import Store
from aiki.threads import LentThreads, Threads
from aiki.time_limit import time_limit

_logger = logging.getLogger("aiki.worker")

_SILENCE = 1.0  # seconds of a stop, after which whoever asked for it is told what it waits for
SUSPEND_ALWAYS = "AIKI_ALWAYS_SUSPEND"


@dataclass(frozen=True, slots=True)
class RedisStreams:
    """How a worker hears of ready runs: by Redis streams.

    `claim_min_idle_time` is the worker's lease: how long it may be silent before others take
    its runs over.
    """

    claim_min_idle_time: Seconds = 60.0


class Worker:
    """Executes runs of the workflows in its registry, in the caller's process.

    Raises `ConfigError` for settings that cannot work.
    """

    def __init__(
        self,
        client: Client,
        *,
        id: str | None = None,
        max_concurrent_workflow_runs: int = 200,
        subscriber: RedisStreams | None = None,
        pools: Sequence[str] = ("default",),
        heartbeat: Seconds = 1.0,
        hang_timeout: Seconds = 30.0,
        grace: Seconds = 30.0,
        inline_wait: Seconds = 1.0,
        divergence_after: Seconds = 10.0,
        quarantine: bool = False,
        housekeeping: bool = True,
        lifespan: Lifespan[Any] | Sequence[Lifespan[Any]] = (),
        middleware: Middleware | Sequence[Middleware] = (),
    ) -> None:
        self._client = _checked_client(client)
        self.id = f"worker-{os.getpid()}" if id is None else checked_name(id, "worker id")
        self._room = _positive(max_concurrent_workflow_runs, "max_concurrent_workflow_runs")
        subscriber = _checked_subscriber(subscriber)
        self._lease = _duration(subscriber.claim_min_idle_time, "claim_min_idle_time")
        self._interval = _duration(heartbeat, "heartbeat")
        if self._lease < 3 * self._interval:
            raise ConfigError(
                f"the lease ({self._lease:g} s) must be at least three heartbeats "
                f"({self._interval:g} s each), or one late beat costs the worker its runs"
            )
        self._hang_timeout = _duration(hang_timeout, "hang_timeout")
        self._grace = _duration(grace, "grace")
        self._suspend_always = os.environ.get(SUSPEND_ALWAYS) == "1"
        self._inline_wait = (
            0.0 if self._suspend_always else seconds(inline_wait, what="inline_wait")
        )
        self._divergence_after = _duration(divergence_after, "divergence_after")
        self._pools = _checked_pools(pools)
        self._quarantine = quarantine
        self._keeps_house = housekeeping
        self._hooks = checked_hooks(
            "a worker", lifespan=lifespan, context=None, middleware=middleware
        )
        self._lifespans: Lifespans | None = None
        self.workflow_registry = Registry()
        self.needs_recycling = asyncio.Event()
        self.recycle_reason = ""
        self._actors = Actors(
            self.workflow_registry,
            self._hooks.middleware,
            context=self._context,
            on_left=self._slot_freed,
        )
        self._background: list[asyncio.Task[None]] = []
        self._presence: Presence | None = None
        self._slots: Slots | None = None
        self._hosts: list[Host] = []  # by partition
        self._threads: Threads | None = None
        self._paused = False
        self._running = False
        self.stopping = asyncio.Event()
        """Set once the worker is to end, by request or because something failed."""
        self._failure: BaseException | None = None

    async def prepare(self) -> None:
        """Enter the lifespans. `start` does it, where it was not done before.

        Raises whatever they raise.
        """
        if self._lifespans is None:
            hooks = [self._hooks, *(each.hooks for each in self.workflow_registry.versions())]
            opened = Lifespans((each for some in hooks for each in some.lifespans), self.id)
            await opened.open()
            self._lifespans = opened

    async def start(self) -> None:
        """Begin to execute runs in the background.

        Raises:
            ConfigError: nothing is registered, or the worker runs already.
            StoreUnavailable, StoreRefused: the store cannot be used.
            Exception: whatever its lifespans raise.
        """
        if self._running:
            raise ConfigError(f"worker {self.id} runs already")
        if not self.workflow_registry.versions():
            raise ConfigError(
                f"worker {self.id} has nothing to execute; add a workflow with "
                "worker.workflow_registry.add(…) first"
            )
        await self.prepare()
        stores = self._client.partitions.all
        self._threads = Threads(self._room, f"aiki-task-{self.id}")
        self._hosts = [self._host_for(store, self._threads) for store in stores]
        self._running = True
        self.workflow_registry.served_by = self.id
        self.stopping.clear()
        self._failure = None
        self._actors.resume()
        try:
            presence = await self._live(stores)
        except BaseException:
            self.workflow_registry.served_by = ""
            await self._leave_lifespans()
            raise
        for store in stores:
            self._spawn(presence.release_orphans(store.number))
            if self._keeps_house:
                self._spawn(Housekeeping(store, lease=self._lease).run())
                self._spawn(Firing(store).run())
        if self._keeps_house and not self._quarantine:
            self._spawn(presence.mind_quarantine())

    async def run(self) -> None:
        """Start, execute runs until `request_stop`, and stop.

        Raises whatever `start` and `stop` raise.
        """
        await self.start()
        try:
            await self.stopping.wait()
        finally:
            await self.stop()

    def request_stop(self) -> None:
        """Let `run` end."""
        self.stopping.set()

    async def stop(self, *, grace: float | None = None) -> None:
        """Drain: claim nothing more, let executing steps be recorded, hand every run back.

        What still executes after `grace` seconds is handed back unrecorded, to be executed
        again elsewhere. Raises what failed in the background, if anything did.
        """
        if self._running:
            self._running = False
            self.stopping.set()
            if self._presence is not None:
                await self._presence.stop_living_again()
            try:
                await self._drain(self._grace if grace is None else grace)
            finally:
                if self._presence is not None:
                    await self._presence.end("it stopped")
                for task in self._background:
                    task.cancel()
                await asyncio.gather(*self._background, return_exceptions=True)
                self._background.clear()
                await self._leave_lifespans()
                if self._threads is not None:
                    self._threads.close()
        self.workflow_registry.served_by = ""
        await self._leave_lifespans()  # where it was prepared and never started
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @property
    def incarnation(self) -> str:
        """The name of the worker's present life in the first partition; empty before it."""
        return next(iter(self.incarnations), "")

    @property
    def incarnations(self) -> tuple[str, ...]:
        """The names of the worker's present lives, one in each partition of the store."""
        return () if self._presence is None else self._presence.incarnations

    def pause(self) -> None:
        """Claim no more runs; those at work go on."""
        self._paused = True

    def unpause(self) -> None:
        """Claim runs again."""
        self._paused = False
        self._slot_freed()

    @property
    def hosted(self) -> int:
        """How many runs the worker hosts now."""
        return len(self._actors)

    def report(self) -> dict[str, object]:
        """Say what the worker hosts and what each run waits for."""
        return {
            "worker": self.id,
            "incarnation": self.incarnation,
            "slots": self._room,
            "paused": self._paused,
            "runs": self._actors.describe(),
        }

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # Its lives: an incarnation, a lease and claims in each partition

    async def _live(self, stores: Sequence[Store]) -> Presence:
        self._slots = Slots(self._free_slots, len(stores))
        presence = self._presence = Presence(
            stores,
            self.id,
            born=self._born,
            leave=self._actors.cancel,
            is_hosted=self._actors.__contains__,
            hosted=self._actors.__len__,
            on_replaced=self._on_replaced,
            on_end=self._on_done,
            quarantine=self._quarantine,
        )
        await presence.begin()
        return presence

    def _born(self, store: Store, on_gone: Callable[[str], None]) -> Life:
        assert self._slots is not None  # noqa: S101 - it lives with what `_live` made
        streams = [
            f"ready:{version.name}/{version.version}/{pool}"
            for version in self.workflow_registry.versions()
            for pool in self._pools
        ]
        return Life(
            store,
            self.id,
            streams=streams,
            lease=self._lease,
            interval=self._interval,
            hang_timeout=self._hang_timeout,
            slots=self._slots,
            host=partial(self._actors.host, self._hosts[store.number]),
            notify=self._actors.notify,
            on_gone=on_gone,
            on_claims_end=self._on_done,
        )

    def _context(self) -> Context | None:
        return None if self._lifespans is None else self._lifespans.context()

    async def _leave_lifespans(self) -> None:
        lifespans, self._lifespans = self._lifespans, None
        if lifespans is not None:
            await lifespans.close()

    async def _drain(self, grace: float) -> None:
        self._actors.suspend()  # at once: they would go on while the claims come to their end
        if self._presence is not None:
            await self._presence.stop_claiming()
        says = asyncio.get_running_loop().call_later(_SILENCE, self._say_what_it_waits_for, grace)
        try:
            async with time_limit(grace):
                await self._actors.all_left()
        except TimeoutError:
            _logger.warning(
                "worker %s hands %d runs back whose steps did not end within %g s",
                self.id,
                len(self._actors),
                grace,
            )
        finally:
            says.cancel()

    def _say_what_it_waits_for(self, grace: float) -> None:
        _logger.warning(
            "worker %s waits for the steps of %d runs, %g s at most",
            self.id,
            len(self._actors),
            grace,
        )

    def _on_replaced(self) -> None:
        if self._running:
            self._fail(
                AikiError(
                    "the store is not the one this worker registered with: it was flushed, "
                    "restored or replaced; nothing more is claimed"
                )
            )

    def _host_for(self, store: Store, threads: Threads) -> Host:
        partitions = self._client.partitions
        number = store.number

        def is_leased() -> bool:
            return self._presence is not None and self._presence.is_leased(number)

        return Host(
            runs=store.runs,
            control=store.control,
            mailbox=store.mailbox,
            mailbox_of=lambda run_id: partitions.of(run_id).mailbox,
            streams=store.streams,
            children=store.children,
            threads=LentThreads(threads, is_leased),
            label=self.id,
            inline_wait=self._inline_wait,
            divergence_after=self._divergence_after,
            cancel_grace=self._grace,
            suspend_always=self._suspend_always,
            is_leased=is_leased,
            has_room=lambda: self._free_slots() > 0,
            interrupt=self._interrupted,
            recycle=self._recycle,
            is_draining=self.stopping.is_set,
        )

    # Runs

    def _free_slots(self) -> int:
        if self._paused or not self._running or self._failure is not None:
            return 0
        alone = self._presence is not None and self._presence.is_quarantine
        return (1 if alone else self._room) - len(self._actors)

    def _slot_freed(self) -> None:
        if self._slots is not None:
            self._slots.changed()

    def _interrupted(self, error: BaseException) -> None:
        self._fail(error)

    def _recycle(self, reason: str) -> None:
        _logger.warning("worker %s wants to be replaced: %s", self.id, reason)
        self.recycle_reason = reason
        self.needs_recycling.set()

    # Background

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        task.add_done_callback(self._on_done)
        self._background.append(task)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            _logger.error("worker %s stops: %s", self.id, error, exc_info=error)
            self._actors.suspend()
        self.stopping.set()


def _checked_client(given: object) -> Client:
    if not isinstance(given, Client):
        raise ConfigError(f"a worker takes the client that aiki.client() gives, not {given!r:.100}")
    return given


def _checked_subscriber(given: object) -> RedisStreams:
    if given is None:
        return RedisStreams()
    if not isinstance(given, RedisStreams):
        raise ConfigError(f"subscriber is an aiki.RedisStreams, not {given!r:.100}")
    return given


def _checked_pools(given: object) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ConfigError("pools is a list of names, with at least one")
    return [checked_name(pool, "pool") for pool in cast("Sequence[object]", given)]


def _positive(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{what} is a whole number of at least 1, not {value!r}")
    return value


def _duration(value: Seconds, what: str) -> float:
    try:
        number = seconds(value, what=what)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if number == 0:
        raise ConfigError(f"{what} must be more than 0 seconds")
    return number


# The tutorial's spelling: `aiki.worker(client, …)` makes one.
worker = Worker
