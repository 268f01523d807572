"""The lifespans of one worker, from before its first claim until after its last run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack
from typing import Any

from aiki.context import Lifespan, provide

_logger = logging.getLogger("aiki.worker")


class Lifespans:
    """Enters and leaves them in a task of their own, as those must be that hold cancel scopes."""

    def __init__(self, lifespans: Iterable[Lifespan[Any]], label: str) -> None:
        self._lifespans = list(dict.fromkeys(lifespans))  # in the order of their naming
        self._label = label
        self._context: contextvars.Context | None = None
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Enter them one after the other; raises what the first one raises that cannot be."""
        if not self._lifespans:
            return
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = f"aiki lifespans {self._label}"
        self._task = task = asyncio.create_task(self._hold(opened), name=name)
        try:
            await asyncio.wait([opened, task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if not opened.done():
            self._task = None
            task.result()  # raises

    async def close(self) -> None:
        """Leave them in the opposite order. What they raise then is logged."""
        task, self._task = self._task, None
        if task is not None:
            self._end.set()
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                _logger.error(
                    "a lifespan of worker %s failed at its end", self._label, exc_info=error
                )

    def context(self) -> contextvars.Context | None:
        """Give a new context in which their values are found; None where any context will do."""
        return None if self._context is None else self._context.copy()

    async def _hold(self, opened: asyncio.Future[None]) -> None:
        async with AsyncExitStack() as stack:
            for lifespan in self._lifespans:
                provide(lifespan, await stack.enter_async_context(lifespan.open()))
            self._context = contextvars.copy_context()
            opened.set_result(None)
            await self._end.wait()
