"""What a supervisor and its worker processes say to each other, over one private socket each.

Both ends run the same release, which a worker sees to, and nobody else holds an end, so messages
are pickled. A message is four bytes of length and the pickle.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeAlias

from aiki.supervisor.definitions import Shipment
from aiki.supervisor.settings import Settings

Blame: TypeAlias = Literal["definition", "store", "settings", "unknown"]


def _release() -> str:
    try:
        return version("aiki")
    except PackageNotFoundError:  # it was not installed but put somewhere
        return ""


RELEASE = _release()
"""That of this process: what is on the disk may be another one by now."""

_LENGTH = 4
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Boot:
    """Supervisor to worker, first of all: what to be. Holds secrets, so it is no argument."""

    label: str
    settings: Settings
    shipment: Shipment
    quarantine: bool
    store_id: str
    """Of the store that the supervisor serves; a worker must find the same one."""
    parent: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Supervisor to worker: claim nothing more, hand the runs back within `grace` s, end."""

    grace: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Supervisor to worker: answer with a `Report`."""


@dataclass(frozen=True, slots=True)
class Born:
    """Worker to supervisor: the process runs our code, and can show its stacks."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to supervisor: its leases exist and it claims runs."""

    incarnations: tuple[str, ...]
    """By partition of the store."""
    serves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotBooted:
    """Worker to supervisor: it ends before it was ever ready, for this reason."""

    blame: Blame
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Worker to supervisor: the loop turns."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Worker to supervisor: it works, but another one should take its place."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker to supervisor: it ends because of an error of its own, which it has logged."""

    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """Worker to supervisor: its runs and what each waits for, as text."""

    text: str


Message: TypeAlias = (
    Boot | Drain | Ask | Born | Ready | NotBooted | Tick | Replace | Failed | Report
)


def receive(end: socket.socket) -> Message:
    """Wait for one message on a blocking socket. Raises `EOFError`."""
    size = int.from_bytes(_exactly(end, _LENGTH), "big")
    message: Message = pickle.loads(_exactly(end, size))  # noqa: S301  (see the module's head)
    return message


def send(end: socket.socket, message: Message) -> None:
    """Send one message on a blocking socket; say nothing if nobody listens any more."""
    with suppress(OSError):
        end.sendall(_framed(message))


class Channel:
    """One end of the socket on a running loop: never blocks it, keeps the order."""

    def __init__(
        self,
        end: socket.socket,
        on_message: Callable[[Message], None],
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._on_message = on_message
        self._on_end = on_end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        end.settimeout(0.0)
        self._loop.add_reader(end, self.read)

    def send(self, message: Message) -> None:
        """Send a message as soon as the other end takes it; drop it if that end is gone."""
        if self._end.fileno() < 0:
            return
        self._outgoing += _framed(message)
        self._write()

    def read(self) -> None:
        """Deliver what has arrived."""
        while self._end.fileno() >= 0:
            try:
                data = self._end.recv(_CHUNK)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.close()
                if self._on_end is not None:
                    self._on_end()
                return
            self._incoming += data
            self._deliver()

    def close(self) -> None:
        """Let go of the socket; may be called again."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._end.close()

    def _deliver(self) -> None:
        while len(self._incoming) >= _LENGTH:
            stop = _LENGTH + int.from_bytes(self._incoming[:_LENGTH], "big")
            if len(self._incoming) < stop:
                return
            message: Message = pickle.loads(self._incoming[_LENGTH:stop])  # noqa: S301
            del self._incoming[:stop]
            self._on_message(message)

    def _write(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._end.send(self._outgoing)]
        except BlockingIOError:
            self._loop.add_writer(self._end, self._write)
            return
        except OSError:
            self._outgoing.clear()  # the other end is gone, which its reader finds out
        self._loop.remove_writer(self._end)


def _framed(message: Message) -> bytes:
    body = pickle.dumps(message)
    return len(body).to_bytes(_LENGTH, "big") + body


def _exactly(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = end.recv(min(size - len(data), _CHUNK))
        if not chunk:
            raise EOFError("the supervisor is gone")
        data += chunk
    return bytes(data)
