"""Operating system signals: what each means to a supervisor, and how it reaches the loop.

A handler only notes the signal; the supervisor's loop acts on it. All of this happens in the
supervisor process. Workers have their own few lines, in `worker_process.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from types import FrameType, TracebackType

import psutil

from aiki.errors import ConfigError


class Order(Enum):
    """What a signal asks of the supervisor."""

    DRAIN = auto()
    STOP = auto()
    RELOAD = auto()
    MORE = auto()
    FEWER = auto()
    REPORT = auto()


MEANINGS: dict[signal.Signals, tuple[Order, str]] = {
    signal.SIGTERM: (
        Order.DRAIN,
        """Drain: claim nothing more, let running tasks reach their next commit within the grace,
        hand every other run back at once, end. A second one ends it now.""",
    ),
    signal.SIGINT: (Order.DRAIN, "The same."),
    signal.SIGQUIT: (Order.STOP, "Stop now; the runs are given back."),
    signal.SIGHUP: (
        Order.RELOAD,
        """Reload: start workers on freshly imported code, then drain the old ones. Code that does
        not import leaves the old ones serving.""",
    ),
    signal.SIGTTIN: (Order.MORE, "One worker more."),
    signal.SIGTTOU: (Order.FEWER, "One worker fewer."),
    signal.SIGUSR1: (
        Order.REPORT,
        "Log a report: workers, runs, what each waits for, stacks.",
    ),
}

# Sent to a worker, it has faulthandler write the stacks of all threads, whatever they are doing:
# the handler is C code that needs neither the loop nor the interpreter lock.
DUMP_STACKS = signal.SIGUSR1
KILL = signal.SIGKILL

_Handler = Callable[[int, FrameType | None], object] | int | None


class Signals:
    """Receives the process's signals while it is entered, and puts the old handlers back after."""

    def __init__(
        self, post: Callable[[Order], None], children: Callable[[], Collection[int]]
    ) -> None:
        """Make it; `post` takes the orders, `children` names those that are reaped elsewhere."""
        self._post = post
        self._children = children
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> None:
        """Take over. Raises `ConfigError` outside of the main thread, which gets no signals."""
        loop = asyncio.get_running_loop()
        for number, (order, _) in MEANINGS.items():
            self._take(loop, number, partial(self._post, order))
        # Whoever is process 1, as in a container without an init, inherits all orphans there
        # and has to reap them.
        if os.getpid() == 1:
            self._take(loop, signal.SIGCHLD, lambda: reap_orphans(self._children()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the handlers back that were there before."""
        loop = asyncio.get_running_loop()
        for number, handler in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(
        self, loop: asyncio.AbstractEventLoop, number: signal.Signals, act: Callable[[], None]
    ) -> None:
        before = signal.getsignal(number)
        try:
            loop.add_signal_handler(number, act)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                "a supervisor is operated by signals, which reach only the main thread: call "
                "run() there"
            ) from error
        self._before[number] = before


def reap_orphans(ours: Collection[int]) -> None:
    """Collect the ended processes that process 1 has inherited, but none of `ours`.

    For those, whoever started them waits; reaped here, their exit code would be lost.
    """
    for child in psutil.Process().children():
        if child.pid not in ours:
            with suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
