"""Conditions that a handler waits for: looked at whenever something of its run may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiki.rounds import SETTLE_TURNS


class Conditions:
    """The conditions of one run. What makes one true is code of the run, so nothing is polled."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Future[None], Callable[[], object]] = {}
        self._turns = 0
        self._looking: asyncio.Handle | None = None

    def add(self, condition: Callable[[], object]) -> asyncio.Future[None]:
        """Give a future that is done once it is true; it has what the condition raises."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[future] = condition
        future.add_done_callback(lambda done: self._waiting.pop(done, None))
        self.check()
        return future

    def look(self) -> None:
        """Look in the next turns: code that was just given something needs some to react."""
        if self._waiting:
            self._turns = SETTLE_TURNS
            if self._looking is None:
                self._looking = self._loop.call_soon(self._look)

    def check(self) -> None:
        """Look now."""
        for future, condition in list(self._waiting.items()):
            if future.done():
                continue
            try:
                is_true = condition()
            except Exception as error:  # noqa: BLE001 - of the handler, who gets it
                future.set_exception(error)
            else:
                if is_true:
                    future.set_result(None)

    def stop(self) -> None:
        """Look no more."""
        self._waiting.clear()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        self._looking = None
        self.check()
        self._turns -= 1
        if self._turns > 0 and self._waiting:
            self._looking = self._loop.call_soon(self._look)
