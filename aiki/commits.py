"""What an owner writes of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiki.current_step import CurrentStep
from aiki.durations import milliseconds
from aiki.errors import DataError, LimitExceeded
from aiki.journal import Journal
from aiki.operation import Host, Operation
from aiki.records import (
    ClaimedRun,
    EntryKind,
    Message,
    closed_entry,
    entry_rest,
    open_payload,
)
from aiki.rounds import Rounds, Turn
from aiki.step import StepSpec
from aiki.store.children import NewChild

MAX_RUN_BYTES = 16 * 1024 * 1024
_TAKEN = 3  # parts of the answer that tells of a child's end
_EXECUTED = "the task was executed, and is not executed again for this"


class Commits:
    """The writes of one owner of a run. Each gives the script's reply: flags, or its word."""

    def __init__(self, claimed: ClaimedRun, host: Host, journal: Journal, rounds: Rounds) -> None:
        self._owner = claimed.ownership
        self._runs = host.runs
        self._children = host.children
        self._label = host.label
        self._journal = journal
        self._rounds = rounds
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._claimed_at = claimed.now

    def encoded(self, spec: StepSpec, value: Any) -> tuple[bytes, Any]:
        """Give what a task returned as it is stored, and as it is read again."""
        try:
            payload, value = spec.result.encode(value)
        except DataError as refused:
            message = f"{refused.message}; {_EXECUTED}"
            raise DataError(message, path=refused.path) from refused.__cause__
        except LimitExceeded as refused:
            raise LimitExceeded(f"{refused}; {_EXECUTED}") from None
        try:
            self.check_room(payload)
        except LimitExceeded as refused:
            raise LimitExceeded(f"{refused}; {_EXECUTED}") from None
        return payload, value

    def check_room(self, payload: bytes) -> None:
        """Refuse what would make the run too large. Raises `LimitExceeded`."""
        if self._journal.size + len(payload) > MAX_RUN_BYTES:
            raise LimitExceeded(
                f"run {self._owner.run_id} would hold more than {MAX_RUN_BYTES >> 20} MiB of "
                "results; store large data elsewhere and return where it is"
            )

    def server_now(self) -> int:
        """Give the server's time, in milliseconds: that of the claim, and what passed since."""
        return self._claimed_at + round((self._loop.time() - self._begun) * 1000)

    def step(
        self, kind: EntryKind, operation: Operation, attempt: int, begun: float, payload: bytes
    ) -> Callable[[Turn], Awaitable[int | bytes]]:
        """Give the write of how a step ended whose first attempt began at `begun`.

        That is by the loop's clock. The write is made in the turn that it is given.
        """

        def commit(turn: Turn) -> Awaitable[int | bytes]:
            self._journal.size += len(payload)
            entry = self._entry(turn.seq, kind, attempt, begun, payload)
            return self._runs.commit_step(self._owner, operation.key, entry)

        return commit

    async def attempt(
        self, operation: Operation, attempt: int, begun: float, payload: bytes, delay: float
    ) -> int | bytes:
        """Record a failed attempt; the next is due in `delay` seconds."""
        rest = self._rest(self._rounds.stamp(), attempt, begun, payload)
        milliseconds = round(delay * 1000)
        return await self._runs.commit_attempt(self._owner, operation.key, milliseconds, rest)

    async def heartbeat(self, about: CurrentStep) -> int | bytes:
        """Record that an attempt is under way, and what it said."""
        # One place in the order will do: an hour of heartbeats must not use up those of a round.
        about.seq = about.seq or self._rounds.stamp()
        payload = open_payload(about.failure, about.details)
        rest = self._rest(about.seq, about.attempt - 1, about.begun, payload)
        return await self._runs.heartbeat_step(self._owner, about.journal_key, rest)

    async def abandon(
        self, operation: Operation, turn: Turn, *, deliver_cancel: bool = False
    ) -> int | bytes:
        """Record that the handler gave up waiting for a step."""
        entry = self._entry(turn.seq, EntryKind.ABANDONED, 0, self._begun, b"")
        return await self._runs.abandon_step(
            self._owner, operation.key, entry, deliver_cancel=deliver_cancel
        )

    async def open_wait(
        self, operation: Operation, *, lasts: float | None = None, until_ms: int | None = None
    ) -> Any:
        """Record that the run waits so many seconds, or until that time of the server's clock."""
        rest = self._rest(self._rounds.stamp(), 0, self._loop.time(), b"")
        lasts_ms = None if lasts is None else milliseconds(lasts)
        return await self._runs.open_wait(
            self._owner, operation.key, rest, lasts_ms=lasts_ms, until_ms=until_ms
        )

    async def end_wait(
        self,
        operation: Operation,
        turn: Turn,
        kind: EntryKind,
        payload: bytes,
        *,
        begun: float,
        seen: int | None = None,
        woken: bool = False,
    ) -> Any:
        """Record that a wait is over which began at `begun`, by the loop's clock."""
        entry = self._entry(turn.seq, kind, 0, begun, payload)
        return await self._runs.end_wait(self._owner, operation.key, entry, seen=seen, woken=woken)

    async def consume(
        self,
        operation: Operation,
        turn: Turn,
        message: Message,
        kind: EntryKind,
        payload: bytes,
        *,
        begun: float,
    ) -> int | bytes:
        """Take a message into the journal, as the outcome of a wait."""
        self._journal.size += len(payload)
        entry = self._entry(turn.seq, kind, 0, begun, payload)
        return await self._runs.consume_message(self._owner, operation.key, entry, message.number)

    async def answer(
        self,
        operation: Operation,
        turn: Turn,
        kind: EntryKind,
        payload: bytes,
        told: bytes,
        *,
        begun: float,
    ) -> int | bytes:
        """Record the answer to an update, and tell it."""
        self._journal.size += len(payload)
        entry = self._entry(turn.seq, kind, 0, begun, payload)
        return await self._runs.answer_update(self._owner, operation.key, entry, told)

    async def consume_end(
        self, operation: Operation, turn: Turn, child_id: str, number: int, *, begun: float
    ) -> list[Any] | int | bytes:
        """Take the end of a child into the journal, as the outcome of a wait."""
        rest = self._rest(turn.seq, 0, begun, b"")
        answer: list[Any] | int | bytes = await self._children.consume_end(
            self._owner, operation.key, self.server_now(), rest, child_id,
            number=number, room=MAX_RUN_BYTES - self._journal.size,
        )  # fmt: skip
        if isinstance(answer, list) and len(answer) == _TAKEN:
            self._journal.size += len(answer[2])
        return answer

    async def start_children(
        self,
        operation: Operation,
        new: NewChild,
        some: Sequence[tuple[int, str, bytes]],
        *,
        strict: bool,
        wake_at: int,
    ) -> int | bytes:
        """Start some children of a map."""
        rest = self._rest(self._rounds.stamp(), 0, self._loop.time(), b"")
        return await self._children.start_children(
            self._owner, operation.key, rest, new, some, strict=strict, wake_at=wake_at
        )

    def entry(self, turn: Turn, kind: EntryKind, begun: float, payload: bytes) -> bytes:
        """Give a closed entry of something that was begun at this time of the loop's clock."""
        return self._entry(turn.seq, kind, 1, begun, payload)

    async def note(self, key: str, payload: bytes) -> int | bytes:
        """Record what the handler was told at once."""
        entry = self._entry(self._rounds.stamp(), EntryKind.NOTE, 0, self._begun, payload)
        return await self._runs.commit_step(self._owner, key, entry)

    def abandoned_entry(self) -> bytes:
        """Give the mark of an abandoned step; it tells how long this owner has run the run."""
        return self._entry(self._rounds.stamp(), EntryKind.ABANDONED, 0, self._begun, b"")

    def _entry(
        self, seq: int, kind: EntryKind, attempt: int, begun: float, payload: bytes
    ) -> bytes:
        rest = self._rest(seq, attempt, begun, payload)
        return closed_entry(kind, self._owner.token, self.server_now(), rest)

    def _rest(self, seq: int, attempt: int, begun: float, payload: bytes) -> bytes:
        spent = round((self._loop.time() - begun) * 1000)
        return entry_rest(seq, attempt, spent, self._label, payload)
