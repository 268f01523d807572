"""One real server, and connections to it that are simulated: slow, cut, and with late copies.

What a process sends waits here. The seed says when the server comes to it, one command at a time of
all that wait, and when the reply arrives. Each goes over one real connection and is answered before
anything else happens, so that what the server does depends on the seed alone. Its time is that of
the loop: see `tests.support.stopped_clock`.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, cast

import hiredis
import redis

from aiki.errors import StoreUnavailable
from aiki.store.connection import Address, Wire, pack
from aiki.store.scripts import SCRIPTS
from tests.simulation.loop import BEGINNING, HERE, SimulatedLoop
from tests.support import stopped_clock

LATENCY = 0.01  # seconds of one way, in the mean: so that runs last long enough to be hit

OFFERING = {name for name, script in SCRIPTS.items() if "'XADD'" in script.source}
TELLING = {name for name, script in SCRIPTS.items() if "'PUBLISH'" in script.source}

Command = tuple[bytes, ...]
OnScript = Callable[[str, str, Command, Any], None]


class Server:
    """The server, as the only connection to it sees it."""

    def __init__(self, url: str, loop: SimulatedLoop, rng: random.Random, base: str) -> None:
        self.url = url
        self.loop = loop
        self.rng = rng
        self.is_faulty = False
        self.is_closed = False
        self.faults = Counter[str]()
        self.on_script: OnScript = lambda *_: None
        self._connections: list[Connection] = []
        self._blocked: list[Connection] = []
        self._set_to = 0
        with redis.Redis.from_url(url) as admin:
            stopped_clock.load(admin)
        self._line, self._news = _Line(url), _Line(url)
        self._news.ask((b"PSUBSCRIBE", base.encode() + b"*"))

    @property
    def now(self) -> int:
        """The server's time, in ms."""
        return stopped_clock.BEGINNING + round((self.loop.time() - BEGINNING) * 1000)

    def ask(self, *commands: Any) -> list[Any]:
        """Have the server do this now, and give its replies."""
        setting = [] if self._set_to == self.now else [stopped_clock.setting(self.now)]
        self._set_to = self.now
        return self._line.ask(*setting, *map(stopped_clock.governed, commands))[len(setting) :]

    def close(self) -> None:
        """Let nobody have a connection any more."""
        self.is_closed = True
        for connection in list(self._connections):
            connection.abort()

    def end(self) -> None:
        """End the real connections."""
        self._line.close()
        self._news.close()

    # What happens to a command

    def connect(
        self, name: str, on_reply: Callable[[Any], None], on_lost: Callable[[], None]
    ) -> Connection:
        """Make a connection for the node that asks."""
        connection = Connection(self, name, on_reply, on_lost)
        self._connections.append(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        """Notice that the other side is gone."""
        for some in (self._connections, self._blocked):
            if connection in some:
                some.remove(connection)

    def happens(self, fault: str, chance: float) -> bool:
        """Draw whether a fault happens now."""
        if not self.is_faulty or self.rng.random() >= chance:
            return False
        self.faults[fault] += 1
        return True

    def do(self, who: str, command: Command) -> Any:
        """Execute what a process has sent; the script's name and what it says are looked at."""
        word = command[0].upper()
        if word == b"TIME":
            return [b"%d" % (self.now // 1000), b"%d" % (self.now % 1000 * 1000)]
        if word == b"SCRIPT":
            return b"loaded before"
        if word != b"EVALSHA":
            return self.ask(command)[0]
        name = stopped_clock.NAMES[command[1].decode()]
        (reply,) = self.ask(("EVALSHA", command[1].decode(), *command[2:]))
        if name in TELLING:
            self._tell()
        self.on_script(who, name, command[4:], reply)
        if name in OFFERING:
            self._serve_blocked()
        return reply

    def block(self, connection: Connection) -> None:
        """Let a read wait for an entry."""
        self._blocked.append(connection)

    def cut(self, name: str) -> None:
        """Let all connections of a process end, as its death does."""
        for connection in list(self._connections):
            if connection.name == name:
                connection.abort()

    def unblock(self, connection: Connection) -> None:
        """Let a read wait no longer."""
        if connection in self._blocked:
            self._blocked.remove(connection)

    def _serve_blocked(self) -> None:
        for connection in list(self._blocked):
            if connection in self._blocked and connection.try_read():
                self._blocked.remove(connection)

    def _tell(self) -> None:
        """Pass on what was published, but for what is lost."""
        for message in self._news.until_pong():
            channel, data = message[2], message[3]
            for connection in list(self._connections):
                if channel in connection.channels and not self.happens("hint lost", 0.05):
                    connection.answer([b"message", channel, data])


class Connection:
    """What the product takes for a `Wire`."""

    def __init__(
        self,
        server: Server,
        name: str,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.channels: set[bytes] = set()
        self.heard_at = server.loop.time()
        self.lost_by = ""
        self.name = name
        self._server = server
        self._rng = server.rng
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._context = copy_context()
        # What the network does is part of no process.
        self._nowhere = copy_context()
        self._nowhere.run(HERE.set, None)
        self._queue: deque[Command] = deque()
        self._is_open = True  # as the process sees it
        self._is_busy = False  # a turn of the server is to come, or a read is blocked
        self._reading: Command | None = None
        self._last_answer = 0.0

    # As the process uses it

    def write(self, data: bytes) -> None:
        """Send commands."""
        if not self._is_open:
            return
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._queue.append(tuple(command))
        self._go_on(self._latency())

    def abort(self) -> None:
        """Give the connection up. What was sent may be executed still."""
        if self._is_open:
            self._is_open = False
            self._server.loop.call_soon(self._on_lost, context=self._context)
            self._later(self._rng.uniform(0, 3), self._server.forget, self)

    # As the server sees it

    def answer(self, reply: Any) -> None:
        """Send a reply, after those before it."""
        now = self._server.loop.time()
        self._last_answer = max(self._last_answer, now + self._latency())
        self._server.loop.call_at(self._last_answer, self._arrive, reply, context=self._context)

    def try_read(self) -> bool:
        """Read for a blocked reader; tell whether there was anything."""
        assert self._reading is not None
        reply = self._server.do(self.name, self._reading)
        if reply is None:
            return False
        self._end_reading(reply)
        return True

    def _arrive(self, reply: Any) -> None:
        if self._is_open:
            self.heard_at = self._server.loop.time()
            self._on_reply(reply)

    def _latency(self) -> float:
        return self._rng.expovariate(1 / LATENCY)

    def _later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> None:
        self._server.loop.call_later(delay, callback, *arguments, context=self._nowhere)

    def _go_on(self, delay: float) -> None:
        if self._queue and not self._is_busy:
            self._is_busy = True
            self._later(delay, self._turn)

    def _turn(self) -> None:
        """Come to the next command."""
        self._is_busy = False
        if self._server.is_closed or not self._queue:
            return
        if self._is_open and self._server.happens("connection cut, the rest done later", 0.004):
            self.abort()
            self._go_on(self._rng.uniform(0, 5))
            return
        if self._is_open and self._server.happens("connection silent for seconds", 0.004):
            self._go_on(self._rng.uniform(0.5, 6))
            return
        command = self._queue.popleft()
        if b"BLOCK" in command:
            self._read(command)
            return
        reply = self._do(command)
        if self._is_open and self._server.happens("reply lost", 0.006):
            self.abort()
        self.answer(reply)
        self._go_on(self._latency() / 10 if self._is_open else self._rng.uniform(0, 2))

    def _do(self, command: Command) -> Any:
        match command[0].upper():
            case b"SUBSCRIBE":
                self.channels.update(command[1:])
                for channel in command[1:-1]:
                    self.answer([b"subscribe", channel, 1])
                return [b"subscribe", command[-1], 1]
            case b"UNSUBSCRIBE":
                self.channels.difference_update(command[1:])
                return [b"unsubscribe", command[-1], 0]
            case b"PING" if self.channels:
                return [b"pong", b""]
            case _:
                return self._server.do(self.name, command)

    def _read(self, command: Command) -> None:
        at = command.index(b"BLOCK")
        self._reading = (*command[:at], *command[at + 2 :])
        self._is_busy = True
        if not self.try_read():
            self._server.block(self)
            self._later(int(command[at + 1]) / 1000, self._give_up_reading, self._reading)

    def _give_up_reading(self, reading: Command) -> None:
        if self._reading is reading:
            self._server.unblock(self)
            self._end_reading(None)

    def _end_reading(self, reply: Any) -> None:
        self._reading = None
        self._is_busy = False
        self.answer(reply)
        self._go_on(self._latency())


class SimulatedAddress(Address):
    """Where the simulated server is."""

    def __init__(self, server: Server, name: str) -> None:
        super().__init__(server.url)
        self._server = server
        self._name = name

    async def open(self, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> Wire:
        """Connect, mostly."""
        await asyncio.sleep(self._server.rng.uniform(0, 0.01))
        if self._server.is_closed or self._server.happens("connection refused", 0.1):
            raise StoreUnavailable("nobody answers")
        return cast("Wire", self._server.connect(self._name, on_reply, on_lost))

    def blocking(self) -> redis.Redis:
        """Give what a heart uses in its thread; here there is none, and it waits for nothing."""
        return cast("redis.Redis", _Blocking(self._server, self._name))


class _Blocking:
    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self.name = name

    def evalsha(self, sha: str, *arguments: Any) -> Any:
        if self._server.is_closed or self._server.happens("beat lost", 0.05):
            raise redis.ConnectionError("cut before")
        command = tuple(str(each).encode() for each in ("EVALSHA", sha, *arguments))
        reply = self._server.do(self.name, command)
        if self._server.happens("reply to a beat lost", 0.05):
            raise redis.ConnectionError("cut behind")
        return reply

    def close(self) -> None:
        """Nothing is open."""


class _Line:
    """A real connection, blocking."""

    def __init__(self, url: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(url.removeprefix("unix://"))
        self._reader = hiredis.Reader()

    def ask(self, *commands: Any) -> list[Any]:
        self._socket.sendall(b"".join(map(pack, commands)))
        return [self._next() for _ in commands]

    def until_pong(self) -> list[Any]:
        """Give the messages that came before the answer to a PING of now."""
        self._socket.sendall(pack(("PING",)))
        messages: list[Any] = []
        while (reply := self._next())[0] != b"pong":
            messages.append(reply)
        return messages

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> Any:
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            assert data, "the server is gone"
            self._reader.feed(data)
        return reply
