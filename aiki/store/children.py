"""Children in the store: runs that belong to another run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiki.errors import DataError, StoreRefused
from aiki.records import Ownership
from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import END, INPUT, PLAIN, Seals

_START = SCRIPTS["start_child"].sha
_START_SOME = SCRIPTS["start_children"].sha
_CONSUME = SCRIPTS["consume_end"].sha
_CASCADE = SCRIPTS["cascade"].sha
_CANCEL = SCRIPTS["request_cancel"].sha

BATCH = 100
_TAKEN = 3  # parts of the answer to who has taken an end


@dataclass(frozen=True, slots=True)
class NewChild:
    """What a child is a run of, and what becomes of it when its parent ends."""

    workflow: str
    version: str
    pool: str
    more: str
    policy: str


@dataclass(frozen=True, slots=True)
class MapState:
    """How the children of a map stand: how many are started and have ended, and which failed."""

    started: int
    ended: int
    first_failed: int | None


class Children:
    """What an owner does with the children of its run, in one partition."""

    def __init__(self, link: Link, base: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._send = link.send
        self._base = base
        self._seals = seals

    async def start_child(  # noqa: PLR0917 - six facts about one child
        self, owner: Ownership, key: str, entry: bytes, child_id: str, new: NewChild, payload: bytes
    ) -> int | bytes:
        """Start a child and record that: flags, or the word why not."""
        if self._seals.is_on:
            entry = self._seals.entry(owner.bound_to, key, entry)
            payload = self._seals.payload(payload, child_id, INPUT)
        reply: int | bytes = await self._send((
            "EVALSHA", _START, "1", self._base, owner.run_id, owner.token, key, entry, child_id,
            new.policy, new.workflow, new.version, new.pool, payload, new.more,
        ))  # fmt: skip
        return reply

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
        """Start some children of a map, each an index, an id and an input: flags, or the word."""
        if self._seals.is_on:
            some = [
                (index, name, self._seals.payload(given, name, INPUT))
                for index, name, given in some
            ]
        reply: int | bytes = await self._send((
            "EVALSHA", _START_SOME, "1", self._base, owner.run_id, owner.token, key, rest,
            "1" if strict else "0", str(wake_at), new.policy, new.workflow, new.version, new.pool,
            new.more, *(part for index, name, given in some for part in (str(index), name, given)),
        ))  # fmt: skip
        return reply

    async def consume_end(
        self, owner: Ownership, key: str, written: int, rest: bytes, child_id: str, *,
        number: int, room: int,
    ) -> list[Any] | int | bytes:  # fmt: skip
        """Take a child's end into the journal: flags, status and outcome; or the word why not.

        Raises `UnknownKey` and `Tampered`, once that is done.
        """
        answer: list[Any] | int | bytes = await self._send((
            "EVALSHA", _CONSUME, "1", self._base, owner.run_id, owner.token, key, str(written),
            rest, child_id, str(number), str(room),
        ))  # fmt: skip
        if isinstance(answer, list) and len(answer) == _TAKEN and answer[1] != b"cancelled":
            answer[2] = self._seals.opened(answer[2], child_id, END)
        return answer

    async def read_map(self, run_id: str, key: str) -> MapState:
        """Read how the children of a map stand.

        Raises:
            DataError: that is damaged.
        """
        command = ("HMGET", self._map(run_id, key), "started", "ended", "first")
        try:
            started, ended, first = await self._send(command)
            return MapState(int(started or 0), int(ended or 0), int(first) if first else None)
        except (StoreRefused, ValueError) as error:
            raise DataError(f"a map is damaged: {error}") from None

    async def still_mapped(self, run_id: str, key: str) -> list[int]:
        """Name the children of a map that are started and not over, by their index."""
        state = await self.read_map(run_id, key)
        ended = {int(field) for field in await self._send(("HKEYS", self._map(run_id, key)))
                 if field.isdigit()}  # fmt: skip
        return [number for number in range(state.started) if number not in ended]

    async def outcomes(self, child_ids: Sequence[str]) -> list[tuple[Status, bytes] | None]:
        """Read how children ended; None of one that is not over or not there.

        Raises:
            DataError: a record is damaged, or cannot be opened.
        """
        fields = ("status", "result", "failure")
        asked = [self._send(("HMGET", f"{self._base}run:{each}", *fields)) for each in child_ids]
        found: list[tuple[Status, bytes] | None] = []
        try:
            for child, reply in zip(child_ids, await asyncio.gather(*asked), strict=True):
                status, result, failure = reply
                over = None if status in (None, b"deleted") else Status(status.decode())
                outcome = (result if over is Status.COMPLETED else failure) or b""
                if over is None or not over.is_final:
                    found.append(None)
                elif over is Status.CANCELLED:
                    found.append((over, outcome))
                else:
                    found.append((over, self._seals.opened(outcome, child, END)))
        except (StoreRefused, ValueError) as error:
            raise DataError(f"a child is damaged: {error}") from None
        return found

    async def cancel(self, child_ids: Sequence[str], reason: str) -> None:
        """Ask children to end; one whose keys are damaged cannot be asked."""
        asked = [
            self._send(("EVALSHA", _CANCEL, "1", self._base, each, reason)) for each in child_ids
        ]
        for answer in asked:
            with contextlib.suppress(StoreRefused):
                await answer

    async def cascade(self) -> int:
        """Let children of a run that is over end too: how many such runs are left."""
        return int(await self._send(("EVALSHA", _CASCADE, "1", self._base, str(BATCH))))

    def _map(self, run_id: str, key: str) -> str:
        return f"{self._base}run:{run_id}:map:{key}"
