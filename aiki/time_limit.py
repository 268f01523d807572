"""A time limit that holds also in a task that was cancelled before, such as one that cleans up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncGenerator[asyncio.Timeout]:
    """Raise `TimeoutError` where the block takes longer; without `seconds`, until rescheduled.

    It is `asyncio.timeout`, which early releases of Python 3.11 (Debian 12 has one) let end with
    the cancel of its own where the task had been cancelled before.
    """
    before = _cancels()
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            yield timeout
    except asyncio.CancelledError:
        if timeout.expired() and _cancels() <= before:
            raise TimeoutError from None
        raise


def _cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
