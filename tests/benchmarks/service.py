"""A real service to be measured: a supervisor with two workers and the embedded server."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from aiki import Client
from aiki.valkey_setup import Durability
from tests.support.embedded_users import record
from tests.support.supervised import Supervised

WORKERS = 2
_END = 40.0  # a drain has 30 s
_LAST_WORDS = 4_000  # characters of its output that are shown when it has failed


class Service:
    """`python -m aiki.supervisor MODULE --workers 2`, in a directory of its own on a disk."""

    def __init__(
        self, module: str, *options: str, durability: Durability = "always", workers: int = WORKERS
    ) -> None:
        # Not the directory for temporary files, which many systems keep in memory: there, a
        # write that has to be on disk would cost nothing.
        place = os.environ.get("TMPDIR", "/var/tmp")
        self.directory = Path(tempfile.mkdtemp(prefix="aiki-benchmark-", dir=place))
        self.data_dir = self.directory / ".aiki"
        self._durability: Durability = durability
        arguments = (module, *options, "--workers", str(workers), "--durability", durability)
        self.supervised = Supervised(self.directory, *arguments)
        self._is_started = False

    async def start(self) -> None:
        """Start it, and wait until it serves."""
        self._is_started = True
        self.supervised.start()
        await self.supervised.serves()

    def client(self, namespace: str = "default") -> Client:
        """Make a client of its store, which also starts the server where none runs yet."""
        return Client(data_dir=self.data_dir, namespace=namespace, durability=self._durability)

    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.supervised.pid)

    def workers(self) -> list[psutil.Process]:
        return self.supervised.workers()

    def server(self) -> psutil.Process:
        return psutil.Process(record(self.data_dir).pid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._is_started:
                if error is not None:
                    sys.stderr.write(self.supervised.output()[-_LAST_WORDS:])
                self.supervised.send(signal.SIGTERM)
                await self.supervised.ends(_END)
        finally:
            for process in self.supervised.leftovers():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(self.directory, ignore_errors=True)


class CpuTime:
    """Seconds of CPU that the processes of a service, and this one as its client, spend."""

    def __init__(self, service: Service) -> None:
        self._processes = {
            "client": [psutil.Process()],
            "workers": service.workers(),
            "supervisor": [service.supervisor()],
            "server": [service.server()],
        }
        self._begun = self._read()
        self._at = time.monotonic()

    def spent(self) -> dict[str, float]:
        """Give the seconds since it was made, by role; `others` is the rest of the machine."""
        now = self._read()
        spent = {role: now[role] - self._begun[role] for role in now}
        spent["others"] -= sum(seconds for role, seconds in spent.items() if role != "others")
        return spent

    def elapsed(self) -> float:
        return time.monotonic() - self._at

    def _read(self) -> dict[str, float]:
        read = {
            role: sum(sum(process.cpu_times()[:2]) for process in processes)
            for role, processes in self._processes.items()
        }
        everything = psutil.cpu_times()
        idle = everything.idle + getattr(everything, "iowait", 0.0)
        # Guests are counted as user time already.
        guests = getattr(everything, "guest", 0.0) + getattr(everything, "guest_nice", 0.0)
        read["others"] = sum(everything) - idle - guests
        return read


@dataclass(frozen=True, slots=True)
class ScriptTime:
    """What the server has spent on scripts since it started, by its own account."""

    calls: int
    seconds: float

    @classmethod
    async def read(cls, client: Client) -> ScriptTime:
        reply: bytes = await client.store.link.send(("INFO", "commandstats"))
        return cls.parse(reply.decode())

    @classmethod
    def parse(cls, text: str) -> ScriptTime:
        commands = _fields(text)
        calls, microseconds = 0, 0
        for command in ("cmdstat_evalsha", "cmdstat_eval"):
            fields = dict(part.split("=") for part in commands.get(command, "").split(",") if part)
            calls += int(fields.get("calls", 0))
            microseconds += int(fields.get("usec", 0))
        return cls(calls, microseconds / 1e6)


@dataclass(frozen=True, slots=True)
class Bytes:
    """What the server has received, sent and logged since it started, and holds in memory."""

    received: int
    sent: int
    logged: int
    held: int

    @classmethod
    async def read(cls, client: Client) -> Bytes:
        info: bytes = await client.store.link.send(("INFO", "everything"))
        fields = _fields(info.decode())
        return cls(
            received=int(fields["total_net_input_bytes"]),
            sent=int(fields["total_net_output_bytes"]),
            logged=int(fields["aof_current_size"]),
            held=int(fields["used_memory"]),
        )


async def persistence(client: Client, field: str) -> int:
    """Read a number of what the server says of its append-only file."""
    reply: bytes = await client.store.link.send(("INFO", "persistence"))
    return int(_fields(reply.decode())[field])


def _fields(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
