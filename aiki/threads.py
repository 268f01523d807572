"""Daemon threads for sync tasks.

The standard executor joins its threads when the interpreter exits, so one task that never
returns would hold the process for ever. These never hold it.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

LOOK = 0.05  # seconds between two looks whether a function may be begun
REPLACED_AFTER = 0.01  # seconds; turns enough for every task of a run to hear that it is left


class Job:
    """A function on its way through a thread."""

    __slots__ = ("call", "has_begun", "is_begun", "is_left", "may_begin", "outcome")

    def __init__(
        self, call: Callable[[], Any], may_begin: Callable[[], bool], *, tells_begin: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.call = call
        self.may_begin = may_begin
        self.outcome: asyncio.Future[Any] = loop.create_future()
        self.has_begun: asyncio.Future[Any] | None = loop.create_future() if tells_begin else None
        self.is_begun = False
        self.is_left = False


class Threads:
    """At most `limit` threads, made when they are needed."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._load = 0  # jobs that wait for a thread or have one
        self._made = 0

    def run(
        self, call: Callable[[], Any], may_begin: Callable[[], bool], *, tells_begin: bool = False
    ) -> Job:
        """Call a function in a thread, with the caller's context variables.

        It is begun as soon as it may: what was true when it was put here may not be any more when
        a thread comes to it, which it asks itself.
        """
        context = contextvars.copy_context()
        job = Job(lambda: context.run(call), may_begin, tells_begin=tells_begin)
        with self._lock:
            self._load += 1
            self._add_thread()
        self._jobs.put(job)
        return job

    def leave(self, job: Job) -> None:
        """Heed a function no more. It is not begun, or its thread is replaced until it ends."""
        job.outcome.cancel()  # or what it still raises would be reported as unheard
        with self._lock:
            job.is_left = True
            if not job.is_begun:
                return
            self._limit += 1
        # A run that is left leaves all of its jobs, one task after the other: a thread that came at
        # once would begin those whose turn has not come yet.
        job.outcome.get_loop().call_later(REPLACED_AFTER, self._replace)

    def close(self) -> None:
        """Let the idle threads end. Those at work end after their function does."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _replace(self) -> None:
        with self._lock:
            self._add_thread()

    def _add_thread(self) -> None:
        if self._threads < min(self._load, self._limit):
            self._threads += 1
            self._made += 1
            name = f"{self._name}-{self._made}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._begins(job):
                    self._execute(job)
            except RuntimeError:
                return  # the loop is closed: nobody waits
            with self._lock:
                self._load -= 1
                if job.is_begun and job.is_left:
                    self._limit -= 1
                if self._threads > self._limit:
                    self._threads -= 1
                    return
            del job

    def _begins(self, job: Job) -> bool:
        """Wait until a function may be begun; tell whether it is still heeded then."""
        while True:
            with self._lock:  # first, or what may be would be old by the time that we have it
                job.is_begun = not job.is_left and job.may_begin()
                if job.is_begun or job.is_left:
                    return job.is_begun
            time.sleep(LOOK)

    def _execute(self, job: Job) -> None:
        loop = job.outcome.get_loop()
        if job.has_begun is not None:
            loop.call_soon_threadsafe(_settle, job.has_begun, None, None)
        try:
            outcome, error = job.call(), None
        except BaseException as caught:  # noqa: BLE001 - the awaiting step judges it
            outcome, error = None, caught
        loop.call_soon_threadsafe(_settle, job.outcome, outcome, error)


class LentThreads:
    """A worker's threads, as they are lent to the runs of one partition.

    They begin nothing while its lease is not known to be ours.
    """

    def __init__(self, threads: Threads, is_leased: Callable[[], bool]) -> None:
        self._threads = threads
        self._is_leased = is_leased

    def run(self, call: Callable[[], Any], *, tells_begin: bool) -> Job:
        """Call a function in a thread, as soon as it may be begun."""
        return self._threads.run(call, self._is_leased, tells_begin=tells_begin)

    def leave(self, job: Job) -> None:
        """Heed a function no more."""
        self._threads.leave(job)


def _settle(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, (StopIteration, GeneratorExit)):
        # Neither can be thrown into a coroutine that waits: each means that one ends.
        error = RuntimeError(f"the task raised {error!r}")
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
