"""The beat: once a second from a thread of its own, whatever the number of runs.

The thread also asks the loop to answer. A loop that stands still is reported with the stack
that blocks it; after the hang time-out the lease is not renewed any more, so that others take
the runs over.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from aiki.errors import AikiError
from aiki.store.workers import Heart

_logger = logging.getLogger("aiki.worker")

# Leases go on running out while a machine sleeps, and so must the clock that they are held against.
# Windows has neither; there is no worker, but a client imports this too.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", 0))
LAG = 1.0  # seconds without an answer from the loop before it is reported


class Heartbeat:
    """Renews one lease until it is stopped or told that the lease is gone."""

    def __init__(
        self,
        heart: Heart,
        *,
        label: str,
        lease: float,
        interval: float,
        hang_timeout: float,
        on_notices: Callable[[list[str]], None],
        on_gone: Callable[[str], None],
        reports: bool = True,
    ) -> None:
        self._heart = heart
        self._label = label
        self._lease = lease
        self._leased_until = 0.0
        self._interval = interval
        self._hang_timeout = hang_timeout
        self._on_notices = on_notices
        self._on_gone = on_gone
        self._reports = reports  # a loop that stands still; one of several that see it is enough
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered = True
        self._asked_at = time.monotonic()
        self._reported = False
        self._confirmed: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"aiki-beat-{label}", daemon=True)

    def start(self, asked_at: float) -> None:
        """Begin to beat; the lease exists already, and was asked for at this time of `now`."""
        self._leased_until = asked_at + self._lease
        self._thread.start()

    @property
    def is_leased(self) -> bool:
        """Whether nobody can have taken the lease for over yet: a beat was answered in time."""
        return now() < self._leased_until

    def confirm(self, run_id: str) -> None:
        """Let the next beat take a notice back."""
        self._confirmed.append(run_id)

    def stop(self) -> None:
        """End the thread; it may need until its socket time-out."""
        self._stopped.set()

    def _run(self) -> None:
        # The thread outlives nothing: daemon, and every call has a time-out.
        while not self._stopped.wait(self._interval):
            try:
                if not self._is_hung():
                    self._beat()
            except RuntimeError:
                break  # the loop is closed
        self._heart.close()

    def _is_hung(self) -> bool:
        lag = 0.0 if self._answered else time.monotonic() - self._asked_at
        if lag >= LAG and self._reports and not self._reported:
            self._reported = True
            frame = sys._current_frames().get(self._loop_thread)
            stack = "".join(traceback.format_stack(frame)) if frame else "unknown"
            _logger.warning(
                "worker %s: the event loop has stood still for %.1f s in:\n%s",
                self._label,
                lag,
                stack,
            )
        if self._answered:
            self._reported = False
            self._answered = False
            self._asked_at = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
        return lag >= self._hang_timeout

    def _answer(self) -> None:
        self._answered = True

    def _beat(self) -> None:
        confirmed, self._confirmed = self._confirmed, []
        asked_at = now()
        try:
            word, notices = self._heart.beat(confirmed)
        except AikiError as error:
            self._confirmed += confirmed
            _logger.debug("worker %s: no beat: %s", self._label, error)
            return
        if word != "OK":
            self._stopped.set()
            self._loop.call_soon_threadsafe(self._on_gone, word)
            return
        self._leased_until = asked_at + self._lease
        if notices:
            self._loop.call_soon_threadsafe(self._on_notices, notices)


def now() -> float:
    """Give the time that leases are held against, in seconds since some moment."""
    return time.clock_gettime(_CLOCK)
