"""Reading listings, newest first, a piece at a time.

A listing is a sorted set of run ids by time. Several are read together by merging them, each in
pieces, so what it costs depends on how far one reads and not on what is stored. Where one has got
to is a place, a time and an id, and what comes later stands before it: so what is read was not read
before, and what changes meanwhile is passed over.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from aiki.states import Status
from aiki.store.batch import Link

Place: TypeAlias = tuple[int, str]  # ms of the server's clock, run id

ACTIVE = "active"
FIRST_PIECE = 8
LARGEST_PIECE = 400

# Of equal times the greater id comes first, as the server has it.
_INVERTED = bytes(range(255, -1, -1))


def listed_as(status: Status) -> str:
    """Name the index of a status: queued and running runs, which change places often, have one."""
    return ACTIVE if status in (Status.QUEUED, Status.RUNNING) else status.value


class Source(Protocol):
    """What gives places, newest first."""

    async def piece(self) -> list[Place]:
        """Give the next ones; an empty list at the end."""
        ...


class Places:
    """Places that are known already."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = sorted(places, reverse=True)

    async def piece(self) -> list[Place]:
        """Give all of them, once."""
        places, self._places = self._places, []
        return places


class Index:
    """One sorted set, from its newest entry back to a time."""

    def __init__(self, link: Link, key: str, since: int | None) -> None:
        self._link = link
        self._key = key
        self._oldest = "-inf" if since is None else str(since)
        self._size = FIRST_PIECE
        self._last: Place | None = None
        self._is_done = False

    async def piece(self) -> list[Place]:
        """Read the next ones, more each time."""
        skipped = 0
        while not self._is_done:
            newest = "+inf" if self._last is None else str(self._last[0])
            reply = await self._link.send((
                "ZRANGE", self._key, newest, self._oldest, "BYSCORE", "REV",
                "LIMIT", str(skipped), str(self._size), "WITHSCORES",
            ))  # fmt: skip
            pairs = zip(reply[::2], reply[1::2], strict=True)
            found = [(int(float(score)), run_id.decode()) for run_id, score in pairs]
            self._is_done = len(found) < self._size
            skipped += len(found)
            self._size = min(2 * self._size, LARGEST_PIECE)
            # Many may have the time of the last one, some of which were given before.
            new = [place for place in found if self._last is None or place < self._last]
            if new:
                self._last = new[-1]
                return new
        return []


class Reading:
    """Several sources as one, newest first."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources
        self._heap: list[tuple[int, bytes, int]] = []
        self._left = [0] * len(sources)  # of the piece that was read last
        self._begun = False

    async def next(self, count: int) -> list[str]:
        """Give the next ids; fewer than asked for at the end."""
        if not self._begun:
            self._begun = True
            pieces = await asyncio.gather(*(source.piece() for source in self._sources))
            for number, places in enumerate(pieces):
                self._add(number, places)
        ids: list[str] = []
        while self._heap and len(ids) < count:
            _, inverted, number = heapq.heappop(self._heap)
            ids.append(inverted.translate(_INVERTED).decode())
            self._left[number] -= 1
            if not self._left[number]:
                self._add(number, await self._sources[number].piece())
        return ids

    def _add(self, number: int, places: list[Place]) -> None:
        self._left[number] = len(places)
        for time, run_id in places:
            heapq.heappush(self._heap, (-time, run_id.encode().translate(_INVERTED), number))
