"""One attempt of one step: the task's code, called where it may run, and what it may ask and say.

Everything about the journal is in `run.py`; here is only the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Any, Protocol

from aiki.codec import Arguments, Codec
from aiki.errors import DefinitionError
from aiki.retry import RetryPolicy
from aiki.threads import Job, Threads

MAX_DETAILS = 64 * 1024  # bytes; they are read with the journal at each claim
WRITE_EVERY = 1.0  # seconds between two writes of one step's heartbeats
LAST_WORDS = 1.0  # seconds for a thread that gives heartbeats to hear that its time is over

_details = Codec(object, "the details of a heartbeat")


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A task as a run sees it."""

    name: str
    fn: Callable[..., Any]
    is_async: bool
    arguments: Arguments
    result: Codec
    retry: RetryPolicy
    timeout: float | None
    once: bool
    identity: tuple[str, str]
    source: str
    schedule_to_close: float | None = None
    heartbeat_timeout: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is a time after which an attempt is given up."""
        return (
            self.timeout is not None
            or self.schedule_to_close is not None
            or self.heartbeat_timeout is not None
        )

    def next_delay(
        self, attempt: int, elapsed: float, error: BaseException, rand: float
    ) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up."""
        delay = self.retry.next_delay(attempt, elapsed, error, rand)
        closes = self.schedule_to_close
        return None if delay is None or (closes is not None and elapsed + delay >= closes) else delay


class CurrentStep:
    """What a task may know of the step that it executes, and what it may say of itself.

    Made for each attempt. All of it may be used from any thread that works for the task.
    """

    __slots__ = (
        "_earlier",
        "_is_draining",
        "_is_noted",
        "_loop",
        "_write",
        "_writing",
        "_written",
        "attempt",
        "begun",
        "details",
        "failure",
        "heard",
        "is_cancelled",
        "is_heard",
        "key",
        "run_id",
        "seq",
        "task",
    )

    def __init__(
        self,
        run_id: str,
        attempt: int,
        key: str,
        task: str,
        *,
        loop: asyncio.AbstractEventLoop,
        begun: float,
        failure: bytes,
        details: bytes,
        write: Callable[[CurrentStep], Coroutine[Any, Any, None]],
        is_draining: Callable[[], bool],
    ) -> None:
        self.run_id = run_id
        self.attempt = attempt
        """1 for the first attempt; a crash of the worker does not count one."""
        self.key = key
        """The same across retries, moves to another worker and recovery: an idempotency key for
        whatever the task calls."""
        self.task = task
        """The task's name."""
        self.is_cancelled = False
        """Whether nobody waits for this attempt any more: its time is over, the run was cancelled,
        or another worker has it. A thread had better end then."""
        self.begun = begun  # by the loop's clock: the first attempt
        self.failure = failure  # of the attempt before
        self.details = details  # that were said last
        self.heard = time.monotonic()
        self.is_heard = False
        self.seq = 0
        self._earlier = details
        self._write = write
        self._is_draining = is_draining
        self._loop = loop
        self._is_noted = False
        self._writing: asyncio.Task[None] | None = None
        self._written = -WRITE_EVERY

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the run's id and the step's key."""
        about = {"run_id": self.run_id, "step": self.key}
        return logging.LoggerAdapter(logging.getLogger("aiki.task"), about)

    @property
    def is_draining(self) -> bool:
        """Whether the worker is about to end; what has not ended within its grace is begun again.

        Say by a heartbeat how far the task has come, and the next attempt can go on from there.
        """
        return self._is_draining()

    @property
    def heartbeat_details(self) -> Any:
        """What an earlier attempt said last by `heartbeat`, as plain JSON; None if nothing.

        Also after the worker died in the middle of it, up to a second of what it said aside.
        """
        return _details.decode(self._earlier) if self._earlier else None

    def heartbeat(self, details: object | EllipsisType = ...) -> None:
        """Say that the task is at work, and with `details` (plain JSON, 64 KiB) how far it is.

        The details are stored, about once a second, and handed to the next attempt. Without any,
        those that were said before stay.

        Raises:
            asyncio.CancelledError: the attempt is over; see `is_cancelled`.
            DataError, LimitExceeded: the details cannot be stored.
        """
        if self.is_cancelled:
            raise asyncio.CancelledError(
                f"attempt {self.attempt} of step {self.key} is over: nobody waits for it any more"
            )
        if details is not ...:
            self.details, _ = _details.encode(details, limit=MAX_DETAILS)
            self.note()
        self.heard = time.monotonic()
        self.is_heard = True

    # For the run

    def end(self) -> None:
        """Let nothing more be said."""
        self.is_cancelled = True

    def note(self) -> None:
        """Have what was said stored, soon."""
        # First what is to be stored, then the note: whoever takes the note off reads it after.
        if not self._is_noted:
            self._is_noted = True
            self._loop.call_soon_threadsafe(self._store_later)

    def _store_later(self) -> None:
        if self._writing is not None:
            return  # the end of what is under way looks again
        wait = 0.0 if self._is_draining() else self._written + WRITE_EVERY - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._store)
        else:
            self._store()

    def _store(self) -> None:
        if self.is_cancelled:
            return
        self._is_noted = False
        self._written = self._loop.time()
        self._writing = self._loop.create_task(self._write(self))
        self._writing.add_done_callback(self._stored)

    def _stored(self, _: asyncio.Task[None]) -> None:
        self._writing = None
        if self._is_noted:
            self._store_later()


class AroundTask(Protocol):
    """What is called around each attempt."""

    async def task(self, step: CurrentStep, call_next: Callable[[], Awaitable[Any]], /) -> Any:
        """Make the attempt by `call_next`, or not, and give what it gave, or something else."""
        ...


_current: contextvars.ContextVar[CurrentStep | None] = contextvars.ContextVar(
    "aiki_step", default=None
)


def current_step() -> CurrentStep:
    """Give the step that the calling task executes.

    Raises:
        DefinitionError: the caller is not a task that was started in a run.
    """
    step = _current.get()
    if step is None:
        raise DefinitionError(
            "current_step() works inside a task that a workflow started; this code was called "
            "directly or is the workflow itself"
        )
    return step


def is_in_step() -> bool:
    """Tell whether the caller is a task's code."""
    return _current.get() is not None


class TimedOut(TimeoutError):
    """The task took longer than its time-out."""


class ThreadLeft(TimedOut):
    """The task took longer than its time-out in a thread, which nobody can stop."""


async def call(  # noqa: PLR0917 - six facts about one call
    spec: StepSpec,
    about: CurrentStep,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    threads: Threads,
    around: Sequence[AroundTask] = (),
) -> Any:
    """Make one attempt and give what the task returned.

    Raises:
        TimedOut: the time-out passed. A coroutine was cancelled; a thread goes on unheeded.
        BaseException: whatever the task raised.
    """
    context = _current.set(about)
    try:
        if around:
            make = partial(_attempt, spec, about, args, kwargs, threads)
            for each in reversed(around):
                make = partial(each.task, about, make)
            return await make()
        return await _attempt(spec, about, args, kwargs, threads)
    finally:
        about.end()
        _current.reset(context)


async def _attempt(
    spec: StepSpec,
    about: CurrentStep,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    threads: Threads,
) -> Any:
    if not spec.is_async:
        return await _in_thread(spec, about, partial(spec.fn, *args, **kwargs), threads)
    if not spec.is_limited:
        return await spec.fn(*args, **kwargs)
    return await _in_time(Limits(spec, about), partial(spec.fn, *args, **kwargs))


class Limits:
    """Until when an attempt may last; its heartbeats move that."""

    def __init__(self, spec: StepSpec, about: CurrentStep) -> None:
        self._spec = spec
        self._about = about
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._timeout: asyncio.Timeout | None = None

    def left(self) -> float:
        """Give the seconds that are left."""
        return self._next()[0]

    def exceeded(self) -> str:
        """Say what has taken too long."""
        return f"task {self._spec.name!r} {self._next()[1]}"

    def left_to_begin(self) -> float | None:
        """Give the seconds that are left for all attempts together."""
        closes = self._spec.schedule_to_close
        return None if closes is None else self._about.begun + closes - self._loop.time()

    def begin(self) -> None:
        """Count from now on, and no more from when a thread was asked for."""
        self._begun = self._loop.time()
        self._about.heard = time.monotonic()

    def watch(self, timeout: asyncio.Timeout) -> None:
        """End `timeout` once nothing is left."""
        self._timeout = timeout
        self._look()

    def stop(self) -> None:
        """Look no more."""
        self._timeout = None

    def _look(self) -> None:
        if self._timeout is None:
            return
        left = self.left()
        if left > 0:
            self._loop.call_later(left, self._look)
        else:
            self._timeout.reschedule(self._loop.time())

    def _next(self) -> tuple[float, str]:
        spec, now = self._spec, self._loop.time()
        found: list[tuple[float, str]] = []
        if (limit := spec.timeout) is not None:
            found.append((self._begun + limit - now, f"did not end within {limit:g} s"))
        if (limit := spec.schedule_to_close) is not None:
            left = self._about.begun + limit - now
            found.append((left, f"did not end within {limit:g} s of its first attempt's start"))
        if (limit := spec.heartbeat_timeout) is not None:
            left = self._about.heard + limit - time.monotonic()
            found.append((left, f"gave no heartbeat for {limit:g} s"))
        return min(found)


async def _in_thread(
    spec: StepSpec, about: CurrentStep, call: Callable[[], Any], threads: Threads
) -> Any:
    job = threads.run(call, tells_begin=spec.is_limited)
    try:
        if job.has_begun is not None:
            limits = Limits(spec, about)
            # To wait for a thread takes none of an attempt's time, but of that of all attempts.
            await asyncio.wait([job.has_begun], timeout=limits.left_to_begin())
            if not job.has_begun.done():
                raise TimedOut(limits.exceeded())
            limits.begin()
            while not job.outcome.done():
                if (left := limits.left()) <= 0:
                    why = limits.exceeded()
                    raise TimedOut(why) if await _stops(about, job) else ThreadLeft(why)
                await asyncio.wait([job.outcome], timeout=left)
        return await job.outcome
    finally:
        if not job.outcome.done() or job.outcome.cancelled():
            threads.leave(job)


async def _stops(about: CurrentStep, job: Job) -> bool:
    """Tell a thread that its time is over, and whether it hears that, as far as it says anything."""
    about.end()
    if about.is_heard:
        await asyncio.wait([job.outcome], timeout=LAST_WORDS)
    if job.outcome.done():
        job.outcome.exception()  # whatever it is, it comes too late
    return job.outcome.done()


async def _in_time(limits: Limits, call: Callable[[], Awaitable[Any]]) -> Any:
    if limits.left() <= 0:  # by the attempts before
        raise TimedOut(limits.exceeded())
    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            limits.watch(timeout)
            return await call()
    except TimeoutError:
        if timeout.expired():
            raise TimedOut(limits.exceeded()) from None
        raise
    finally:
        limits.stop()
