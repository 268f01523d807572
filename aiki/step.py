"""One attempt of one step: the task's code, called where it may run, and for how long.

Everything about the journal is in `run.py`; here is only the call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from aiki.codec import Arguments, Codec
from aiki.current_step import CurrentStep, entered, left
from aiki.retry import RetryPolicy
from aiki.threads import Job, LentThreads
from aiki.time_limit import time_limit

LAST_WORDS = 1.0  # seconds for a thread that gives heartbeats to hear that its time is over


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
    is_limited: bool = field(init=False)
    """Whether there is a time after which an attempt is given up."""

    def __post_init__(self) -> None:
        limits = (self.timeout, self.schedule_to_close, self.heartbeat_timeout)
        object.__setattr__(self, "is_limited", limits != (None, None, None))

    def next_delay(
        self, attempt: int, elapsed: float, error: BaseException, rand: float
    ) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up."""
        delay = self.retry.next_delay(attempt, elapsed, error, rand)
        closes = self.schedule_to_close
        if delay is None or closes is None or elapsed + delay < closes:
            return delay
        return None


class AroundTask(Protocol):
    """What is called around each attempt."""

    async def task(self, step: CurrentStep, call_next: Callable[[], Awaitable[Any]], /) -> Any:
        """Make the attempt by `call_next`, or not, and give what it gave, or something else."""
        ...


class TimedOut(TimeoutError):
    """The task took longer than its time-out."""


class ThreadLeft(TimedOut):
    """The task took longer than its time-out in a thread, which nobody can stop."""


async def call(  # noqa: PLR0917 - six facts about one call
    spec: StepSpec,
    about: CurrentStep,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    threads: LentThreads,
    around: Sequence[AroundTask] = (),
) -> Any:
    """Make one attempt and give what the task returned.

    Raises:
        TimedOut: the time-out passed. A coroutine was cancelled; a thread goes on unheeded.
        BaseException: whatever the task raised.
    """
    token = entered(about)
    if spec.schedule_to_close is not None and about.attempt == 1:
        about.note()  # or a death before anything else is recorded would begin the time anew
    try:
        if around:
            make: Callable[[], Awaitable[Any]]
            make = partial(_attempt, spec, about, args, kwargs, threads)
            for each in reversed(around):
                make = partial(each.task, about, make)
            return await make()
        return await _attempt(spec, about, args, kwargs, threads)
    finally:
        about.end()
        left(token)


def _attempt(
    spec: StepSpec,
    about: CurrentStep,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    threads: LentThreads,
) -> Awaitable[Any]:
    if not spec.is_async:
        return _in_thread(spec, about, partial(spec.fn, *args, **kwargs), threads)
    if not spec.is_limited:
        made: Awaitable[Any] = spec.fn(*args, **kwargs)
        return made
    return _in_time(Limits(spec, about), partial(spec.fn, *args, **kwargs))


class Limits:
    """Until when an attempt may last; its heartbeats move that."""

    def __init__(self, spec: StepSpec, about: CurrentStep) -> None:
        self._spec = spec
        self._about = about
        self._loop = asyncio.get_running_loop()
        self.begin()
        self._timeout: asyncio.Timeout | None = None
        self._looking: asyncio.TimerHandle | None = None

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
        """Count from now on, also where a thread was asked for some time ago."""
        self._begun = self._loop.time()
        self._about.heard = time.monotonic()

    def watch(self, timeout: asyncio.Timeout) -> None:
        """End `timeout` once nothing is left."""
        self._timeout = timeout
        self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()  # or it would keep the attempt in memory for so long

    def _look(self) -> None:
        if self._timeout is None:
            return
        left = self.left()
        if left > 0:
            self._looking = self._loop.call_later(left, self._look)
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
    spec: StepSpec,
    about: CurrentStep,
    call: Callable[[], Any],
    threads: LentThreads,
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
    """Tell a thread that its time is over; return whether it heard that, by a heartbeat."""
    about.end()
    if about.is_heard:
        await asyncio.wait([job.outcome], timeout=LAST_WORDS)
    if job.outcome.done():
        job.outcome.exception()  # whatever it is, it comes too late
    return job.outcome.done()


async def _in_time(limits: Limits, call: Callable[[], Awaitable[Any]]) -> Any:
    if limits.left() <= 0:  # by the attempts before
        raise TimedOut(limits.exceeded())
    timeout = None
    try:
        async with time_limit(None) as timeout:
            limits.watch(timeout)
            return await call()
    except TimeoutError:
        if timeout is not None and timeout.expired():
            raise TimedOut(limits.exceeded()) from None
        raise
    finally:
        limits.stop()
