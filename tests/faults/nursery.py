"""Processes that are made in an instant: by a process that has imported everything, and forks.

An interpreter that imports the library takes a second of a core, and the tests that use this let
hundreds of processes die. Each is a process like any other, with a loop, connections and threads
of its own; what made it has none.

    worker      a library worker for all that is in `voyage` and `caller`
    supervisor  all that a supervisor does in the store: everything but its processes
    caller      a client that sends everything that clients send
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from aiki import Client, RedisStreams, Worker
from aiki.supervisor.duties import Duties
from aiki.supervisor.settings import Settings
from tests.faults.caller import SHORE, call
from tests.faults.ledger import VARIABLE
from tests.faults.traps import lay
from tests.faults.voyage import HARBOURS
from tests.support.supervised import ROOT

LEASE = 6.0
BEAT = 0.25


@dataclass(frozen=True)
class Birth:
    """What a process is to be, and where."""

    role: str
    url: str
    ledger: str
    name: str = ""
    trapped: bool = True
    slots: int = 3
    retention: float = 3600.0
    unserved: float = 3600.0
    """Seconds that a run waits for a worker: less, and it is held when workers are born slowly."""
    divergence: float = 10.0


class Child:
    """A process that the nursery has made."""

    def __init__(self, birth: Birth, pid: int) -> None:
        self.birth = birth
        self.pid = pid
        self._ended = _ended(birth)

    def output(self) -> str:
        """Give what it has written."""
        return _output(self.birth).read_text()

    def status(self) -> int | None:
        """Give its exit code, or the number of the signal that ended it, below 0; None before."""
        try:
            return int(self._ended.read_text() or "0")
        except FileNotFoundError:
            return None


class Nursery:
    """The process that makes them, as the test sees it; as a context manager it ends them all."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_error: object) -> None:
        with self._process:  # which closes its input, and waits
            pass

    def bear(self, birth: Birth) -> Child:
        """Make a process."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asdict(birth)) + "\n")
        stdin.flush()
        return Child(birth, int(stdout.readline()))


def _ended(birth: Birth) -> Path:
    return Path(birth.ledger).parent / f"ended-{birth.name}"


def _output(birth: Birth) -> Path:
    return Path(birth.ledger).parent / f"output-{birth.name}"


async def _until_asked() -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    await asked.wait()


async def work(birth: Birth) -> None:
    """Execute runs until SIGTERM; a wait of any length parks."""
    async with Client(birth.url) as client:
        worker = Worker(
            client, max_concurrent_workflow_runs=birth.slots, heartbeat=BEAT, inline_wait=0,
            subscriber=RedisStreams(claim_min_idle_time=LEASE), divergence_after=birth.divergence,
            housekeeping=False,
        )  # fmt: skip
        for each in (*HARBOURS, *SHORE):
            worker.workflow_registry.add(each)
        async with worker:
            await _until_asked()


def _give_up(error: Exception) -> None:
    raise error


async def oversee(birth: Birth) -> None:
    """Do what a supervisor does in the store, until SIGTERM."""
    settings = Settings(redis=birth.url, lease=LEASE, heartbeat=BEAT)
    # What it keeps is over sooner than anybody may wish.
    object.__setattr__(settings, "retention", birth.retention)
    object.__setattr__(settings, "unserved_after", birth.unserved)
    duties = Duties(settings, lambda _quarantined: None, _give_up)
    await duties.open()
    attending = asyncio.create_task(duties.attend())
    await _until_asked()
    attending.cancel()
    await asyncio.wait([attending])
    await duties.close()


async def ask(birth: Birth) -> None:
    """Send everything that clients send, and end."""
    async with Client(birth.url) as client:
        await call(client)


ROLES: dict[str, Callable[[Birth], Coroutine[None, None, None]]] = {
    "worker": work,
    "supervisor": oversee,
    "caller": ask,
}


def _live(birth: Birth) -> None:
    """Be what is wished, in a process that was just forked."""
    os.environ[VARIABLE] = birth.ledger
    output = os.open(_output(birth), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    if birth.trapped:
        lay()
    asyncio.run(ROLES[birth.role](birth))


def _bear(line: str) -> tuple[int, Birth]:
    birth = Birth(**json.loads(line))
    pid = os.fork()
    if not pid:
        status = 1
        try:
            _live(birth)
            status = 0
        except BaseException:  # noqa: BLE001 - it is all that this process is for
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return pid, birth


def main() -> None:
    """Make processes as standard input says, until it ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until a child can take it
    alive: dict[int, Birth] = {}
    left = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.01)
        if readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                pid, birth = _bear(line.decode())
                alive[pid] = birth
                os.write(1, b"%d\n" % pid)
        while alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            path = _ended(alive.pop(pid))
            path.with_suffix(".new").write_text(str(os.waitstatus_to_exitcode(status)))
            path.with_suffix(".new").rename(path)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
