"""What runs in a worker process: a `Worker` on a loop of its own, told what to do by its parent.

The main thread boots (imports the user's modules, connects, claims), says that it is ready, and
serves until the supervisor says otherwise, the supervisor is gone, or the worker itself fails. A
SIGTERM to this process alone asks the supervisor for a replacement, and ends with a drain too.

A second thread waits for the end of the parent, for the loop may be standing still when it comes,
and nobody else would end this process then.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from aiki.branches import make_task
from aiki.client import Client
from aiki.errors import AikiError, ConfigError, DefinitionError, StoreRefused, StoreUnavailable
from aiki.supervisor.definitions import Version, unpack
from aiki.supervisor.logs import configure_logging
from aiki.supervisor.messages import (
    RELEASE,
    Ask,
    Blame,
    Boot,
    Born,
    Channel,
    Drain,
    Failed,
    Message,
    NotBooted,
    Ready,
    Replace,
    Report,
    Tick,
    receive,
    send,
)
from aiki.worker import RedisStreams, Worker

_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):  # it does not exist for every interpreter
    import uvloop

    _new_loop = uvloop.new_event_loop

logger = logging.getLogger(__name__)

# Between two looks at the parent's number.
_PARENT_LOOK = 5.0
# What the farewell to the store may take, beyond the grace, when there is no parent to kill us.
_FAREWELL = 2.0
# Ticks are cheap, but a machine at rest should be at rest.
_SLOWEST_TICK = 5.0
_TICKS_PER_HANG = 6
# Of a thousand; as if it used so much more of the memory than it does.
_OOM_SCORE = 300
_UPDATED = "aiki was updated under this supervisor,"
_RESTART = "restart the supervisor; HUP brings new code of yours alone"
# A worker refuses a grace of nothing, which a supervisor may well have.
_SHORTEST_GRACE = 0.001


def main(end: socket.socket, stacks: Connection, release: str) -> NoReturn:
    """Boot, serve, drain, exit (worker process).

    `release` is the supervisor's. What is on the disk may have been updated since it started, and
    this process has the new one: then these arguments are all that both are sure to understand.

    It ends without waiting for the interpreter to shut down: nothing is left to be done, and
    a task that never returns may hold a thread.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not SIG_IGN, which the processes that tasks start would inherit.
        signal.signal(number, _ignore)
    _volunteer()
    faulthandler.register(signal.SIGUSR1, file=stacks.fileno(), all_threads=True)
    send(end, Born())
    code = 1
    if release == RELEASE:
        with suppress(EOFError):  # the supervisor ended before it said what to be
            boot = receive(end)
            if isinstance(boot, Boot):
                code = _boot_and_serve(end, boot)
    else:
        send(end, NotBooted("settings", f"{_UPDATED} from {release} to {RELEASE}: {_RESTART}", ""))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _volunteer() -> None:
    """Have the kernel, when memory runs out, take a worker before the supervisor and the server.

    The runs of a worker go on elsewhere; without the other two, none does.
    """
    score = Path("/proc/self/oom_score_adj")
    with suppress(OSError, ValueError):  # not Linux, or forbidden there
        score.write_text(str(min(1000, int(score.read_text()) + _OOM_SCORE)))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Let a signal pass: what it asks comes from the supervisor, in good order."""


def _boot_and_serve(end: socket.socket, boot: Boot) -> int:
    settings = boot.settings
    configure_logging(settings.log_level, settings.log_format)
    orphaned = _Orphaned(boot.parent, settings.grace + _FAREWELL)
    try:
        versions = unpack(boot.shipment)
    except BaseException as error:  # noqa: BLE001  (a module may raise anything, SystemExit too)
        send(end, _not_booted(error, "definition"))
        return 1
    # What is imported by now stays: the collector need not walk through it again and again. And
    # a run makes no cycles of its own, so it may look less often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.get_loop().set_task_factory(make_task)
        return runner.run(_Hosting(end, boot, orphaned).run(versions))


class _Hosting:
    """A worker on its loop, and what its supervisor says to it (worker process, main thread)."""

    def __init__(self, end: socket.socket, boot: Boot, orphaned: _Orphaned) -> None:
        self._end = end
        self._boot = boot
        self._settings = boot.settings
        self._orphaned = orphaned
        self._grace = boot.settings.grace
        self._ending = asyncio.Event()
        self._channel: Channel | None = None

    async def run(self, versions: list[Version]) -> int:
        """Serve until told to end; return the exit code."""
        try:
            client = self._settings.client()
            # Or a worker that ended because its store is gone would be followed by one that serves
            # what has come in its place, as if nothing had happened.
            client.follow(self._boot.store_id)
            async with client:
                worker = self._make_worker(client)
                for version in versions:
                    worker.workflow_registry.add(version)
                try:
                    await worker.prepare()
                except BaseException as error:  # noqa: BLE001  (the user's code may raise anything)
                    send(self._end, _not_booted(error, "definition"))
                    return 1
                await worker.start()
                await self._serve(worker)
        except BaseException as error:  # noqa: BLE001  (a task's KeyboardInterrupt comes here too)
            if self._channel is None:
                send(self._end, _not_booted(error, _blame(error)))
            else:
                logger.error("the worker ends: %r", error)  # noqa: TRY400  (it has logged it)
                self._channel.send(Failed(f"{type(error).__name__}: {error}"))
            return 1
        return 0

    def _make_worker(self, client: Client) -> Worker:
        settings = self._settings
        return Worker(
            client,
            id=self._boot.label,
            # A quarantined run is to die alone.
            max_concurrent_workflow_runs=(
                1 if self._boot.quarantine else settings.max_concurrent_workflow_runs
            ),
            subscriber=RedisStreams(claim_min_idle_time=settings.lease),
            pools=settings.pools,
            heartbeat=settings.heartbeat,
            hang_timeout=settings.hang_timeout,
            grace=max(settings.grace, _SHORTEST_GRACE),
            quarantine=self._boot.quarantine,
            housekeeping=False,
        )

    async def _serve(self, worker: Worker) -> None:
        """Say that the worker is ready, and have it serve until something ends it."""
        loop = asyncio.get_running_loop()
        channel = Channel(self._end, partial(self._hear, worker), self._ending.set)
        self._channel = channel
        self._orphaned.tell(loop, self._ending.set)
        serves = sorted(f"{v.name} {v.version}" for v in worker.workflow_registry.versions())
        channel.send(Ready(worker.incarnations, tuple(serves)))
        loop.add_signal_handler(
            signal.SIGTERM, channel.send, Replace("it got a SIGTERM of its own")
        )
        self._tick(channel, min(_SLOWEST_TICK, self._settings.hang_timeout / _TICKS_PER_HANG))
        recycling = loop.create_task(_ask_for_replacement(worker, channel))
        ends = [loop.create_task(event.wait()) for event in (self._ending, worker.stopping)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (recycling, *ends):
            task.cancel()
        await worker.stop(grace=self._grace)

    def _hear(self, worker: Worker, message: Message) -> None:
        match message:
            case Drain(grace):
                self._grace = grace
                self._ending.set()
            case Ask() if self._channel is not None:
                self._channel.send(Report(_described(worker.report())))
            case _:
                logger.error("the supervisor says %r, which is not for a worker", message)

    def _tick(self, channel: Channel, every: float) -> None:
        channel.send(Tick())
        asyncio.get_running_loop().call_later(every, self._tick, channel, every)


class _Orphaned(threading.Thread):
    """Waits for the end of the parent; then has the worker drain, and ends what does not.

    It is told by the pipe that only the parent holds open, and looks at the parent's number now
    and then, since a process that the parent forked off would hold the pipe open too.
    """

    def __init__(self, parent: int, patience: float) -> None:
        super().__init__(name="aiki-orphaned", daemon=True)
        self._parent = parent
        self._patience = patience
        self._drain: Callable[[], object] | None = None
        self.start()

    def tell(self, loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
        """Have the loop call `drain` when the parent is gone."""
        self._drain = partial(loop.call_soon_threadsafe, drain)

    def run(self) -> None:
        """Wait (a thread of the worker process)."""
        parent = multiprocessing.parent_process()
        held = [] if parent is None else [parent.sentinel]
        while not wait(held, _PARENT_LOOK) and os.getppid() == self._parent:
            pass
        logger.warning("the supervisor is gone; this worker ends")
        if self._drain is not None:
            with suppress(RuntimeError):  # the loop is closed: it ends already
                self._drain()
            time.sleep(self._patience)
        os._exit(1)


async def _ask_for_replacement(worker: Worker, channel: Channel) -> None:
    await worker.needs_recycling.wait()
    channel.send(Replace(worker.recycle_reason))


def _blame(error: BaseException) -> Blame:
    match error:
        case DefinitionError():
            return "definition"
        case StoreRefused() | StoreUnavailable():
            return "store"
        case ConfigError():
            return "settings"
        case _:
            return "unknown"


def _not_booted(error: BaseException, blame: Blame) -> NotBooted:
    # What the user did wrong is said in a sentence; where an import failed takes the traceback.
    shown = "" if isinstance(error, AikiError) else "".join(traceback.format_exception(error))
    return NotBooted(blame, f"{type(error).__name__}: {error}", shown.rstrip())


def _described(report: Mapping[str, Any]) -> str:
    """Return a worker's report as lines for people."""
    runs: Sequence[Mapping[str, Any]] = report["runs"]
    lines = [f"{len(runs)} of {report['slots']} slots in use"]
    for run in runs:
        waits = ", ".join(f"{step['step']} {step['state']}" for step in run["waits_for"])
        lines.append(
            f"run {run['run']} ({run['workflow']} {run['version']}): {waits or 'in its handler'}"
        )
    return "\n".join(lines)
