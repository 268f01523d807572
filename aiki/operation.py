"""What a handler waits for, what its run asks of its actor, and what a worker lends to a run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NoReturn

from aiki.records import Entry
from aiki.rounds import Turn
from aiki.states import Status
from aiki.step import AroundTask
from aiki.store.children import Children
from aiki.store.control import Control
from aiki.store.mailbox import Mailbox
from aiki.store.runs import Runs
from aiki.store.streams import Streams
from aiki.threads import LentThreads

# Of all that a run waits for, what its status names
PARKS_AS = (
    Status.AWAITING_EVENT,
    Status.AWAITING_CHILD,
    Status.SLEEPING,
    Status.AWAITING_RETRY,
)
TOLD = 10  # of the waits of a parked run, which may be thousands


class State(Enum):
    """Where an operation is."""

    HELD = auto()
    """New, and must not run yet: recorded outcomes are unconsumed, or the run is about to be
    parked, handed back or cancelled."""
    EXECUTING = auto()
    COMMITTING = auto()
    """Its outcome is on its way to the store."""
    WAITING = auto()
    """For a time, or for what comes from outside."""
    RECORDED = auto()
    """Its outcome is in the store, and given in its turn."""
    REPLAYING = auto()
    """Its outcome was recorded before, and is given in its turn."""
    FETCHING = auto()
    """As above, but the store has yet to say what it is."""
    ABANDONING = auto()
    """Given up, which is on its way to the store."""
    ABANDONED = auto()
    """Given up before, as is recorded; it never completes."""
    POINT = auto()
    """The cancel is delivered here."""


@dataclass(frozen=True, slots=True)
class Host:
    """What a worker lends to the runs it hosts."""

    runs: Runs
    control: Control
    mailbox: Mailbox
    mailbox_of: Callable[[str], Mailbox]
    """Where a message to any other run goes, by its id."""
    streams: Streams
    children: Children
    threads: LentThreads
    label: str
    inline_wait: float
    divergence_after: float
    cancel_grace: float
    suspend_always: bool
    is_leased: Callable[[], bool]
    has_room: Callable[[], bool]
    interrupt: Callable[[BaseException], None]
    recycle: Callable[[str], None]
    is_draining: Callable[[], bool]
    around_task: tuple[AroundTask, ...] = ()


class Operation:
    """One thing that the handler waits for: a step, a sleep, an event."""

    __slots__ = (
        "cancelling", "coming", "entry", "is_aside", "key", "parks_as", "state", "task", "turn",
        "until",
    )  # fmt: skip

    def __init__(
        self, key: str, entry: Entry | None, task: asyncio.Task[Any], *, is_aside: bool = False
    ) -> None:
        self.key = key
        self.entry = entry
        self.is_aside = is_aside  # of the library's own, beside what the handler waits for
        self.task = task
        self.cancelling = task.cancelling()  # cancellations that were there before this step
        self.state = State.HELD
        self.until = 0.0
        self.coming: asyncio.Future[Any] | None = None  # what it waits for, beside a time
        self.parks_as = Status.AWAITING_RETRY
        self.turn: Turn | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the handler has cancelled the task that waits for this step."""
        return self.task.cancelling() > self.cancelling

    def waits_beyond(self, moment: float) -> bool:
        """Tell whether it waits for a time later than this one of the loop's clock.

        Not where what it waits for has come, or a cancellation: it is about to go on, though it
        did not have its turn of the loop yet.
        """
        if self.state is not State.WAITING or self.until <= moment or self.is_cancelled:
            return False
        return self.coming is None or not self.coming.done()


class Operations:
    """All operations that a handler waits for, and the waiting itself."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.is_closed = False
        self._by_key: dict[str, Operation] = {}
        self._held: list[asyncio.Future[None]] = []
        self._stuck: set[asyncio.Task[Any]] = set()
        # By the task whose cancellation is still to come, what it met
        self._owed: dict[asyncio.Task[Any], Operation] = {}

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._by_key.values())

    def __contains__(self, operation: Operation) -> bool:
        return self._by_key.get(operation.key) is operation

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, operation: Operation) -> None:
        """Note that the handler waits for one more."""
        self._by_key[operation.key] = operation
        met = self._owed.get(operation.task) if self._owed else None
        if met is not None and met.is_cancelled:  # and nobody has taken it back since
            operation.cancelling -= 1

    def cancel_again(self, operation: Operation) -> None:
        """Let a cancellation go on that met an operation whose outcome was recorded already.

        It does not undo the outcome, but comes right after it, as if a moment later.
        """
        self._owed[operation.task] = operation
        self._loop.call_soon(self._pay, operation)

    def remove(self, operation: Operation) -> None:
        """Note that it waits no more."""
        del self._by_key[operation.key]

    def some_are(self, *states: State) -> bool:
        """Tell whether any that is the handler's is in one of these states."""
        return any(
            operation.state in states and not operation.is_aside
            for operation in self._by_key.values()
        )

    def all_wait_beyond(self, moment: float) -> bool:
        """Tell whether each waits for a time later than this one of the loop's clock."""
        return all(operation.waits_beyond(moment) for operation in self._by_key.values())

    def parking(self) -> tuple[Status, list[str], list[str]] | None:
        """Give as what a run is parked: its status, what is told of it, and whose times count.

        None where nothing that we see is waited for by the handler itself.
        """
        asked_for = [operation for operation in self if not operation.is_aside]
        kinds = {operation.parks_as for operation in asked_for}
        waits = [operation.key for operation in asked_for]
        timed = [operation.key for operation in asked_for if operation.until < math.inf]
        if len(waits) > TOLD:
            waits[TOLD:] = [f"and {len(waits) - TOLD:,} more"]
        status = next((status for status in PARKS_AS if status in kinds), None)
        return None if status is None else (status, waits, timed)

    def unrecorded(self) -> list[Operation]:
        """Give those of which the journal does not say how they ended."""
        recorded = (
            State.RECORDED, State.REPLAYING, State.FETCHING, State.ABANDONING, State.ABANDONED,
            State.POINT,
        )  # fmt: skip
        return [
            operation
            for operation in self
            if operation.state not in recorded and not operation.is_aside
        ]

    def unfinished_tasks(self) -> list[asyncio.Task[Any]]:
        """Give the tasks that wait for an operation, or for ever."""
        tasks = {operation.task for operation in self} | self._stuck
        return [task for task in tasks if not task.done()]

    def describe(self) -> list[dict[str, object]]:
        """Say what the handler waits for."""
        return [{"step": each.key, "state": each.state.name.lower()} for each in self]

    async def hold(self, operation: Operation) -> None:
        """Wait for the next `release`."""
        operation.state = State.HELD
        future = self._loop.create_future()
        self._held.append(future)
        await future

    def release(self) -> None:
        """Let those that are held look again whether they may start."""
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)

    async def until_cancelled(self) -> NoReturn:
        """Wait until the task is cancelled."""
        await self._loop.create_future()
        raise AssertionError("a future that nobody holds was resolved")

    async def never(self) -> NoReturn:
        """Wait until the run is left, whatever the handler cancels meanwhile."""
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - a coroutine of a handler runs in a task
        if self.is_closed:
            # Nobody looks after it any more. The pause is for who swallows this, again and again.
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError
        self._stuck.add(task)
        try:
            while True:
                try:
                    await self.until_cancelled()
                except asyncio.CancelledError:
                    if self.is_closed:
                        raise
        finally:
            self._stuck.discard(task)

    def _pay(self, operation: Operation) -> None:
        self._owed.pop(operation.task, None)
        if operation.is_cancelled and not operation.task.done():
            operation.task.uncancel()
            operation.task.cancel()
