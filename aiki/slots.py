"""The free slots of a worker, and whose turn it is to fill them.

Each partition of a store is read by itself, and none knows what is ready in the others. So who
reads takes a share of what is free for as long as it reads, in the order of asking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Slots:
    """Free slots, lent to those who read for them; a run that is hosted counts by itself."""

    def __init__(self, free: Callable[[], int], readers: int) -> None:
        self._free = free
        self._readers = readers
        self._lent = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def left(self) -> int:
        """How many are free, and lent to nobody."""
        return self._free() - self._lent

    @property
    def are_shared(self) -> bool:
        """Whether several read for them."""
        return self._readers > 1

    @property
    def are_open(self) -> bool:
        """Whether what was lent may still be filled: not where the worker has been paused since."""
        return self._free() > 0

    async def take(self) -> int:
        """Wait for a turn and take a share, which is to be given back: all, for one reader."""
        while self._queue or self.left <= 0:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._queue.remove(turn)
                self.changed()  # it may have been told, and others wait
                raise
            self._queue.remove(turn)
            if self.left > 0:
                break
        share = max(1, self.left // self._readers)
        self._lent += share
        self.changed()
        return share

    def try_take(self) -> bool:
        """Take one, if there is one."""
        if self.left <= 0:
            return False
        self._lent += 1
        return True

    def give_back(self, count: int) -> None:
        """Let others have what was taken."""
        self._lent -= count
        self.changed()

    def changed(self) -> None:
        """Look whether whoever waits longest has its turn."""
        if self._queue and self.left > 0 and not self._queue[0].done():
            self._queue[0].set_result(None)
