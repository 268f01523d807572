"""One attempt of one step: the task's code, called where it may run, and what it may ask.

Everything about the journal is in `run.py`; here is only the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from aiki.codec import Arguments, Codec
from aiki.errors import DefinitionError
from aiki.publisher import Outlet
from aiki.retry import RetryPolicy
from aiki.threads import Threads
from aiki.topic import Topic

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class CurrentStep:
    """What a task may know of the step that it executes."""

    run_id: str
    attempt: int
    """1 for the first attempt; a crash of the worker does not count one."""
    key: str
    """The same across retries, moves to another worker and recovery: an idempotency key for
    whatever the task calls."""
    _outlet: Outlet | None = field(default=None, repr=False, compare=False)

    def publish(self, topic: Topic[T], chunk: T, /) -> None:
        """Publish a chunk, for those who read `handle.stream(topic)`, from any thread.

        It waits for nothing; what was published is stored before the task's result is. A task that
        is executed again publishes again. Raises `DataError` for a chunk that the topic's type
        does not describe, `LimitExceeded` as `Run.publish` does, and `InvalidTransition` where the
        topic is closed or the task is over.
        """
        self._out("publish").publish(topic, chunk)

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far the run is, of `total` where that is known; see `Run.progress`."""
        self._out("progress").reach(done, total)

    def _out(self, what: str) -> Outlet:
        if self._outlet is None:
            raise DefinitionError(f"{what}() works inside a task that a workflow started")
        return self._outlet

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the run's id and the step's key."""
        about = {"run_id": self.run_id, "step": self.key}
        return logging.LoggerAdapter(logging.getLogger("aiki.task"), about)


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


async def call(
    spec: StepSpec,
    about: CurrentStep,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    threads: Threads,
) -> Any:
    """Make one attempt and give what the task returned.

    Raises:
        TimedOut: the time-out passed. A coroutine was cancelled; a thread goes on unheeded.
        BaseException: whatever the task raised.
    """
    context = _current.set(about)
    try:
        if spec.is_async:
            if spec.timeout is None:
                return await spec.fn(*args, **kwargs)
            return await _in_time(spec, args, kwargs)
        return await _in_thread(spec, partial(spec.fn, *args, **kwargs), threads)
    finally:
        _current.reset(context)


async def _in_thread(spec: StepSpec, call: Callable[[], Any], threads: Threads) -> Any:
    job = threads.run(call, tells_begin=spec.timeout is not None)
    try:
        if job.has_begun is not None:
            await job.has_begun  # to wait for a thread takes none of the task's time
            await asyncio.wait([job.outcome], timeout=spec.timeout)
            if not job.outcome.done():
                raise ThreadLeft(f"task {spec.name!r} did not end within {spec.timeout:g} s")
        return await job.outcome
    finally:
        if not job.outcome.done() or job.outcome.cancelled():
            threads.leave(job)


async def _in_time(spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    limit = asyncio.timeout(spec.timeout)
    try:
        async with limit:
            return await spec.fn(*args, **kwargs)
    except TimeoutError:
        if limit.expired():
            raise TimedOut(f"task {spec.name!r} did not end within {spec.timeout:g} s") from None
        raise
