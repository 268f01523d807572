"""One worker process as its supervisor sees it: how to boot, stop and kill it, and why it ended.

Everything here runs in the supervisor process, on its loop.

A worker is spawned, never forked: it starts from nothing, imports the user's modules itself and
inherits only the socket and the pipe that it is given. It leads a process group of its own, so
that Ctrl-C in a terminal reaches the supervisor alone, and so that the processes which its tasks
have started end with it.

That it ended is told by a pidfd where there is one. The sentinel of multiprocessing is second
best: it stays open as long as a grandchild holds it, so `ended` also asks the process itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import psutil

from aiki.errors import ConfigError
from aiki.process import create_time
from aiki.supervisor import messages, signals, worker_process
from aiki.supervisor.messages import Message
from aiki.supervisor.shortage import shortage_of

logger = logging.getLogger(__name__)

# What a worker may need beyond its grace to say goodbye to the store.
FAREWELL = 2.0
# A dump of stacks comes in pieces; after such a silence it is complete.
_SILENCE = 0.5
# The exit code of a worker whose main module starts a supervisor while it is being imported.
_UNGUARDED = 86

_spawn = multiprocessing.get_context("spawn")
_numbers = itertools.count(1)
_PROCESS_NAME = "aiki-worker"


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a worker process that has ended."""

    how: str
    """Ends the sentence "it …": exit code or signal, and what was measured last."""
    exit_code: int
    asked: str | None
    """Why it was told to end; None if it was not."""
    hung: bool
    not_booted: messages.NotBooted | None
    failed: messages.Failed | None

    def is_death(self) -> bool:
        """Tell whether something killed it that may have been one of its runs."""
        return self.asked is None and self.not_booted is None and self.failed is None

    def is_clean(self) -> bool:
        """Tell whether it has handed everything back itself."""
        return self.asked is not None and self.exit_code == 0


class Child:
    """A worker process, from its start until it was reaped."""

    def __init__(
        self,
        boot: messages.Boot,
        *,
        on_message: Callable[[Child, Message], None],
        on_end: Callable[[], None],
    ) -> None:
        """Start the process. Raises `OSError` when the system has no room for one more."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_end = on_end
        self.number = next(_numbers)
        self.label = boot.label
        self.quarantine = boot.quarantine
        self.started = self._loop.time()
        self.last_tick = self.started
        self.rss = 0
        self.born = False
        self.ready: messages.Ready | None = None
        self.asked: str | None = None
        self.hung = False
        self.is_slow = False
        """Whether it was reported for taking long to boot."""
        self._not_booted: messages.NotBooted | None = None
        self._failed: messages.Failed | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._reports: list[asyncio.Future[str]] = []
        self._dumping = asyncio.Lock()
        self._closed = False

        with ExitStack() as on_failure:
            ours, theirs = socket.socketpair()
            on_failure.enter_context(ours)
            self._stacks, stacks = _spawn.Pipe(duplex=False)
            on_failure.enter_context(self._stacks)
            with theirs, stacks:
                self._process = _spawn.Process(
                    target=worker_process.main,
                    args=(theirs, stacks, messages.RELEASE),
                    name=f"{_PROCESS_NAME}-{self.number}",
                )
                self._process.start()
            on_failure.pop_all()
        self.pid = self._process.pid or 0
        self.created = create_time(self.pid)
        self._shortage = shortage_of(self.pid)
        os.set_blocking(self._stacks.fileno(), False)
        self._channel = messages.Channel(ours, self._heard)
        self._channel.send(boot)
        self._watched, self._surely = self._watch()

    def __str__(self) -> str:
        kind = "quarantine worker" if self.quarantine else "worker"
        return f"{kind} {self.label} (pid {self.pid})"

    def drain(self, reason: str, grace: float) -> None:
        """Tell it to hand its runs back and end; kill it when it does not in time."""
        if self.asked is None:
            self.asked = reason
            self._channel.send(messages.Drain(grace))
            self._overdue = self._loop.call_later(grace + FAREWELL, self._give_up)

    def kill(self, reason: str | None = None) -> None:
        """End it at once; with a reason, by our own wish."""
        self.asked = self.asked or reason
        self._signal(signals.KILL)

    def reject(self, why: messages.NotBooted) -> None:
        """End it, although it is ready, as if it had not booted."""
        self._not_booted = why
        self._signal(signals.KILL)

    def ended(self) -> Ending | None:
        """Return how it ended, once it has; it is reaped and its process group is gone then."""
        if not self._is_over():
            return None
        # Before it is reaped: until then, nobody else can get its number.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signals.KILL)
        code = self._process.exitcode
        if code is None:
            return None
        self._channel.read()  # its last words
        ending = Ending(
            how=self._how(code),
            exit_code=code,
            asked=self.asked,
            hung=self.hung,
            not_booted=self._not_booted or (_unguarded() if code == _UNGUARDED else None),
            failed=self._failed,
        )
        self._close()
        return ending

    def measure(self) -> int:
        """Return its resident memory in bytes, 0 if it is gone."""
        self._shortage.look()
        with suppress(psutil.Error):
            rss = psutil.Process(self.pid).memory_info().rss
            self.rss = rss or self.rss  # one that is ending has none any more
            return rss
        return 0

    def silent_for(self) -> float:
        """Return how many seconds ago its loop was last known to turn."""
        return self._loop.time() - self.last_tick

    async def report(self, within: float) -> str:
        """Return what it says of its runs, or that it says nothing."""
        future: asyncio.Future[str] = self._loop.create_future()
        self._reports.append(future)
        self._channel.send(messages.Ask())
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            self._reports.remove(future)
            return f"no answer within {within:g} s"

    async def stacks(self, within: float) -> str:
        """Return the stacks of its threads, also while its loop stands still."""
        if not self.born:
            return "not started yet"
        async with self._dumping:
            readable = asyncio.Event()
            self._loop.add_reader(self._stacks.fileno(), readable.set)
            self._signal(signals.DUMP_STACKS)
            text = bytearray()
            try:
                while True:
                    async with asyncio.timeout(_SILENCE if text else within):
                        await readable.wait()
                    readable.clear()
                    try:
                        piece = os.read(self._stacks.fileno(), 65536)
                    except BlockingIOError:
                        continue  # the loop has told us once more of what we had read by then
                    if not piece:
                        return "none: it has ended"
                    text += piece
            except (TimeoutError, OSError):
                return text.decode(errors="replace") or "none: it is stopped, or stuck in a call"
            finally:
                if not self._stacks.closed:
                    self._loop.remove_reader(self._stacks.fileno())

    def _heard(self, message: Message) -> None:
        self.last_tick = self._loop.time()
        match message:
            case messages.Born():
                self.born = True
            case messages.Tick():
                pass
            case messages.NotBooted():
                self._not_booted = message
            case messages.Failed():
                self._failed = message
            case messages.Report(text):
                if self._reports:
                    self._reports.pop(0).set_result(text)
            case _:
                if isinstance(message, messages.Ready):
                    self.ready = message
                self._on_message(self, message)

    def _watch(self) -> tuple[int, bool]:
        """Have the loop told when it ends; return the descriptor that tells, and if it is sure."""
        try:
            descriptor, sure = os.pidfd_open(self.pid), True
        except (AttributeError, OSError):  # not Linux, or forbidden there
            descriptor, sure = os.dup(self._process.sentinel), False
        self._loop.add_reader(descriptor, self._told)
        return descriptor, sure

    def _told(self) -> None:
        # First of all: a descriptor that is at its end is readable for ever.
        self._loop.remove_reader(self._watched)
        self._on_end()

    def _is_over(self) -> bool:
        poll = select.poll()
        poll.register(self._watched, select.POLLIN)
        return bool(poll.poll(0)) or not (self._surely or self._process.is_alive())

    def _give_up(self) -> None:
        logger.warning("%s has not ended within its grace; killing it", self)
        self.kill()

    def _signal(self, number: int) -> None:
        # Until it is reaped, the number is its own.
        if not self._closed:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _how(self, code: int) -> str:
        if code >= 0:
            return f"ended with exit code {code}"
        size = f"; it last used {self.rss // 2**20} MiB" if self.rss else ""
        if -code == signals.KILL and not self.hung and self.asked is None:
            if self._shortage.explains_one():
                return f"was killed by the kernel for want of memory{size}"
            return f"was killed by SIGKILL, by hand or for want of memory{size}"
        return f"was killed by {signals.signal_name(-code)}{size}"

    def _close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._watched)
        os.close(self._watched)
        if self._overdue is not None:
            self._overdue.cancel()
        self._channel.close()
        self._loop.remove_reader(self._stacks.fileno())
        self._stacks.close()
        for future in self._reports:
            if not future.done():
                future.set_result("it has ended")
        self._process.join()
        self._process.close()


def refuse_inside_worker() -> None:
    """Keep a process that multiprocessing started from starting a supervisor (any process).

    A worker imports the main module of its supervisor. If that one starts a supervisor when it is
    imported, each would start another one, without end.
    """
    this = multiprocessing.current_process()
    if getattr(this, "_inheriting", False) and this.name.startswith(_PROCESS_NAME):
        raise SystemExit(_UNGUARDED)  # its parent says it, once for all its workers
    if multiprocessing.parent_process() is not None:
        raise ConfigError("a supervisor cannot run inside a process that multiprocessing started")


def _unguarded() -> messages.NotBooted:
    return messages.NotBooted(
        blame="definition",
        message=(
            "the main module starts a supervisor while it is imported, which every worker does; "
            'put the call under:  if __name__ == "__main__":'
        ),
        traceback="",
    )
