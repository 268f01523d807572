"""A store for many examples, whose clock stands still."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis

from aiki.store import Store
from aiki.store.connection import Address
from tests.support import stopped_clock
from tests.support.store import Scene

T = TypeVar("T")


class Site:
    """A store whose clock stands still, and a loop for it. Each example finds it empty."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        with redis.Redis.from_url(url) as server:
            stopped_clock.load(server)
        self.run(self._open(url))

    async def _open(self, url: str) -> None:
        store = Store(Address(url), f"t[*] {secrets.token_hex(6)}")
        stopped_clock.govern(store)
        await store.open()
        self.scene = Scene(store)

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Do something to the store."""
        return self._runner.run(doing)

    async def begin(self) -> None:
        """Forget everything but who the store is, and what time it is."""
        scene, store_id = self.scene, self.scene.store.store_id
        await scene.command("FLUSHALL")
        await self.set_clock(stopped_clock.BEGINNING)
        await scene.script("open_store", store_id, "1", "1")

    async def set_clock(self, now: int) -> None:
        """Move the time of the server."""
        await self.scene.command(*stopped_clock.setting(now))

    def close(self) -> None:
        """End the connection and the loop."""
        self.run(self.scene.store.close())
        self._runner.close()
