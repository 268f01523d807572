"""An event loop of several processes in one, whose clock and whose order come from a seed.

Each simulated process, a `Node`, keeps asyncio's promise: what was to be called first is called
first. Which node goes on next is drawn. Time passes only when nobody has anything to do, and then
at once; so nobody waits in earnest, and the same seed gives the same order again.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, cast

from aiki.errors import RunCancelled
from tests.support.random_programs import FAILURES

BEGINNING = 1000.0
FOR_EVER = float("inf")


class Node:
    """A simulated process: what it has still to do. Frozen, it does nothing until then."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.frozen_until = 0.0

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let a coroutine be part of this process, and all that it begins."""
        context = copy_context()
        context.run(HERE.set, self)
        return asyncio.get_running_loop().create_task(coroutine, context=context)


HERE: ContextVar[Node | None] = ContextVar("HERE", default=None)


class _Task(asyncio.Task[Any]):
    """A task with a number, by which sets of tasks are in the same order each time."""

    made = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _Task.made += 1
        self._made = _Task.made
        super().__init__(*arguments, **options)

    def __hash__(self) -> int:
        return self._made


class SimulatedLoop(asyncio.BaseEventLoop):
    """Calls back one at a time. There are no sockets, threads or processes."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        _Task.made = 0
        self._rng = rng
        self._time = BEGINNING
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Node]] = []
        self._made = 0
        self._outside = Node("outside")
        self.nodes = [self._outside]
        self.turns = 0
        self.failure: BaseException | None = None
        """What a callback has raised; it ends everything."""
        self.set_exception_handler(self._fail)
        self.set_task_factory(cast("Any", _make_task))

    def add(self, name: str) -> Node:
        """Make another process."""
        node = Node(name)
        self.nodes.append(node)
        return node

    def time(self) -> float:
        """Tell the time, which stands still while anybody has something to do."""
        return self._time

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call back as the next but those before it in the same process."""
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        (context.get(HERE) or self._outside).ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back after so many seconds."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a time."""
        context = copy_context() if context is None else context
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        node = context.get(HERE) or self._outside
        heapq.heappush(self._timers, (when, self._made, timer, node))
        return timer

    def _fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, (*FAILURES, RunCancelled)):
            return  # of a branch that a handler has left, and nobody waits for
        known = isinstance(error, BaseException)
        self.failure = self.failure or (error if known else AssertionError(context["message"]))

    def _run_once(self) -> None:
        """Call back once. What is frozen is passed over, and keeps its order."""
        if self.failure is not None:
            raise self.failure
        self.turns += 1
        late: list[tuple[float, int, asyncio.TimerHandle, Node]] = []
        while self._timers and self._timers[0][0] <= self._time:
            timer = heapq.heappop(self._timers)
            if timer[3].frozen_until > self._time:
                late.append(timer)
            elif not timer[2].cancelled():
                timer[3].ready.append(timer[2])
        for when, number, handle, node in late:  # as if it had been for the end of the frost
            heapq.heappush(self._timers, (max(when, node.frozen_until), number, handle, node))
        awake = [each for each in self.nodes if each.ready and each.frozen_until <= self._time]
        if not awake:
            self._pass_time()
            return
        first = self._rng.choice(awake).ready.popleft()
        if not first.cancelled():
            first._run()

    def _pass_time(self) -> None:
        times = [each.frozen_until for each in self.nodes if each.ready]
        times += [self._timers[0][0]] if self._timers else []
        moment = min(times, default=FOR_EVER)
        assert moment < FOR_EVER, "nothing will ever happen any more"
        self._time = max(self._time, moment)


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Generator[Any, None, Any], **options: Any
) -> asyncio.Task[Any]:
    return _Task(coroutine, loop=loop, **options)
