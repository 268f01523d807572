"""What a run asks of its actor."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any


class Steer(Enum):
    """What may be asked."""

    ENDED = auto()  # the handler returned or raised
    PARK = auto()
    RELEASE = auto()
    CONTINUE = auto()  # with a fresh journal, as new
    FENCED = auto()
    STALL = auto()
    OVERDUE = auto()  # the handler did not end after its cancel


class Steering:
    """One wish at a time: the first counts, and the second where a park is refused."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next: tuple[Steer, Any] | None = None
        self.wish: asyncio.Future[tuple[Steer, Any]] = self._loop.create_future()

    def ask(self, what: Steer, detail: Any = None) -> None:
        """Ask for something."""
        if not self.wish.done():
            self.wish.set_result((what, detail))
        elif self._next is None:
            self._next = (what, detail)

    def stall(self, reason: str) -> None:
        """Ask to be held, since the run must not go on as it is."""
        self.ask(Steer.STALL, reason)

    def begin_again(self) -> None:
        """Go on after a refusal."""
        self.wish = self._loop.create_future()
        if self._next is not None:
            self.wish.set_result(self._next)
            self._next = None
