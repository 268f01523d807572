"""Children in the store: runs that belong to another run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiki.records import Ownership
from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS

_START = SCRIPTS["start_child"].sha
_START_SOME = SCRIPTS["start_children"].sha
_CONSUME = SCRIPTS["consume_end"].sha
_CASCADE = SCRIPTS["cascade"].sha
_CANCEL = SCRIPTS["request_cancel"].sha

BATCH = 100


@dataclass(frozen=True, slots=True)
class NewChild:
    """What a child is a run of, and what becomes of it when its parent ends."""

    workflow: str
    version: str
    pool: str
    more: str
    policy: str


class Children:
    """What an owner does with the children of its run, in one partition."""

    def __init__(self, link: Link, base: str) -> None:
        self._link = link
        self._send = link.send
        self._base = base

    async def start_child(  # noqa: PLR0917 - six facts about one child
        self, owner: Ownership, key: str, entry: bytes, child_id: str, new: NewChild, payload: bytes
    ) -> int | bytes:
        """Start a child and record that: flags, or the word why not."""
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
        reply: int | bytes = await self._send((
            "EVALSHA", _START_SOME, "1", self._base, owner.run_id, owner.token, key, rest,
            "1" if strict else "0", str(wake_at), new.policy, new.workflow, new.version, new.pool,
            new.more, *(part for index, name, given in some for part in (str(index), name, given)),
        ))  # fmt: skip
        return reply

    async def consume_end(
        self, owner: Ownership, key: str, written: int, rest: bytes, child_id: str, *,
        number: int, room: int,
    ) -> Any:  # fmt: skip
        """Take a child's end into the journal: flags, status and outcome; or the word why not."""
        return await self._send((
            "EVALSHA", _CONSUME, "1", self._base, owner.run_id, owner.token, key, str(written),
            rest, child_id, str(number), str(room),
        ))  # fmt: skip

    async def read_map(self, run_id: str, key: str) -> dict[int, str]:
        """Read how the children of a map stand: by index `s`, `co`, `fa` or `ca`."""
        flat = await self._send(("HGETALL", f"{self._base}run:{run_id}:map:{key}"))
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return {int(index): word.decode() for index, word in pairs if index.isdigit()}

    async def outcomes(self, child_ids: Sequence[str]) -> list[tuple[Status, bytes] | None]:
        """Read how children ended; None of one that is not over or not there."""
        fields = ("status", "result", "failure")
        asked = [self._send(("HMGET", f"{self._base}run:{each}", *fields)) for each in child_ids]
        found: list[tuple[Status, bytes] | None] = []
        for status, result, failure in await asyncio.gather(*asked):
            over = None if status in (None, b"deleted") else Status(status.decode())
            outcome = result if over is Status.COMPLETED else failure
            found.append((over, outcome or b"") if over is not None and over.is_final else None)
        return found

    async def cancel(self, child_ids: Sequence[str], reason: str) -> None:
        """Ask children to end."""
        asked = [
            self._send(("EVALSHA", _CANCEL, "1", self._base, each, reason)) for each in child_ids
        ]
        await asyncio.gather(*asked)

    async def cascade(self) -> int:
        """Let children of runs that are over end too: how many were looked at, of one parent."""
        return int(await self._send(("EVALSHA", _CASCADE, "1", self._base, str(BATCH))))
