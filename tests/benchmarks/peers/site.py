"""Where a peer is measured: a directory on a disk, servers, workers, and what they cost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.peers.orders import VARIABLE, Tally

ROOT = Path(__file__).resolve().parents[3]
_PATIENCE = 60.0


class Site:
    """All that is started for one peer; nothing of it is left when it is closed."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self.victim = 0
        """The worker process to be killed: the first one, unless somebody knows better."""
        # Not where temporary files are kept in memory: syncing would cost nothing there.
        place = os.environ.get("TMPDIR", "/var/tmp")
        self.directory = Path(tempfile.mkdtemp(prefix="peers-", dir=place))
        self.directory.chmod(0o755)  # the database server has a user of its own
        self.tally = Tally(self.directory / "tally")
        os.environ[VARIABLE] = str(self.tally.path)  # for what this process executes itself
        self.versions: dict[str, str] = {}
        self._processes: dict[str, list[psutil.Process]] = {"servers": [], "workers": []}
        self._spawned: list[tuple[subprocess.Popen[bytes], list[str], dict[str, str]]] = []

    def spawn(self, role: str, command: Sequence[str | Path], **variables: str) -> int:
        """Start a process in a group of its own, and count it among the servers or workers."""
        arguments = [str(part) for part in command]
        options: dict[str, Any] = {}
        if role == "servers" and os.geteuid() == 0 and "postgres" in arguments[0]:
            options = {"user": "postgres", "group": "postgres", "extra_groups": []}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
            **variables,
        }  # fmt: skip
        with self.log.open("ab") as log:
            process = subprocess.Popen[bytes](
                arguments, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, **options,
            )  # fmt: skip
        self._processes[role].append(psutil.Process(process.pid))
        self._spawned.append((process, arguments, variables))
        return process.pid

    def worker(self, *arguments: str, **variables: str) -> int:
        """Start a worker process: a module of the peer's environment."""
        pid = self.spawn("workers", [sys.executable, "-m", *arguments], **variables)
        self.victim = self.victim or pid
        return pid

    def adopt(self, role: str, pid: int) -> None:
        """Count a process that something else has started."""
        self._processes[role].append(psutil.Process(pid))

    def kill(self, pid: int, *, restart: bool) -> None:
        """Kill a spawned process with all that it started; start it again if told so."""
        for process, arguments, variables in list(self._spawned):
            if process.pid == pid:
                os.killpg(pid, signal.SIGKILL)
                process.wait()
                if restart:
                    self.spawn("workers", arguments, **variables)
                return
        os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until the processes have written this so often."""
        async with asyncio.timeout(_PATIENCE):
            while self.log.read_text(errors="replace").count(text) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def cpu(self) -> dict[str, float]:
        """Give the seconds of processor time so far, by role; the client is this process."""
        spent = {role: sum(map(_seconds, each)) for role, each in self._processes.items()}
        return spent | {"client": sum(psutil.Process().cpu_times()[:2])}

    def memory(self) -> dict[str, float]:
        """Give the MiB in use, by role: pages that processes share count in part (PSS)."""
        used = {role: sum(map(_mebibytes, each)) for role, each in self._processes.items()}
        return used | {"client": _own_mebibytes(psutil.Process())}

    async def listens(self, port: int) -> None:
        """Wait until somebody listens on a port of this machine."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End everything, and remove the directory."""
        for role in ("workers", "servers"):
            spawned = [process for process, *_ in self._spawned]
            for process in self._processes[role]:
                # Servers are asked, so that none leaves shared memory behind.
                asked = role == "servers" and process.pid in {each.pid for each in spawned}
                for each in (process, *_descendants(process))[: 1 if asked else None]:
                    with suppress(psutil.NoSuchProcess):
                        each.send_signal(signal.SIGINT if asked else signal.SIGKILL)
            psutil.wait_procs(self._processes[role], timeout=10)
        for child, *_ in self._spawned:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def redis_server(site: Site) -> str:
    """Start a Redis as it comes: no append-only file, a snapshot now and then. Give its URL."""
    port = free_port()
    program = shutil.which("redis-server") or "redis-server"
    site.spawn("servers", [program, "--port", str(port), "--bind", "127.0.0.1",
                           "--dir", site.directory])  # fmt: skip
    site.versions["Redis"] = _version([program, "--version"], "v=")
    await site.listens(port)
    return f"redis://127.0.0.1:{port}"


def postgres_programs() -> Path | None:
    """Find the newest PostgreSQL server of this machine."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_number)
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def _number(path: Path) -> int:
    return int(path.parts[-3]) if path.parts[-3].isdigit() else 0


async def postgres_server(site: Site) -> str:
    """Start a PostgreSQL as it comes: every commit is on disk. Give its URL."""
    programs = postgres_programs()
    if programs is None:
        raise RuntimeError("there is no PostgreSQL server")
    port, data = free_port(), site.directory / "postgres"
    data.mkdir()
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        options = {"user": "postgres", "group": "postgres", "extra_groups": []}
    command = (programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8")
    await run(*command, cwd=data, **options)
    site.spawn("servers", [programs / "postgres", "-D", data, "-p", str(port), "-k", data,
                           "-c", "listen_addresses=127.0.0.1"])  # fmt: skip
    site.versions["PostgreSQL"] = _version([programs / "postgres", "--version"], ") ")
    await site.listens(port)
    ready = (programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
    while await run(*ready, may_fail=True):  # noqa: ASYNC110  (it tells nobody)
        await asyncio.sleep(0.05)
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


async def run(*command: str | Path, may_fail: bool = False, **options: Any) -> int:
    """Run a program to its end; its exit code."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL,
                                                   **options)  # fmt: skip
    code = await process.wait()
    if code and not may_fail:
        raise RuntimeError(f"{command[0]} ended with {code}")
    return code


def _version(command: Sequence[str | Path], before: str) -> str:
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said.split(before, 1)[1].split()[0]


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _seconds(process: psutil.Process) -> float:
    """Give what a process and its children have spent, those that have ended included."""
    total = 0.0
    for each in (process, *_descendants(process)):
        with suppress(psutil.NoSuchProcess):
            times: Any = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _mebibytes(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *_descendants(process)):
        with suppress(psutil.NoSuchProcess):
            total += _own_mebibytes(each)
    return total


def _own_mebibytes(process: psutil.Process) -> float:
    memory: Any = process.memory_full_info()
    size: int = getattr(memory, "pss", memory.uss)
    return size / 2**20
