"""Embedded servers as tests see them: from outside, and used by processes of their own."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from aiki.valkey_server import ServerProcess

# A user in a process of its own: it calls the methods that it reads, and prints what they return.
# The first argument is the data directory, the second is run before the first call.
USER = """
import os, signal, sys
from pathlib import Path
from aiki import embedded, valkey_server
server = embedded.EmbeddedServer(Path(sys.argv[1]))
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
exec(sys.argv[2])
print("up", flush=True)
for command in sys.stdin:
    print(getattr(server, command.strip())(), flush=True)
"""


class User:
    def __init__(self, directory: Path, prepared: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, directory, prepared],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def receive(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def call(self, command: str) -> str:
        self.send(command)
        return self.receive()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def servers(directory: Path) -> list[psutil.Process]:
    """Find the servers that run in this directory, whatever its files say."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.name() == "valkey-server" and Path(process.cwd()).is_relative_to(directory):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            continue
    return found


def ask(url: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(unquote(urlsplit(url).path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(1000).decode()


def server_pid(url: str) -> int:
    return int(ask(url, "INFO server").partition("process_id:")[2].split()[0])


def configured(url: str, name: str) -> str:
    return ask(url, f"CONFIG GET {name}").split("\r\n")[-2]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    over = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < over, what
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Tell whether it runs; who was orphaned may stay a zombie where no init reaps it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def record(directory: Path) -> ServerProcess:
    found = ServerProcess.read(directory)
    assert found is not None
    return found


def append_only_file(directory: Path) -> Path:
    return directory / "appendonlydir" / "appendonly.aof.1.incr.aof"
