"""Whether a handler has made tasks beside itself, its branches.

While it repeats what is recorded, branches that were just made must have their turns of the loop
before the handler is given the next outcome, or they would ask for their steps later than they
did. A handler that has none need not be kept waiting for them, turn by turn and step by step. That
it has none is known where all tasks of the loop are made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Branches:
    """What is known of the branches of one handler."""

    __slots__ = ("are_possible",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.are_possible = loop.get_task_factory() is not make_task
        """Whether it may have some: it has made a task, or tasks are made by somebody else."""

    def watch(self) -> None:
        """Look from now on at what the calling task makes, and what that makes."""
        _watched.set(self)


_watched: ContextVar[Branches | None] = ContextVar("aiki_branches", default=None)


def make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
    /,
    **options: Any,
) -> asyncio.Task[T]:
    """Make a task, and note it where its maker is watched: a task factory for an event loop."""
    branches = _watched.get()
    if branches is not None:
        branches.are_possible = True
    return asyncio.Task(coroutine, loop=loop, **options)
