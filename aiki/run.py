"""The `Run` that a handler receives. What it does asks the journal first and the store second."""

from __future__ import annotations

import contextvars
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from aiki.asked import UPDATE, Asked
from aiki.attempts import Attempts
from aiki.durations import Seconds, seconds
from aiki.errors import DataError, DefinitionError
from aiki.execution import Execution
from aiki.names import checked_name
from aiki.operation import Host
from aiki.records import ClaimedRun
from aiki.step import StepSpec, is_in_step
from aiki.topic import Topic
from aiki.updates import Updates
from aiki.waits import Waits

T = TypeVar("T")

_NOTHING: Mapping[str, Asked] = {}

_active: contextvars.ContextVar[Run | None] = contextvars.ContextVar("aiki_run", default=None)


class Run:
    """One execution of a workflow, as its handler sees it."""

    def __init__(
        self, claimed: ClaimedRun, host: Host, asked: Mapping[str, Asked] = _NOTHING
    ) -> None:
        self.id = claimed.ownership.run_id
        self.execution = Execution(claimed, host, asked)
        self._attempts = Attempts(self.execution)
        self._specs: dict[str, StepSpec] = {}
        self._has_updates = any(each.kind == UPDATE for each in asked.values())
        self._draws = 0
        self._patches: dict[str, bool] = {}

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the run's id and is silent while recorded steps are repeated."""
        return _RunLogger(self)

    @property
    def is_replaying(self) -> bool:
        """Whether recorded steps are still to be repeated."""
        return self.execution.is_replaying

    @property
    def waits(self) -> Waits:
        """What the run waits for, beside its tasks."""
        return Waits(self.execution)

    async def sleep(self, name: str, duration: Seconds) -> bool:
        """Sleep, durably; a run that only sleeps takes no worker meanwhile.

        The end is recorded when the sleep begins, by the store's clock. If the duration is another
        one when the handler is repeated, only the difference counts. Returns whether the sleep was
        ended early, by `Handle.wake_up`. Raises `DataError` for anything but 0 seconds to 10 years.
        """
        lasts = seconds(duration, what="the duration of a sleep")
        self.check_here(f"sleep {name!r} was begun")
        return await self.waits.sleep(checked_name(name, "sleep"), lasts=lasts)

    async def sleep_until(self, name: str, moment: datetime) -> bool:
        """Sleep until a moment, an aware datetime, of the store's clock; see `sleep`."""
        given: object = moment
        if not isinstance(given, datetime) or given.tzinfo is None:
            raise DataError(f"a run sleeps until an aware datetime, not {given!r:.100}")
        seconds(max(timedelta(), given - datetime.now(UTC)), what="the time until then")
        self.check_here(f"sleep {name!r} was begun")
        until = max(0, round(given.timestamp() * 1000))
        return await self.waits.sleep(checked_name(name, "sleep"), until_ms=until)

    async def until(
        self, name: str, condition: Callable[[], object], *, timeout: Seconds | None = None
    ) -> bool:
        """Wait until a condition is true that an update, or another branch, makes so.

        It is looked at whenever code of the run was given something, and must have no effect of its
        own. Returns True; with a `timeout`, counted from now, False where it was not true in time.
        Raises `TaskFailed` where the condition raises an exception.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        self.check_here(f"condition {name!r} was waited for")
        return await self.waits.until(checked_name(name, "condition"), condition, limit)

    def now(self) -> datetime:
        """Give the time, by the store's clock; the same when the handler is repeated."""
        self.check_here("run.now() was called")
        _, noted = self.note("now", lambda: b"%d" % self.execution.commits.server_now())
        return datetime.fromtimestamp(int(noted) / 1000, UTC)

    def uuid(self) -> UUID:
        """Give a UUID; the same ones in the same order when the handler is repeated."""
        return UUID(bytes=self._draw(16), version=4)

    def random(self) -> float:
        """Give a number from 0 to 1; the same ones in the same order when it is repeated."""
        return (int.from_bytes(self._draw(8), "big") >> 11) / (1 << 53)

    def patched(self, name: str) -> bool:
        """Tell whether to take a changed way: False only to runs that have passed here before.

        A run that gets here for the first time is told True, and is from then on. One whose record
        goes on behind this place took the old way, and must take it again.
        """
        self.check_here(f"run.patched({name!r}) was called")
        known = self._patches.get(checked_name(name, "patch"))
        if known is None:
            known = self._patches[name] = self.execution.is_noted_or_new(f"patch/{name}")
        return known

    def state(self, kind: type[T]) -> T:
        """Give what queries and updates of the run see: its one object of a class.

        It is made by `kind()` when it is asked for first, and anew whenever the handler is
        repeated, which sets it as it did before.
        """
        self.check_here("the run's state was asked for")
        return self.execution.state(kind)

    def publish(self, topic: Topic[T], chunk: T, /) -> None:
        """Publish a chunk, for those who read `handle.stream(topic)`; nothing waits for them.

        Repeated, the handler publishes nothing twice. Raises `DataError` for a chunk that the
        topic's type does not describe, `LimitExceeded` for more than 64 KiB, or 100,000 chunks,
        16 MiB or 100 topics in all, and `InvalidTransition` where the topic is closed.
        """
        self.check_here(f"a chunk of {topic!r} was published")
        self.execution.publisher.tell(topic, chunk)

    def close_topic(self, topic: Topic[Any], /) -> None:
        """Say that no chunk will follow: who reads the topic is at its end, before the run is."""
        self.check_here(f"{topic!r} was closed")
        self.execution.publisher.close_topic(topic)

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far the run is, of `total` where that is known; `handle.progress()` reads it.

        The last word counts. It is not recorded, and costs a write every 0.25 seconds at most.
        Raises `DataError` for anything but numbers from 0.
        """
        self.check_here("progress was told")
        self.execution.publisher.reach(done, total, is_repeated=self.is_replaying)

    def note(self, address: str, make: Callable[[], bytes]) -> tuple[str, bytes]:
        """Give the key of a note, and what is noted there or `make` makes now."""
        return self.execution.note(address, make)

    def begin(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Let an actor start the handler."""

        async def active() -> Any:
            _active.set(self)
            if self._has_updates:
                return await Updates(self.execution, self).beside(handler)
            return await handler()

        self.execution.begin(active)

    def execute_step(
        self, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        """Give a step's recorded outcome, or execute and record it. `Task.start` is this.

        Raises:
            TaskFailed: its attempts are exhausted.
            DataError, LimitExceeded: the input cannot be stored.
            DefinitionError: it was called where no step can run.
        """
        if is_in_step():
            raise DefinitionError(
                f"task {spec.name!r} was started inside a task; a task is one step, so start it "
                "from the workflow, or call it directly to run its code within this step"
            )
        self.check_here(f"task {spec.name!r} was started")
        known = self._specs.setdefault(spec.name, spec)
        if known is not spec and known.identity != spec.identity:
            raise DefinitionError(
                f"two tasks of this run are named {spec.name!r}: {known.source} and "
                f"{spec.source}; give one of them another name"
            )
        return self._attempts.execute(spec, args, kwargs)

    def check_here(self, what: str) -> None:
        """Raise `DefinitionError` unless the caller is this run's handler; `what` it has done."""
        if is_in_step():
            raise DefinitionError(
                f"{what} inside a task; a task is one step, so do it in the workflow's handler"
            )
        if _active.get() is not self or not self.execution.is_on_this_loop():
            raise DefinitionError(
                f"{what} with run {self.id} outside that run's handler; do it in the handler, with "
                "the `run` that the handler was given"
            )

    def _draw(self, size: int) -> bytes:
        self.check_here("something random was asked for")
        self._draws += 1
        seed = f"{self.id}/{self._draws}".encode()
        return hashlib.blake2b(seed, digest_size=size).digest()


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Says nothing while the run repeats what it has said before."""

    def __init__(self, run: Run) -> None:
        super().__init__(logging.getLogger("aiki.run"), {"run_id": run.id})
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return not self._run.is_replaying and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return f"[{self._run.id}] {msg}", {**kwargs, "extra": self.extra}
