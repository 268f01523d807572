"""Owners of runs that die in the middle of their work, as the store sees it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiki.records import Ownership, StreamNote
from aiki.states import Status
from aiki.store.runs import Runs
from aiki.store.streams import Streams

T = TypeVar("T")


class MortalRuns(Runs):
    """Lets an owner make so many writes about a run. Then nothing leaves it, and nothing is heard.

    With `unheard`, the last write is done and its reply is lost. Runs without a number go on.
    """

    def __init__(self, runs: Runs, *, unheard: bool = False) -> None:
        vars(self).update(vars(runs))
        self._unheard = unheard
        self.left: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.dead: set[str] = set()
        self.over: set[str] = set()
        self._silent: list[asyncio.Future[None]] = []

    def forget(self) -> None:
        """Let those end who wait for a reply that never comes."""
        for future in self._silent:
            future.cancel()

    async def commit_step(self, owner: Ownership, key: str, entry: bytes) -> int | bytes:
        commit = super().commit_step
        return await self.write(owner, lambda: commit(owner, key, entry))

    async def commit_attempt(
        self, owner: Ownership, key: str, delay_ms: int, rest: bytes
    ) -> int | bytes:
        commit = super().commit_attempt
        return await self.write(owner, lambda: commit(owner, key, delay_ms, rest))

    async def abandon_step(
        self, owner: Ownership, key: str, entry: bytes, *, deliver_cancel: bool = False
    ) -> int | bytes:
        abandon = super().abandon_step
        return await self.write(
            owner, lambda: abandon(owner, key, entry, deliver_cancel=deliver_cancel)
        )

    async def open_wait(
        self,
        owner: Ownership,
        key: str,
        rest: bytes,
        *,
        lasts_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Any:
        begin = super().open_wait
        return await self.write(
            owner, lambda: begin(owner, key, rest, lasts_ms=lasts_ms, until_ms=until_ms)
        )

    async def end_wait(
        self, owner: Ownership, key: str, entry: bytes, *, seen: int | None, woken: bool
    ) -> Any:
        end = super().end_wait
        return await self.write(owner, lambda: end(owner, key, entry, seen=seen, woken=woken))

    async def consume_message(
        self, owner: Ownership, key: str, entry: bytes, number: int
    ) -> int | bytes:
        consume = super().consume_message
        return await self.write(owner, lambda: consume(owner, key, entry, number))

    async def answer_update(
        self, owner: Ownership, key: str, entry: bytes, told: bytes
    ) -> int | bytes:
        answer = super().answer_update
        return await self.write(owner, lambda: answer(owner, key, entry, told))

    async def park(
        self,
        owner: Ownership,
        status: Status,
        seen: int,
        waits: Sequence[str],
        timed: Sequence[str],
    ) -> bytes:
        park = super().park
        return await self.write(owner, lambda: park(owner, status, seen, waits, timed))

    async def finish(
        self,
        owner: Ownership,
        status: Status,
        payload: bytes,
        abandoned: Sequence[tuple[str, bytes]],
    ) -> bytes:
        finish = super().finish
        reply = await self.write(owner, lambda: finish(owner, status, payload, abandoned))
        self.over.add(owner.run_id)
        return reply

    async def stall(self, owner: Ownership, reason: str) -> bytes:
        stall = super().stall
        reply = await self.write(owner, lambda: stall(owner, reason))
        self.over.add(owner.run_id)
        return reply

    async def release(self, run_id: str, epoch: str, incarnation: str) -> bytes:
        if run_id in self.dead:
            await self._never()
        return await super().release(run_id, epoch, incarnation)

    async def write(self, owner: Ownership, send: Callable[[], Awaitable[T]]) -> T:
        """Make a write, unless the owner is dead."""
        run_id = owner.run_id
        left = self.left.get(run_id)
        if left == 0:
            self.dead.add(run_id)
            await self._never()
        if left is not None:
            self.left[run_id] = left - 1
        self.written[run_id] = self.written.get(run_id, 0) + 1
        reply = await send()
        if left == 1 and self._unheard:
            self.dead.add(run_id)
            await self._never()
        return reply

    async def _never(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._silent.append(future)
        await future


class MortalStreams(Streams):
    """Lets the same owners publish, as writes among the others."""

    def __init__(self, streams: Streams, runs: MortalRuns) -> None:
        vars(self).update(vars(streams))
        self._runs = runs

    async def publish(
        self,
        owner: Ownership,
        published: int,
        notes: Mapping[str, StreamNote],
        chunks: Sequence[tuple[str, int, bytes]],
    ) -> int | bytes:
        publish, noted = super().publish, dict(notes)
        return await self._runs.write(owner, lambda: publish(owner, published, noted, chunks))
