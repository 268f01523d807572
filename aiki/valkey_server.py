"""The Valkey process of a data directory: its launch, its answers, its end.

Whether one may start or must end is not decided here: `embedded.py` does, under its locks.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import psutil

from aiki.errors import AikiError, ConfigError, StoreRefused, StoreUnavailable
from aiki.valkey_setup import (
    APPEND_ONLY,
    GUARANTEES,
    LOG,
    OTHER_STORE,
    Durability,
    allocator,
    configuration,
    find_binary,
    refuse_hidden_data,
    socket_path,
)

_logger = logging.getLogger("aiki.embedded")

RECORD = "server.json"
# The record's name once the server is being stopped: renaming a file needs no disk space.
ENDING_RECORD = "server.ending.json"

# The log grows by a few lines with each start; it is kept up to this size, and once beside it.
LONGEST_LOG = 1 << 20

# A server may run only when its record is on disk. The shell, which turns into the server and
# so has its pid, waits for that; it ends when its starter has died before. The server reads its
# configuration from stdin, since in a path it takes `?`, `*`, `[` and `\\` for a pattern, and
# where that matches nothing it would open the default port without any configuration.
_SETTINGS = "server.conf"
_LAUNCHER = ("/bin/sh", "-c", f'read -r go && exec "$1" - <{_SETTINGS}', "aiki-server")

_LAST_WORDS = 4096  # bytes of the log

# What the shell and the server end with.
_CANNOT_EXECUTE = (126, 127)
_STOPPED_OR_KILLED = (0, -9)

# No pid is given to a second process within a clock tick, which is 10 ms.
_SAME_BIRTH = 0.005


class Answer(Enum):
    """What a server answers to a PING."""

    SILENT = auto()
    LOADING = auto()
    READY = auto()


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """The record of a server, as its directory keeps it."""

    pid: int
    birth: float
    """Which of the processes that ever had this pid: see `_birth`."""
    socket: str
    durability: Durability

    @classmethod
    def read(cls, directory: Path, name: str = RECORD) -> ServerProcess | None:
        """Read a record; None when there is none, or nothing that could be one."""
        try:
            fields: Any = json.loads((directory / name).read_bytes())
            pid, birth = int(fields["pid"]), float(fields["birth"])
            durability = fields["durability"]
            if durability in GUARANTEES:
                return cls(pid, birth, str(fields["socket"]), durability)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            pass
        return None

    def write(self, directory: Path) -> None:
        """Replace the directory's record by this one, whole or not at all."""
        new = directory / f"{RECORD}.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(directory / RECORD)

    def answer(self) -> Answer:
        """Send one PING; an error reply other than LOADING is a sign of life too."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(self.socket)
                connection.sendall(b"PING\r\n")
                reply = connection.recv(64)
            except OSError:
                return Answer.SILENT
        if not reply:
            return Answer.SILENT
        return Answer.LOADING if reply.startswith(b"-LOADING") else Answer.READY

    def end(self, *, kill: bool = False) -> None:
        """Tell the process to end; another one that has its pid by now is left alone."""
        try:
            process = psutil.Process(self.pid)
            if abs(_birth(process) - self.birth) < _SAME_BIRTH:
                process.kill() if kill else process.terminate()
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied as error:
            raise StoreUnavailable(
                f"The server, process {self.pid}, belongs to another user and cannot be stopped."
            ) from error


def _birth(process: psutil.Process) -> float:
    """Tell when a process started, in a way that setting the clock does not change."""
    # Linux counts from the boot, and psutil adds the time of that, which moves with the clock.
    origin = psutil.boot_time() if sys.platform == "linux" else 0.0
    return process.create_time() - origin


class Launch:
    """A server that this process has started."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], log_start: int) -> None:
        self._directory = directory
        self._process = process
        self._log = directory / LOG
        self._log_start = log_start

    def log_remarks(self) -> None:
        """Pass on what the server remarks about its host and its data."""
        for remark in self._remarks():
            level = logging.WARNING if "AOF" in remark else logging.INFO
            _logger.log(level, "server %d: %s", self._process.pid, remark)

    def refusal(self) -> AikiError:
        """Say why the server has ended before it was ready."""
        code = self._process.wait()
        said = (self._remarks() or self._lines())[-10:]
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        what = f"The server of {self._directory} ended while it started ({how})."
        log = "\n".join([f"Its log, {self._log}, says:", *said])
        if code in _CANNOT_EXECUTE:
            return ConfigError(f"This system cannot run the server binary. {OTHER_STORE} {log}")
        if code in _STOPPED_OR_KILLED:
            return StoreUnavailable(f"{what} {log}")
        if any("No space left" in line for line in said):
            advice = "Its disk is full: free some space there and start again."
        else:
            advice = (
                "What it has recorded is left as it is, and no empty store takes its place. Copy "
                f"{self._directory / APPEND_ONLY}, then restore a backup, repair the data with "
                "`valkey-check-aof` (part of a Valkey or Redis installation), or start on another "
                "data directory."
            )
        return StoreRefused(f"{what} {advice} {log}")

    def _remarks(self) -> list[str]:
        marked = (line.partition(" # ")[2] for line in self._lines())
        # Most users may not set oom_score_adj, and the server can do without.
        return [remark for remark in marked if remark and "oom_score_adj" not in remark]

    def _lines(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()


def died(directory: Path) -> str:
    """Say that the server of a directory is no more, and what its log tells of that."""
    try:
        with (directory / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_WORDS))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line.partition(" # ")[2] for line in lines if " # " in line][-3:]
    advice = ""
    if any("No space left" in line for line in said):
        advice = f"The disk of {directory} is full: free some space there. "
    log_says = "\n".join([f"Its log, {directory / LOG}, says:", *said]) if said else ""
    return f"The server of {directory} has died; it is started again. {advice}{log_says}".rstrip()


def launch(directory: Path, durability: Durability, lock: int) -> Launch:
    """Start a server that keeps the descriptor `lock` open, and record it; it is not ready yet.

    Raises `ConfigError` when there is no binary for this platform, and `StoreRefused` when the
    directory holds data that the server would not load.
    """
    binary = find_binary()
    refuse_hidden_data(directory, durability)
    place = socket_path(directory)
    (directory / _SETTINGS).write_bytes(configuration(directory, place, durability))
    log = directory / LOG
    if log.exists() and log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_name(f"{LOG}.1"))
    with log.open("ab") as output:
        log_start = output.tell()
        process = subprocess.Popen(  # noqa: S603  (our own binary)
            [*_LAUNCHER, binary],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={**allocator(), **os.environ},
            pass_fds=(lock,),
            # Ctrl-C is for the foreground group: the server must outlive the users in it.
            start_new_session=True,
            umask=0o077,
        )
    try:
        _record_and_release(directory, process, place, durability)
    finally:
        # While its starter lives, a server that has ended would be a zombie.
        threading.Thread(target=process.wait, name="aiki-server-reaper", daemon=True).start()
    return Launch(directory, process, log_start)


def _record_and_release(
    directory: Path, process: subprocess.Popen[bytes], place: Path, durability: Durability
) -> None:
    assert process.stdin is not None  # noqa: S101  (it is a pipe)
    try:
        with process.stdin as shell:
            birth = _birth(psutil.Process(process.pid))
            ServerProcess(process.pid, birth, str(place), durability).write(directory)
            shell.write(b"go\n")
    except (psutil.NoSuchProcess, BrokenPipeError):
        pass  # it has been killed already, as the caller sees by its lock
