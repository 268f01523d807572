"""Waiting for what another task, thread or process does, without guessing how long it takes."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Between two looks: short beside what is waited for, long enough to leave the others the cores.
PAUSE = 0.01


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], deadline: float = ..., what: str = ...
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], deadline: float = ..., what: str = ...) -> T: ...
async def eventually(predicate: Callable[[], Any], deadline: float = 60.0, what: str = "") -> Any:
    """Return the first true value of `predicate`, which may be a coroutine function.

    Looks every 10 ms, and once more when `deadline` seconds are over. Then it raises
    AssertionError, with the last value and `what` was waited for.
    """
    over = time.monotonic() + deadline
    while True:
        last_look = time.monotonic() >= over
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if last_look:
            name = what or getattr(predicate, "__name__", repr(predicate))
            raise AssertionError(f"not within {deadline} s: {name} (last seen: {value!r})")
        await asyncio.sleep(PAUSE)


async def after_a_cancel(work: Awaitable[T]) -> T:
    """Wait for something in a task that has been cancelled, as whoever cleans up does."""

    async def clean_up() -> T:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await work
        raise AssertionError("the event is never set")

    task = asyncio.create_task(clean_up())
    await asyncio.sleep(0)
    task.cancel()
    return await task
