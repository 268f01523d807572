"""A TCP proxy before a server: what a network does to connections, when a test says so.

It speaks of *frames*, whole requests and replies, so that it can lose the reply of one script or
swallow messages. What it has done is counted in `fired`: a test fails when its fault did not.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiki.store.scripts import SCRIPTS
from tests.faults.frames import Frames

# Closed with this, a socket says RST and not FIN.
_AT_ONCE = struct.pack("ii", 1, 0)
_CHUNK = 65536


class Proxy:
    """Stands on a port of its own before the server at a unix socket."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        self.fired = Counter[str]()
        """How often each fault has hit: `accepted`, `refused`, `reset`, `lost start_runs`, …"""
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        # What is done to what passes; read by every connection
        self.delay = 0.0
        self.jitter = 0.0
        self.resets = 0.0
        """How likely what arrives ends its connection."""
        self.rng = random.Random(0)
        self.swallows_messages = False
        self.losing: set[bytes] = set()
        self._names = {script.sha.encode(): script.name for script in SCRIPTS.values()}

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Proxy]:
        """Let connections through until the block ends."""
        await self.accept()
        try:
            yield self
        finally:
            await self.refuse()
            self.cut()
            while self._connections:
                await next(iter(self._connections)).ended.wait()

    async def accept(self) -> None:
        """Take connections (again)."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)

    async def refuse(self) -> None:
        """Take no more connections: whoever tries is refused at once."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self.fired["refused"] += 1

    def cut(self) -> None:
        """Close every connection that there is."""
        for each in list(self._connections):
            self.fired["cut"] += 1
            each.close()

    def reset(self) -> None:
        """Break every connection off, as by a router that has lost its tables."""
        for each in list(self._connections):
            each.reset()

    def blackhole(self) -> None:
        """Let nothing through any more on the connections that there are; they stay open."""
        for each in self._connections:
            each.is_lost = True
            self.fired["blackholed"] += 1

    def lose(self, *scripts: str) -> None:
        """Let the next reply of each of these scripts be lost, with its connection."""
        self.losing.update(SCRIPTS[name].sha.encode() for name in scripts)

    def calm(self) -> None:
        """Let everything through again."""
        self.delay = self.jitter = self.resets = 0.0
        self.swallows_messages = False
        self.losing.clear()

    def is_to_lose(self, request: bytes) -> str:
        """Name the script whose reply is to be lost, if this request is one; '' for others."""
        for sha in self.losing:
            if sha in request and b"EVALSHA" in request[:40]:
                self.losing.discard(sha)
                return self._names[sha]
        return ""

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fired["accepted"] += 1
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run(self._upstream)
        finally:
            self._connections.discard(connection)


class _Connection:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.is_lost = False
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._over = asyncio.Event()
        self._requests, self._replies = 0, 0
        self._doomed: deque[tuple[int, str]] = deque()
        """Requests by their number, whose replies are to be lost."""

    async def run(self, upstream: Path) -> None:
        """Pass on what comes from either side until one of them ends."""
        try:
            reader, writer = await asyncio.open_unix_connection(upstream)
        except OSError:  # the server is away
            self.close()
            self.ended.set()
            return
        pumps: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._pump(self._reader, writer, self._on_request)),
            asyncio.create_task(self._pump(reader, self._writer, self._on_reply)),
            asyncio.create_task(self._over.wait()),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            self.close()
            self.ended.set()

    def close(self) -> None:
        """End it in good order."""
        self._writer.close()
        self._over.set()

    def reset(self) -> None:
        """Break it off."""
        end = self._writer.get_extra_info("socket")
        if not self._over.is_set() and end is not None:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._proxy.fired["reset"] += 1
        self._writer.transport.abort()
        self._over.set()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look_at: Callable[[bytes], bytes],
    ) -> None:
        loop, proxy, frames = asyncio.get_running_loop(), self._proxy, Frames()
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await on_its_way.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                if not self.is_lost:
                    writer.write(data)
                    await writer.drain()

        delivery, due = asyncio.create_task(deliver()), 0.0
        try:
            with suppress(ConnectionError):
                while data := await reader.read(_CHUNK):
                    passed = b"".join(map(look_at, frames.feed(data)))
                    late = proxy.delay + proxy.rng.uniform(-proxy.jitter, proxy.jitter)
                    if late > 0:
                        proxy.fired["delayed"] += 1
                    if proxy.resets and proxy.rng.random() < proxy.resets:
                        self.reset()
                    due = max(due, loop.time() + late)  # nothing overtakes
                    if passed:
                        on_its_way.put_nowait((due, passed))
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    def _on_request(self, frame: bytes) -> bytes:
        self._requests += 1
        if script := self._proxy.is_to_lose(frame):
            self._doomed.append((self._requests, script))
        return frame

    def _on_reply(self, frame: bytes) -> bytes:
        if frame.startswith(b"*3\r\n$7\r\nmessage\r\n") and self._proxy.swallows_messages:
            self._proxy.fired["swallowed"] += 1
            return b""
        self._replies += 1
        if self._doomed and self._replies >= self._doomed[0][0]:
            _, script = self._doomed.popleft()
            self._proxy.fired[f"lost {script}"] += 1
            self.reset()
        return b"" if self._over.is_set() else frame
