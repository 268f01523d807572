"""Hints that there is something new about a run: one channel each, heard while somebody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiki.store import Store
from aiki.time_limit import time_limit


class Heard:
    """What one who listens has heard and not looked after yet."""

    def __init__(self) -> None:
        self._bell = asyncio.Event()
        self.messages: list[bytes] = []
        self.is_to_ask = False  # since what was said may be lost, or will not be said

    def ring(self, message: bytes = b"") -> None:
        """Have who listens look."""
        if message:
            self.messages.append(message)
        self._bell.set()

    def ask_again(self) -> None:
        """Have who listens ask for what may not have been heard."""
        self.is_to_ask = True
        self._bell.set()

    async def wait(self, at_most: float) -> None:
        """Wait until there is reason to look, or it was not heard for so long."""
        try:
            async with time_limit(at_most):
                await self._bell.wait()
        except TimeoutError:
            pass
        self._bell.clear()


class Hints:
    """Those who listen in this process, by the run that they listen for."""

    def __init__(self, store: Store) -> None:
        self._inbox = store.inbox
        self._streams = store.streams
        self._listeners: dict[str, list[Heard]] = {}
        self._subscribing: dict[str, asyncio.Task[str]] = {}
        # After a reconnection: what was sent meanwhile is gone
        self._inbox.when_connected_again(self._ring_all)

    @asynccontextmanager
    async def about(self, run_id: str) -> AsyncGenerator[Heard]:
        """Listen for a run; what happens from the entry on is heard."""
        heard = Heard()
        listeners = self._listeners.setdefault(run_id, [])
        listeners.append(heard)
        channel = self._streams.channel(run_id)
        try:
            if run_id not in self._subscribing:
                self._subscribing[run_id] = asyncio.create_task(
                    self._inbox.subscribe(channel, lambda message: self._ring(run_id, message))
                )
            await asyncio.shield(self._subscribing[run_id])
            yield heard
        finally:
            listeners.remove(heard)
            if not listeners:
                del self._listeners[run_id]
                if (subscribing := self._subscribing.pop(run_id, None)) is not None:
                    subscribing.cancel()
                self._inbox.unsubscribe(channel)

    def _ring(self, run_id: str, message: bytes) -> None:
        for heard in self._listeners.get(run_id, ()):
            heard.ring(message)

    def _ring_all(self) -> None:
        for listeners in self._listeners.values():
            for heard in listeners:
                heard.ask_again()
