"""Something at the other end of a connection that answers what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis

Request = list[bytes]
Answer = Callable[[int, Request], bytes | None]

OK = b"+OK\r\n"


class Peer:
    """Speaks just enough of the protocol to be sent commands, and to say what it got.

    `answer` is given the number of the connection (from 1) and the command, and gives the reply;
    None says nothing. What is sent while a connection is made is answered before that, the PING at
    the end of it by `greet`.
    """

    def __init__(
        self, path: Path, answer: Answer, *, greet: Callable[[int], bytes] = lambda _: OK
    ) -> None:
        self.url = f"unix://{path}"
        self.got: list[tuple[int, Request]] = []
        self.connections = 0
        self._path = path
        self._answer = answer
        self._greet = greet
        self._writers: list[asyncio.StreamWriter] = []
        self._serving: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Peer]:
        """Listen until the block ends."""
        server = await asyncio.start_unix_server(self._accept, self._path)
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            for serving in self._serving:
                serving.cancel()
            await asyncio.wait(self._serving)

    def cut(self) -> None:
        """Break the newest connection off."""
        self._writers[-1].transport.abort()

    def say(self, data: bytes) -> None:
        """Send on the newest connection."""
        self._writers[-1].write(data)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        self._serving.append(asyncio.create_task(self._serve(self.connections, reader, writer)))

    async def _serve(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        parser, is_made = hiredis.Reader(), False
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (request := parser.gets()) is not False:
                    reply = OK
                    is_made = is_made or request[0] not in (b"SELECT", b"AUTH", b"PING")
                    if is_made:
                        self.got.append((number, request))
                        reply = self._answer(number, request) or b""
                    if not is_made and request[0] == b"PING":  # the last of it
                        is_made, reply = True, self._greet(number)
                    writer.write(reply)
        except ConnectionError:
            pass
        finally:
            writer.close()
