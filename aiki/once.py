"""Tasks with `once=True`: equal calls in one run share the first one's outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from aiki.errors import TaskFailed


class Once:
    """The first call at each address."""

    def __init__(self) -> None:
        self._first: dict[str, asyncio.Future[Any]] = {}

    async def call(self, address: str, step: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Execute a step, or wait for the equal one before it and give what that gave.

        Where the one before was cancelled, nothing came of it, and the next is the first.
        """
        while (first := self._first.get(address)) is not None:
            await asyncio.wait([first])
            if not first.cancelled():
                return first.result()
        future = self._first[address] = asyncio.get_running_loop().create_future()
        try:
            value = await step()
        except TaskFailed as failed:
            future.set_exception(failed)
            future.exception()  # a second call may never come
            raise
        except BaseException:
            del self._first[address]
            future.cancel()
            raise
        future.set_result(value)
        return value
