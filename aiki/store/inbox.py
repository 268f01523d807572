"""A connection that only listens: messages that are hints, told by name of channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import hiredis

from aiki.errors import StoreRefused
from aiki.store.connection import Address, Wire, pack

_logger = logging.getLogger("aiki.store")

PING_EVERY = 15.0
_PARTS = 3  # of a message: its kind, the channel, the data
LAST_PAUSE = 2.0


class Inbox:
    """Channels of this process. Nothing depends on a message: each has a slower backstop."""

    def __init__(self, address: Address, base: str) -> None:
        self._address = address
        self._base = base
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self._subscribed: dict[bytes, asyncio.Future[None]] = {}
        self._on_connected: list[Callable[[], None]] = []
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._unconfirmed: set[bytes] = set()
        self._answered = True

    async def subscribe(
        self,
        channel: str,
        handler: Callable[[bytes], None],
        on_connected: Callable[[], None] | None = None,
    ) -> str:
        """Listen on a channel, and return its full name once the server knows.

        `on_connected` is called after every later reconnection, once every channel is heard
        again: messages sent meanwhile are gone, and what it asks for is told from then on.

        Raises:
            StoreRefused: the server's user may not listen.
        """
        name = (self._base + channel).encode()
        self._handlers[name] = handler
        done = self._subscribed[name] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        elif self._wire is not None:
            self._wire.write(pack(("SUBSCRIBE", name)))
        await asyncio.shield(done)
        if on_connected is not None:
            self.when_connected_again(on_connected)
        return name.decode()

    def when_connected_again(self, tell: Callable[[], None]) -> None:
        """Have this called after every reconnection, once every channel is heard again."""
        self._on_connected.append(tell)

    def unsubscribe(self, channel: str) -> None:
        """Stop listening on a channel."""
        name = (self._base + channel).encode()
        self._handlers.pop(name, None)
        self._subscribed.pop(name, None)
        self._unconfirmed.discard(name)
        if self._wire is not None:
            self._wire.write(pack(("UNSUBSCRIBE", name)))

    async def close(self) -> None:
        """End the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = 0.05
        while True:
            try:
                self._answered = True
                lost = asyncio.Event()  # of this connection: an aborted one says so later
                self._wire = await self._address.open(self._on_reply, lost.set)
            except Exception as error:  # noqa: BLE001 - whatever it is: else nobody tried again
                _logger.debug("the inbox has no connection: %r", error)
                await asyncio.sleep(pause)
                pause = min(3 * pause, LAST_PAUSE)
                continue
            try:
                self._unconfirmed = set(self._handlers)
                if self._handlers:
                    self._wire.write(pack(("SUBSCRIBE", *self._handlers)))
                pause = 0.05
                await self._until_lost(self._wire, lost)
            finally:
                self._wire.abort()
                self._wire = None

    async def _until_lost(self, wire: Wire, lost: asyncio.Event) -> None:
        """Wait, and ask now and then whether the other side is still there."""
        while not lost.is_set():
            try:
                async with asyncio.timeout(PING_EVERY):
                    await lost.wait()
            except TimeoutError:
                if not self._answered:
                    return
                self._answered = False
                wire.write(pack(("PING",)))

    def _on_reply(self, reply: Any) -> None:
        self._answered = True
        if isinstance(reply, hiredis.ReplyError):
            self._on_refused(StoreRefused(f"{self._address.described}: {reply}"))
            return
        if len(reply) != _PARTS:
            return  # the answer to a PING: a word of four letters, or a list of two
        kind, channel, data = reply
        if kind == b"message":
            handler = self._handlers.get(channel)
            if handler is not None:
                handler(data)
        elif kind == b"subscribe":
            self._on_subscribed(channel)

    def _on_refused(self, error: StoreRefused) -> None:
        for waiting in self._subscribed.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever waits sees it; nobody need

    def _on_subscribed(self, channel: bytes) -> None:
        done = self._subscribed.get(channel)
        if done is not None and not done.done():
            done.set_result(None)
        if channel in self._unconfirmed:
            self._unconfirmed.discard(channel)
            if not self._unconfirmed:
                for tell in self._on_connected:
                    tell()
