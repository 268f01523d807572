"""Owners of runs that die in the middle of their work, as the store sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiki.client import Client
from aiki.records import NextAttempt, Ownership, StreamNote
from aiki.states import Status
from aiki.store.children import Children, NewChild
from aiki.store.control import Control
from aiki.store.runs import Runs
from aiki.store.streams import Streams

T = TypeVar("T")


class MortalRuns(Runs):
    """Lets an owner make so many writes about a run. Then nothing leaves it, and nothing is heard.

    With `unheard`, the last write is done and its reply is lost. Runs without a number go on.
    """

    def __init__(
        self, runs: Runs, *, unheard: bool = False, like: MortalRuns | None = None
    ) -> None:
        vars(self).update(vars(runs))
        self._unheard = unheard
        self.left: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.dead: set[str] = set()
        self.over: set[str] = set()
        self._silent: list[asyncio.Future[None]] = []
        if like is not None:  # of another partition of the same store
            self.left, self.written, self.dead = like.left, like.written, like.dead
            self.over, self._silent = like.over, like._silent

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

    async def heartbeat_step(self, owner: Ownership, key: str, rest: bytes) -> int | bytes:
        beat = super().heartbeat_step
        return await self.write(owner, lambda: beat(owner, key, rest))

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

    async def stall(self, owner: Ownership, reason: str, *, is_open: bool = False) -> bytes:
        stall = super().stall
        reply = await self.write(owner, lambda: stall(owner, reason, is_open=is_open))
        self.over.add(owner.run_id)
        return reply

    async def release(self, run_id: str, epoch: str, incarnation: str) -> bytes:
        if run_id in self.dead:
            await self._never()
        return await super().release(run_id, epoch, incarnation)

    async def write(self, owner: Ownership, send: Callable[[], Awaitable[T]]) -> T:
        """Make a write about a run, if its owner still may."""
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


class MortalControl(Control):
    """The same for what an owner does to let its run go on in another way."""

    def __init__(self, control: Control, runs: MortalRuns) -> None:
        vars(self).update(vars(control))
        self._runs = runs

    async def retry_later(self, owner: Ownership, attempt: NextAttempt) -> bytes:
        later = super().retry_later
        return await self._runs.write(owner, lambda: later(owner, attempt))

    async def continue_run(self, owner: Ownership, payload: bytes) -> bytes:
        anew = super().continue_run
        return await self._runs.write(owner, lambda: anew(owner, payload))


class MortalChildren(Children):
    """Lets the same owners die in the middle of what they do with the children of their runs."""

    def __init__(self, children: Children, runs: MortalRuns) -> None:
        vars(self).update(vars(children))
        self._write = runs.write

    async def start_child(  # noqa: PLR0917 - as what it stands for
        self, owner: Ownership, key: str, entry: bytes, child_id: str, new: NewChild, payload: bytes
    ) -> int | bytes:
        start = super().start_child
        return await self._write(owner, lambda: start(owner, key, entry, child_id, new, payload))

    async def start_children(
        self,
        owner: Ownership,
        key: str,
        rest: bytes,
        new: NewChild,
        some: Sequence[tuple[int, str, bytes]],
        *,
        strict: bool,
        wake_at: int,
    ) -> int | bytes:
        start = super().start_children
        return await self._write(
            owner,
            lambda: start(owner, key, rest, new, some, strict=strict, wake_at=wake_at),
        )

    async def consume_end(
        self, owner: Ownership, key: str, written: int, rest: bytes, child_id: str, *,
        number: int, room: int,
    ) -> Any:  # fmt: skip
        consume = super().consume_end
        return await self._write(
            owner,
            lambda: consume(owner, key, written, rest, child_id, number=number, room=room),
        )


def let_die(
    client: Client, *, unheard: bool = False, kind: type[MortalRuns] = MortalRuns
) -> MortalRuns:
    """Let the owners of runs die that have this client, by what is said to the result."""
    runs: MortalRuns | None = None
    for store in client.partitions.all:
        store.runs = runs = kind(store.runs, unheard=unheard, like=runs)
        store.streams = MortalStreams(store.streams, runs)
        store.control = MortalControl(store.control, runs)
        store.children = MortalChildren(store.children, runs)
    assert runs is not None
    return runs
