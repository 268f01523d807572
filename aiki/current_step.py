"""What a task may ask about the step that it executes, and say of itself, from any thread."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine, MutableMapping
from types import EllipsisType
from typing import Any, Protocol, TypeVar

from aiki.codec import Codec
from aiki.errors import DefinitionError, InvalidTransition
from aiki.publisher import Publishing
from aiki.topic import Topic

T = TypeVar("T")

MAX_DETAILS = 64 * 1024  # bytes; they are read with the journal at each claim
WRITE_EVERY = 1.0  # seconds between two writes of one step's heartbeats

_details = Codec(object, "the details of a heartbeat")


class Reporting(Publishing, Protocol):
    """The run of a step, as far as the step speaks to it."""

    run_id: str
    scope: str
    loop: asyncio.AbstractEventLoop
    is_draining: Callable[[], bool]

    def beat(self, step: CurrentStep) -> Coroutine[Any, Any, None]:
        """Store what an attempt says while it is under way."""
        ...


class _StepLogger(logging.LoggerAdapter[logging.Logger]):
    """Says of which run it speaks, as that of the run does."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        about = self.extra or {}
        return f"[{about['run_id']}] {msg}", {**kwargs, "extra": about}


class CurrentStep:
    """What a task may know of the step that it executes, and what it may say of itself.

    Made for each attempt. All of it may be used from any thread that works for the task.
    """

    __slots__ = (
        "_earlier",
        "_is_draining",
        "_is_noted",
        "_loop",
        "_numbers",
        "_run",
        "_scope",
        "_writing",
        "_written",
        "attempt",
        "begun",
        "details",
        "failure",
        "heard",
        "is_heard",
        "journal_key",
        "run_id",
        "seq",
        "task",
    )

    def __init__(
        self,
        run: Reporting,
        journal_key: str,
        task: str,
        attempt: int,
        *,
        begun: float,
        failure: bytes,
        details: bytes,
    ) -> None:
        self.run_id = run.run_id
        self.task = task
        """The task's name."""
        self.attempt = attempt
        """1 for the first attempt; a crash of the worker does not count one."""
        self.journal_key = journal_key
        self.begun = begun  # by the loop's clock: the first attempt
        self.failure = failure  # of the attempt before
        self.details = self._earlier = details  # that were said last
        self.heard = 0.0  # by the system's clock, where that counts
        self.is_heard = False
        self.seq = 0
        self._run: Reporting | None = run  # as long as the attempt lasts
        self._scope = run.scope
        self._loop = run.loop
        self._is_draining = run.is_draining
        self._numbers: dict[str, int] | None = None  # of the chunks that were published
        self._is_noted = False
        self._writing: asyncio.Task[None] | None = None
        self._written = -WRITE_EVERY

    @property
    def key(self) -> str:
        """The same across retries, moves to another worker and recovery.

        An idempotency key for whatever the task calls.
        """
        return f"{self._scope}/{self.journal_key}"

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for this attempt any more.

        Its time is over, the run was cancelled, or another worker has it. A thread had better end.
        """
        return self._run is None

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the run's id and the step's key."""
        about = {"run_id": self.run_id, "step": self.key}
        return _StepLogger(logging.getLogger("aiki.task"), about)

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

    def publish(self, topic: Topic[T], chunk: T, /) -> None:
        """Publish a chunk, for those who read `handle.stream(topic)`, from any thread.

        It waits for nothing; what was published is stored before the task's result is. A task that
        is executed again publishes again. Raises `DataError` for a chunk that the topic's type
        does not describe, `LimitExceeded` as `Run.publish` does, and `InvalidTransition` where the
        topic is closed or the task is over.
        """
        run = self._publishing()
        if self._numbers is None:
            self._numbers = {}
        key = run.published_as(self.journal_key)
        run.publisher.publish(topic, chunk, key, self.attempt, self._numbers)

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far the run is, of `total` where that is known; see `Run.progress`."""
        self._publishing().publisher.reach(done, total)

    # For the run

    def end(self) -> None:
        """Let nothing more be said."""
        self._run = None

    def note(self) -> None:
        """Have what was said stored, soon."""
        # First what is to be stored, then the note: whoever takes the note off reads it after.
        if not self._is_noted:
            self._is_noted = True
            self._loop.call_soon_threadsafe(self._store_later)

    def _publishing(self) -> Reporting:
        run = self._run  # once: the attempt may end while a thread is here
        if run is None:
            raise InvalidTransition(
                f"the execution of step {self.journal_key} is over; a task publishes while it runs"
            )
        return run

    def _store_later(self) -> None:
        if self._writing is not None:
            return  # the end of what is under way looks again
        wait = 0.0 if self._is_draining() else self._written + WRITE_EVERY - self._loop.time()
        if wait > 0:
            self._loop.call_later(wait, self._store)
        else:
            self._store()

    def _store(self) -> None:
        if self._run is None:
            return
        self._is_noted = False
        self._written = self._loop.time()
        self._writing = self._loop.create_task(self._run.beat(self))
        self._writing.add_done_callback(self._stored)

    def _stored(self, _: asyncio.Task[None]) -> None:
        self._writing = None
        if self._is_noted:
            self._store_later()


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


def entered(step: CurrentStep) -> contextvars.Token[CurrentStep | None]:
    """Let `current_step` give this step to the caller, until `left` is told the token."""
    return _current.set(step)


def left(token: contextvars.Token[CurrentStep | None]) -> None:
    """Let it give what it gave before."""
    _current.reset(token)


def is_in_step() -> bool:
    """Tell whether the caller is a task's code."""
    return _current.get() is not None
