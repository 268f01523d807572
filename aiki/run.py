"""The `Run` that a handler receives. What it does asks the journal first and the store second."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction
from itertools import islice
from typing import Any, Literal, NoReturn, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from aiki.asked import UPDATE, Asked
from aiki.attempts import Attempts
from aiki.call import Call
from aiki.checkpoint import ON_FAILURE
from aiki.children import Children
from aiki.codec import Arguments
from aiki.compensations import Compensations
from aiki.context import RunInfo, run_info
from aiki.current_step import is_in_step
from aiki.durations import Seconds, seconds
from aiki.errors import AikiError, DataError, DefinitionError, Failure, LimitExceeded
from aiki.execution import Execution
from aiki.mapping import MAX_MAPPED, ChildMap, OnError
from aiki.names import checked_name
from aiki.operation import Host, Operation, State
from aiki.records import ClaimedRun, Entry
from aiki.steering import Steer
from aiki.step import StepSpec
from aiki.topic import Topic
from aiki.updates import Updates
from aiki.waits import Waits

T = TypeVar("T")
P = ParamSpec("P")

_NOTHING: Mapping[str, Asked] = {}

_START_IT_THERE = "start it from the workflow, or call it directly to run its code within this step"

MAX_DETAILS = 4096  # bytes: they are read whenever the run is listed

_logger = logging.getLogger("aiki.run")
X = TypeVar("X")
R = TypeVar("R")
X_contra = TypeVar("X_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_EPOCH = datetime.fromtimestamp(0, UTC)
_active: contextvars.ContextVar[Run | None] = contextvars.ContextVar("aiki_run", default=None)


class Mappable(Protocol[X_contra, R_co]):
    """A version of a workflow that takes one argument."""

    def bind(self, item: X_contra, /) -> Call[R_co]:
        """Give the start with its argument."""
        ...


class Compensating(Protocol[P]):
    """A task, as far as `Run.compensate` knows it."""

    def prepare(
        self, run: Run, /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[str, Callable[[], Coroutine[Any, Any, object]]]:
        """Check the arguments of a start; give the task's name and the start itself."""
        ...


class Run:
    """One execution of a workflow, as its handler sees it."""

    context: Any = None
    """What the workflow's `context` made for this execution. The type is known to `get` of what
    `run_context` has returned, which gives the same."""

    def __init__(
        self,
        claimed: ClaimedRun,
        host: Host,
        arguments: Arguments,
        asked: Mapping[str, Asked] = _NOTHING,
    ) -> None:
        self.id = claimed.ownership.run_id
        self.attempt = claimed.attempt
        """1 at first; a handler that fails and is tried again finds the next number."""
        self.generation = claimed.generation
        """How often the run has continued as new."""
        self._claimed = claimed
        self.execution = Execution(claimed, host, asked)
        self._arguments = arguments
        self._compensations = Compensations(self.execution)
        # The same for a fork, which repeats what was drawn, and another for each generation
        self._seed = claimed.seed or claimed.ownership.run_id
        if claimed.generation:
            self._seed += f"~{claimed.generation}"
        self._attempts = Attempts(self.execution)
        self._children: Children | None = None
        self._owner = claimed.ownership
        self._runs = host.runs
        self._specs: dict[str, StepSpec] = {}
        has_updates = any(each.kind == UPDATE for each in asked.values())
        self._updates = Updates(self.execution, self) if has_updates else None
        self._draws = 0
        self._patches: dict[str, bool] = {}

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the run's id and is silent while recorded steps are repeated."""
        return _RunLogger(self)

    @property
    def info(self) -> RunInfo:
        """What is known of the run: its workflow and version, its input, when it was created."""
        return run_info(self._claimed)

    @property
    def is_replaying(self) -> bool:
        """Whether recorded steps are still to be repeated."""
        return self.execution.is_replaying

    @property
    def waits(self) -> Waits:
        """What the run waits for, beside its tasks."""
        return Waits(self.execution)

    @property
    def children(self) -> Children:
        """The runs that this run has started."""
        if self._children is None:
            self._children = Children(self.execution, self.check_here)
        return self._children

    @overload
    async def map(
        self, child: Mappable[X, R], items: Iterable[X], *, max_parallel: int = ...
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        child: Mappable[X, R],
        items: Iterable[X],
        *,
        max_parallel: int = ...,
        on_error: Literal["raise"],
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        child: Mappable[X, R],
        items: Iterable[X],
        *,
        max_parallel: int = ...,
        on_error: Literal["return"],
    ) -> list[R | AikiError]: ...
    async def map(
        self,
        child: Mappable[X, Any],
        items: Iterable[X],
        *,
        max_parallel: int = 1_000,
        on_error: OnError = "raise",
    ) -> list[Any]:
        """Start a child for each item, so many at a time, and give their results in order.

        For thousands of items: each result stays in its child's record. With `on_error="raise"` the
        first child that fails or is cancelled has the others cancelled, and raises `RunFailed` or
        `RunCancelled`; with `"return"` these stand among the results.

        Raises:
            DataError: an item is not what the child takes.
            LimitExceeded: more than 10,000 items, or more than 64 MiB of results.
            DefinitionError: what is to be started is no version, or has an option about one run.
        """
        self.check_here("children were mapped")
        given: object = max_parallel
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            raise DataError(f"max_parallel is a whole number of at least 1, not {given!r:.100}")
        how: object = on_error
        if how not in ("raise", "return"):
            raise DataError(f'on_error is "raise" or "return", not {how!r:.100}')
        if not callable(getattr(child, "bind", None)):
            raise DefinitionError(
                f"run.map takes a version of a workflow, not {child!r:.100}; of a task, gather "
                "the starts"
            )
        calls = [child.bind(item) for item in islice(items, MAX_MAPPED + 1)]
        if len(calls) > MAX_MAPPED:
            raise LimitExceeded(f"run.map takes at most {MAX_MAPPED:,} items; map over parts")
        return await ChildMap(self.execution, calls, max_parallel, on_error).results()

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
        if not isinstance(given, datetime) or given.utcoffset() is None:
            raise DataError(f"a run sleeps until an aware datetime, not {given!r:.100}")
        seconds(max(timedelta(), given - datetime.now(UTC)), what="the time until then")
        self.check_here(f"sleep {name!r} was begun")
        until = max(0, -(-(given - _EPOCH) // timedelta(milliseconds=1)))  # no wait ends early
        return await self.waits.sleep(checked_name(name, "sleep"), until_ms=until)

    async def until(
        self, name: str, condition: Callable[[], object], *, timeout: Seconds | None = None
    ) -> bool:
        """Wait until a condition is true that an update, or another branch, makes so.

        It is looked at whenever code of the run was given something, and must have no effect of its
        own. Returns True; with a `timeout`, counted from now, False where it was not true in time.
        Raises `TaskFailed` where the condition raises an exception, `DefinitionError` for an
        `async def`.
        """
        if iscoroutinefunction(condition):
            raise DefinitionError(f"condition {name!r} is a function, not an async def")
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
            known = self._patches[name] = self._is_patched(name)
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

    def compensate(self, task: Compensating[P], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Register what undoes the step that comes next, before that step.

        Where the handler fails for good or is cancelled, what is registered by then is executed,
        the last first, each as a step with its own retries; then the run ends. One that fails is
        logged, and the others are still executed. Raises `DataError` for arguments that their
        annotations do not describe.
        """
        self.check_here("a compensation was registered")
        name, undo = task.prepare(self, *args, **kwargs)
        self._compensations.register(name, undo)

    async def undo(self, error: BaseException | None) -> None:
        """Execute the compensations: the handler has failed with this, or was cancelled."""
        await self._compensations.execute(error, self.logger)

    async def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Begin the run anew with this input and a fresh journal; it never returns.

        The run keeps its id, the messages that it has not taken, and a cancel that it has not
        met. Its steps have keys of their own again, its streams go on. Updates that were accepted
        are waited for, and the input is taken then, with what they have changed of it; what else
        is still under way is given up. Raises `DataError` for an input that the handler's
        annotations do not describe, `DefinitionError` inside an update.
        """
        self.check_here("run.continue_as_new() was called")
        self._arguments.encode(args, kwargs)  # what cannot be stored is refused before all else
        if self._updates is not None:
            await self._updates.end()  # or nobody would answer those that were accepted
        payload, _, _ = self._arguments.encode(args, kwargs)  # with what they have changed
        if self.execution.is_cancelled:
            raise asyncio.CancelledError("a run that was cancelled does not begin anew")

        async def perform(operation: Operation) -> NoReturn:
            await self.execution.may_start(operation)
            operation.state = State.COMMITTING
            self.execution.steering.ask(Steer.CONTINUE, payload)
            await self.execution.never()

        await self.execution.operate("continue", perform, _never_recorded)
        raise AssertionError("what never returns has returned")

    def note(self, address: str, make: Callable[[], bytes]) -> tuple[str, bytes]:
        """Give the key of a note, and what is noted there or `make` makes now."""
        return self.execution.notes.take(address, make)

    async def set_details(self, text: str) -> None:
        """Say what the run is at, for whoever looks at it: `handle.describe()`, `aiki show`.

        The last text replaces those before. Nothing is said while recorded steps are repeated, and
        nothing is recorded in the journal. At most 4 KiB.

        Raises:
            DataError, LimitExceeded: it is no text, or too long.
            DefinitionError: it was called outside the handler.
        """
        text = _checked_details(text)
        if not self._is_here():
            raise DefinitionError(
                f"the details of run {self.id} were set outside its handler; set them in the "
                "handler, with the `run` that it was given"
            )
        if self.execution.is_closed:
            # The run is being left. The pause is for who swallows this, again and again.
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError
        if self.execution.is_replaying:
            return
        try:
            await self._runs.set_details(self._owner, text)
        except AikiError as error:  # nothing depends on it
            _logger.warning("the details of run %s were not stored: %s", self.id, error)

    def begin(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Let an actor start the handler."""

        async def active() -> Any:
            _active.set(self)
            try:
                if self._updates is not None:
                    return await self._updates.beside(handler)
                return await handler()
            finally:
                if self._children is not None and not self.execution.is_closed:
                    await self._children.settle()

        self.execution.begin(active)

    def execute_hook(self, spec: StepSpec, failure: Failure) -> Coroutine[Any, Any, Any]:
        """Execute the step that is told of the run's failure.

        It is the same step however the failure is described: a traceback may be another one when
        the handler is repeated.
        """
        return self.execute_step(spec, (failure,), {}, called=ON_FAILURE)

    def execute_step(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        called: bytes | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Give a step's recorded outcome, or execute and record it. `Task.start` is this.

        Raises:
            TaskFailed: its attempts are exhausted.
            DataError, LimitExceeded: the input cannot be stored.
            DefinitionError: it was called where no step can run.
        """
        if not self._is_here():
            self.check_here(f"task {spec.name!r} was started", _START_IT_THERE)
        known = self._specs.setdefault(spec.name, spec)
        if known is not spec and known.identity != spec.identity:
            raise DefinitionError(
                f"two tasks of this run are named {spec.name!r}: {known.source} and "
                f"{spec.source}; give one of them another name"
            )
        return self._attempts.execute(spec, args, kwargs, called)

    def check_here(self, what: str, instead: str = "do it in the workflow's handler") -> None:
        """Raise `DefinitionError` unless the caller is this run's handler; `what` it has done."""
        if is_in_step():
            raise DefinitionError(f"{what} inside a task; a task is one step, so {instead}")
        if not self._is_here():
            raise DefinitionError(
                f"{what} with run {self.id} outside that run's handler; do it in the handler, with "
                "the `run` that the handler was given"
            )

    def _is_here(self) -> bool:
        return _active.get() is self and not is_in_step() and self.execution.is_on_this_loop()

    def _is_patched(self, name: str) -> bool:
        notes, is_replaying = self.execution.notes, self.execution.is_replaying
        return notes.is_there_or_new(f"patch/{name}", is_replaying=is_replaying)

    def _draw(self, size: int) -> bytes:
        self.check_here("something random was asked for")
        self._draws += 1
        seed = f"{self._seed}/{self._draws}".encode()
        return hashlib.blake2b(seed, digest_size=size).digest()


def _never_recorded(entry: Entry) -> NoReturn:
    raise DataError(f"a continuation is recorded as {entry.kind}")


def _checked_details(text: object) -> str:
    if not isinstance(text, str):
        raise DataError(f"the details of a run are a str, not {type(text).__qualname__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"the details of a run are no text that can be stored: {error}") from None
    if size > MAX_DETAILS:
        raise LimitExceeded(f"the details of a run have {size} bytes; at most {MAX_DETAILS}")
    return text


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
