"""A real supervisor in a process of its own, on a data directory and a module of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from aiki.call import Call, StartOptions
from aiki.client import Client
from aiki.codec import Codec
from aiki.handle import Handle
from tests.support.waiting import eventually

SERVES = "aiki serves "
# A worker imports the library, and the machine may be busy.
BOOT = 60.0
ROOT = Path(__file__).resolve().parent.parent.parent


class Supervised:
    """`python -m aiki.supervisor` (or another command) in `directory`, where its modules are.

    Of the variables of aiki it finds only those in `environ`.
    As a context manager it starts, and leaves no process behind.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        command: tuple[str, ...] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.data_dir = directory / ".aiki"
        self.ledger = directory / "ledger"
        self._arguments = command or ("-m", "aiki.supervisor", *arguments)
        self._environ = dict(environ or {})
        self._output = directory / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._there_before: list[psutil.Process] = []

    def write(self, module: str, source: str) -> None:
        """Write a module that the workers can import."""
        path = self.directory / f"{module}.py"
        path.write_text(textwrap.dedent(source))
        # Two versions of one size within one second look the same to the cache.
        shutil.rmtree(self.directory / "__pycache__", ignore_errors=True)

    def start(self) -> None:
        """Start the process, and do not wait."""
        self._there_before = self.leftovers()
        environ = {k: v for k, v in os.environ.items() if not k.startswith("AIKI_")}
        environ |= {"PYTHONPATH": str(ROOT), "LEDGER": str(self.ledger), "PYTHONUNBUFFERED": "1"}
        environ |= self._environ
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                cwd=self.directory, env=environ, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def output(self) -> str:
        """Return what all its processes have written so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def effects(self) -> list[str]:
        """Return the lines that tasks have appended to the ledger."""
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def release(self, name: str) -> None:
        """Let a task that waits at this gate go on."""
        (self.directory / f"gate-{name}").touch()

    def workers(self) -> list[psutil.Process]:
        """Return the living worker processes."""
        with suppress(psutil.NoSuchProcess):
            return [child for child in psutil.Process(self.pid).children() if is_worker(child)]
        return []

    def send(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        os.kill(self.pid, number)

    def client(self) -> Client:
        """Make a client of its store."""
        return Client(data_dir=self.data_dir)

    async def serves(self) -> None:
        """Wait until it says that it serves."""
        await self.says(f"^{SERVES}", BOOT)

    async def says(self, pattern: str, deadline: float = 40.0) -> re.Match[str]:
        """Wait until its output holds what matches."""
        found = await eventually(
            lambda: re.search(pattern, self.output(), re.MULTILINE), deadline, repr(pattern)
        )
        assert found is not None
        return found

    async def has_workers(self, count: int, deadline: float = BOOT) -> list[psutil.Process]:
        """Wait until so many worker processes live."""
        await eventually(lambda: len(self.workers()) == count, deadline, f"{count} workers")
        return self.workers()

    async def ends(self, deadline: float = 60.0) -> int:
        """Wait until it has ended, and return its exit code."""
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None, deadline, "the end")
        return process.returncode

    async def leaves_nothing(self, deadline: float = 40.0) -> None:
        """Wait until none of its processes lives, nor any that they have started."""
        await eventually(lambda: not self.leftovers(), deadline, "no process left")

    def leftovers(self) -> list[psutil.Process]:
        """Return the living processes that stand in its directory and came after its start."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                inside = Path(process.cwd()).is_relative_to(self.directory)
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return [process for process in found if process not in self._there_before]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self.leftovers():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self._process is not None:
            self._process.wait()
        sys.stdout.write(self.output())  # which pytest shows when the test has failed


async def start(
    client: Client, workflow: str, version: str = "1.0.0", **arguments: object
) -> Handle[object]:
    """Start a run of a workflow that only the workers have imported."""
    call: Call[object] = Call(
        workflow=workflow,
        version=version,
        payload=json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode(),
        result=Codec(object, "a test"),
        options=StartOptions(),
    )
    return await client.start_call(call)


def is_worker(process: psutil.Process) -> bool:
    """Tell a worker from the resource tracker of multiprocessing."""
    with suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False
