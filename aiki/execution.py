"""What a run does with its operations: take, hold, give up, cancel, and leave.

An operation is whatever a handler waits for: a step, a sleep, an event. What it does meanwhile is
told in `attempts.py` and `waits.py`, and how its outcome is recorded in `recording.py`; how it
begins and is given up is the same for all and told here.

Nothing that steers a run is raised inside its handler, a person's cancel excepted: an
operation that has to wait stays pending, and one that must not go on (the run is parked, handed
back or fenced) never returns. The actor then cancels the handler and ignores its outcome.
Store failures do not reach a handler either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn, TypeVar

from aiki.answers import Answers
from aiki.asked import Asked
from aiki.errors import DataError
from aiki.mail import is_asked
from aiki.notes import Notes
from aiki.operation import Host, Operation, State
from aiki.recording import Recording
from aiki.records import ClaimedRun, Entry, EntryKind
from aiki.replay import Replay
from aiki.rounds import SETTLE_TURNS, Turn
from aiki.states import Status
from aiki.steering import Steer

PARK_AFTER = 0.01  # lets a handler that was just given something ask for its next step
# What repeating a step costs, about: a run that was just given something stays for as long as it
# would take to repeat, where nobody wants its place. So it is not repeated for each of many ends.
PARK_AFTER_EACH = 1e-4
PARK_AGAIN = 1.0  # after the store said to stay: what it saw comes to us meanwhile
LEASE_LOOK = 0.05  # seconds between two looks whether the lease is known to be ours again

T = TypeVar("T")


class Execution(Recording):
    """One owner's execution of one run."""

    def __init__(self, claimed: ClaimedRun, host: Host, asked: Mapping[str, Asked]) -> None:
        super().__init__(claimed, host, asked)
        self.notes = Notes(self._journal, self.commits)
        self._cancel_at = claimed.cancel_at
        self._cancel_wanted = claimed.cancel is not None and claimed.cancel_at is None
        self.cancel_delivered = False
        self._delivering: asyncio.Task[None] | None = None
        self._suspending = False
        self._park_check: asyncio.Handle | None = None
        self._quiet = 0  # turns of the loop, seen by the look whether to park
        self._given_at = 0.0  # when the handler was last given something
        self._answers: Answers | None = None
        self._replay: Replay | None = None
        if claimed.journal:
            self._rounds.on_replayed = self._go_on
            self._replay = Replay(
                self._journal,
                self._rounds,
                self._operations,
                divergence_after=host.divergence_after,
                on_diverged=self.steering.stall,
            )

    # For the actor

    def begin(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Start the handler; `steering` tells what comes of it."""
        name = f"aiki run {self.owner.run_id}"
        self._handler = self.loop.create_task(self._handle(handler), name=name)
        if is_asked(self._known_news.mail):
            self.look_for_questions()

    def steer_again(self) -> None:
        """Go on after a park that the store refused."""
        self.steering.begin_again()
        self.news.look()
        self._go_on()
        self.check_park_later(after=PARK_AGAIN)

    def suspend(self) -> None:
        """Start nothing more; ask to be handed back once nothing executes."""
        self._suspending = True
        self._check_suspend()

    def cancel_requested(self) -> None:
        """Deliver a person's cancel at the next point where it can be recorded."""
        if self._cancel_wanted or self._cancel_at is not None or self.is_closed:
            return
        self._cancel_wanted = True
        self._meet_cancel()

    def abandoned_by_finish(self) -> list[tuple[str, bytes]]:
        """Give the journal entries for steps that are pending when the handler ends."""
        return [
            (operation.key, self.commits.abandoned_entry())
            for operation in self._operations.unrecorded()
        ]

    async def close(self) -> bool:
        """Let no operation write or return any more, and end the handler.

        Returns whether it ended: it may catch each cancellation and go on.
        """
        self.is_closed = self._operations.is_closed = True
        self._rounds.stop()
        parts = (self._replay, self._news, self._publisher, self._answers, self._conditions)
        for part in parts:
            if part is not None:
                part.stop()
        self.notes.close()
        for pending in (self._park_check, self._delivering):
            if pending is not None:
                pending.cancel()
        for attempt in range(100):
            left = self._operations.unfinished_tasks()
            if self._handler is not None and not self._handler.done():
                left.append(self._handler)
            if not left:
                # They refer to the run: a cycle otherwise
                self._handler = self._news = self._answers = None
                return True
            for task in left:
                task.cancel()
            await asyncio.sleep(0 if attempt < 10 else 0.01)  # noqa: PLR2004 - at once, then patient
        return False

    def describe(self) -> list[dict[str, object]]:
        """Say what the handler waits for."""
        return self._operations.describe()

    # For the run

    @property
    def is_replaying(self) -> bool:
        """Whether recorded steps are still to be repeated."""
        return self._rounds.has_recorded or self._journal.is_repeated

    def look_for_questions(self) -> None:
        """Answer what is asked of the run, now or once nothing is repeated any more."""
        if self._answers is None:
            self._answers = Answers(
                self.owner,
                self.asked,
                self.host.mailbox,
                mail=lambda: self.news.mail,
                state=self.state,
                is_ready=lambda: not (self._rounds.is_replaying or self.is_closed),
                written=self.written,
            )
        self._answers.look()

    @property
    def is_cancelled(self) -> bool:
        """Whether the handler has met a cancel, in this life or before."""
        return self.cancel_delivered or self._cancel_at is not None

    # The handler

    async def _handle(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        result, error = None, None
        self._rounds.branches.watch()
        try:
            result = await handler()
        except KeyboardInterrupt as caught:
            self.host.interrupt(caught)
            self.steering.ask(Steer.RELEASE)
            return
        except BaseException as caught:
            if self.is_closing(caught, self._handler):
                raise
            error = caught  # whatever it is, it is the run's outcome
        if not self.is_closed:
            self.steering.ask(Steer.ENDED, (result, error))

    def is_closing(self, error: BaseException, task: asyncio.Task[Any] | None) -> bool:
        """Tell a GeneratorExit that ends a coroutine from one that its own code raised."""
        return isinstance(error, GeneratorExit) and asyncio.current_task(self.loop) is not task

    # One operation

    async def operate(
        self,
        address: str,
        perform: Callable[[Operation], Awaitable[T]],
        read: Callable[[Entry], T],
        *,
        fetch: Callable[[str, Entry], Awaitable[None]] | None = None,
        is_aside: bool = False,
    ) -> T:
        """Give the recorded outcome of an operation, or perform it and record the outcome.

        `read` makes of a closed entry what `perform` gave, or raises what it raised; where it
        raises `DataError`, the code does not fit what is recorded. `fetch` reads before what a
        recorded result does not hold itself. One that `is_aside` is none of the handler's: no
        cancel meets it, and it is no reason to park.
        """
        if self.is_closed:
            await self._operations.never()
        # Told the loop, it need not look for it, which costs a system call on Python 3.11
        task = asyncio.current_task(self.loop)
        assert task is not None  # noqa: S101 - the run checked that it is on the loop
        key, entry = self._journal.take(address)
        operation = Operation(key, entry, task, is_aside=is_aside)
        self._operations.add(operation)
        self._quiet = 0
        self._rounds.asked(in_branch=task is not self._handler)
        if self._conditions is not None:
            self._conditions.look()
        if self._replay is not None:
            self._replay.asked()
        try:
            if self._replay is not None and entry and entry.kind is not EntryKind.OPEN:
                return await self._recorded(self._replay, operation, entry, read, fetch)
            return await perform(operation)
        except asyncio.CancelledError:
            if not self.is_closed:
                await self._abandon(operation)
            raise
        finally:
            self._operations.remove(operation)
            self._quiet = 0
            self._given_at = self.loop.time()
            if self._conditions is not None:
                self._conditions.look()
            if self._suspending:
                self._check_suspend()
            elif self._operations and not self.is_closed:
                self.check_park_later()

    async def _recorded(
        self,
        replay: Replay,
        operation: Operation,
        entry: Entry,
        read: Callable[[Entry], T],
        fetch: Callable[[str, Entry], Awaitable[None]] | None,
    ) -> T:
        turn = operation.turn = self._rounds.recorded(
            operation.key, is_alone=self._is_alone(operation)
        )
        if entry.kind is EntryKind.ABANDONED and operation.key != self._cancel_at:
            operation.state = State.ABANDONED
            replay.watch()
            await self._operations.until_cancelled()
        if entry.kind is EntryKind.ABANDONED:
            operation.state = State.POINT
            self._delivering = self.loop.create_task(self._give_cancel(operation, turn))
            await self._operations.until_cancelled()
        is_late = False
        try:
            if fetch is not None and entry.kind is EntryKind.RESULT:
                operation.state = State.FETCHING
                fetching = asyncio.ensure_future(fetch(operation.key, entry))
                await self._outlast(fetching)
                is_late = operation.is_cancelled
                fetching.result()
            operation.state = State.REPLAYING
            if await self._rounds.come(turn, is_final=True) or is_late:
                self._operations.cancel_again(operation)
            return read(entry)
        except DataError as error:
            self.steering.stall(
                f"What is recorded of {operation.key} no longer fits the code: {error}"
            )
            await self._operations.never()

    async def end_branches(self) -> None:
        """Cancel what the handler has left under way beside itself, and wait for its end."""
        while tasks := {each.task for each in self._operations if not each.is_aside} - {
            self._handler
        }:
            for task in tasks:
                if not task.cancelling():  # one that cleans up already is let do so
                    task.cancel()
            await asyncio.wait(tasks)

    async def until_cancelled(self) -> NoReturn:
        """Let an operation wait for the cancellation that is on its way."""
        await self._operations.until_cancelled()

    async def never(self) -> NoReturn:
        """Let an operation wait until the run is left."""
        await self._operations.never()

    def wait_begins(
        self,
        operation: Operation,
        until: float,
        parks_as: Status,
        coming: asyncio.Future[Any] | None = None,
    ) -> None:
        """Note that an operation waits for a time of the loop's clock, which may be infinite.

        `coming` is what may end it before. Done, it keeps the run from being parked: who waits
        takes some turns to hear of it, and the store counts it as seen already.
        """
        operation.state = State.WAITING
        operation.coming = coming
        operation.until = until
        operation.parks_as = parks_as
        if self._suspending:
            self._check_suspend()
        elif until - self.loop.time() > self.host.inline_wait:
            self.check_park_later()
        self._meet_cancel()

    async def works(self, operation: Operation) -> None:
        """Note that an operation goes on after a wait: the run cannot be parked meanwhile."""
        if self.is_closed or operation.state is State.POINT:
            await self._operations.until_cancelled()
        operation.state = State.COMMITTING

    async def given_up(self, operation: Operation) -> NoReturn:
        """Let an operation wait that executes no more: a drain does not wait for it."""
        operation.state = State.HELD
        if self._suspending:
            self._check_suspend()
        await self._operations.never()

    async def may_start(self, operation: Operation) -> None:
        """Wait until a new effect is allowed."""
        while True:
            if operation.state is State.POINT:
                await self._operations.until_cancelled()
            elif self._is_blocked():
                if self._replay is not None:
                    self._replay.watch()
                if self._suspending:
                    self.loop.call_soon(self._check_suspend)
                await self._operations.hold(operation)
            elif self._cancel_wanted and not self.cancel_delivered and not operation.is_aside:
                self._deliver_cancel(operation)
            elif not self.host.is_leased():
                # A worker that was stopped or cut off for so long may have been given up, and
                # the step been done elsewhere. The next beat tells.
                operation.state = State.HELD
                await asyncio.sleep(LEASE_LOOK)
            elif not self.notes.are_written:
                await self.notes.write(self.written)
            else:
                return

    def _is_blocked(self) -> bool:
        return (
            self._rounds.is_replaying
            or self.is_closed
            or self._suspending
            or self._is_delivering()
            or self.steering.wish.done()
        )

    def _go_on(self) -> None:
        """Do what had to wait, unless it still has to."""
        self._meet_cancel()
        if self._answers is not None:
            self._answers.look()
        if not self._is_blocked():
            self._operations.release()
            self.check_park_later()  # a look that came while we were blocked was in vain

    # Giving up

    async def _abandon(self, operation: Operation) -> None:
        """Record that the handler gave up waiting, before its cancellation goes on."""
        if operation.state is State.POINT:
            if self._delivering is not None:
                await self._outlast(self._delivering)
            if not self.cancel_delivered:
                await self._operations.never()
            return
        turn = operation.turn
        if turn is None or operation.state is not State.ABANDONED:
            turn = await self._record_abandoned(operation, turn)
            if self.host.suspend_always:
                await self._suspended()
        await self._rounds.come(turn, is_final=True)

    # Cancel

    def _is_delivering(self) -> bool:
        return self._delivering is not None and not self.cancel_delivered

    def _meet_cancel(self) -> None:
        """Deliver a cancel that is wanted to a step that executes or waits."""
        if self._cancel_wanted and not self.cancel_delivered and not self._is_blocked():
            for operation in self._operations:
                if operation.state in (State.EXECUTING, State.WAITING) and not operation.is_aside:
                    self._deliver_cancel(operation)
                    return

    def _deliver_cancel(self, operation: Operation) -> None:
        """Record where the cancel meets the handler, then raise it there."""
        operation.state = State.POINT
        self._delivering = self.loop.create_task(self._record_cancel(operation))

    async def _record_cancel(self, operation: Operation) -> None:
        turn = operation.turn = self._rounds.join(is_alone=False)
        point = self.commits.abandon(operation, turn, deliver_cancel=True)
        if not await self.written(operation.key, point):
            return
        if self.host.suspend_always:
            self._delivering = None
            await self._suspended()
        await self._give_cancel(operation, turn)

    async def _give_cancel(self, operation: Operation, turn: Turn) -> None:
        """Cancel the handler, and the step where that meets it; return in the step's turn.

        The handler may pass it on to there or not: a `shield` does not. And a time-out may have
        cancelled the step while the point was written, in one life and not in another. Cancelled
        by us in any case, it ends in all of them by a cancellation that is not the time-out's.
        """
        await self._rounds.come(turn, is_final=True)
        self.cancel_delivered = True
        if operation in self._operations and operation.task is not self._handler:
            operation.task.cancel()
        if self._handler is not None and not self.is_closed:
            self._handler.cancel("the run was cancelled")
            self.loop.call_later(self.host.cancel_grace, self._check_cancelled)
        self._go_on()
        await self._rounds.come(self._rounds.next(), is_final=True)

    def _check_cancelled(self) -> None:
        """End a handler that was told and does nothing durable any more."""
        busy = (State.EXECUTING, State.COMMITTING, State.WAITING)
        if self.is_closed:
            return
        if self._operations.some_are(*busy):
            self.loop.call_later(self.host.cancel_grace, self._check_cancelled)
        else:
            self.steering.ask(Steer.OVERDUE)

    # Leaving

    def _check_suspend(self) -> None:
        executing = self._operations.some_are(State.EXECUTING, State.COMMITTING)
        if not executing and not self._is_delivering():
            self.steering.ask(Steer.RELEASE)

    def check_park_later(self, *, after: float = PARK_AFTER) -> None:
        """Look in a moment whether the run may be parked."""
        if self._park_check is None and self._operations.some_are(State.WAITING):
            self._park_check = self.loop.call_later(after, self._check_park)

    def _check_park(self) -> None:
        """Ask to be parked where everything pending is a wait that the store will end.

        A loop that is busy is late with this, and may have yet to tell the handler what has just
        ended, or the members of a group that they are cancelled.
        """
        self._quiet += 1
        if self._quiet < SETTLE_TURNS:
            self._park_check = self.loop.call_soon(self._check_park)
            return
        self._park_check = None
        if self._answers is not None and self._answers.is_busy:
            self.check_park_later()
            return
        if self._conditions is not None:
            self._conditions.check()  # or what has just come true would be slept over
        now = self.loop.time()
        soon = now + self.host.inline_wait
        operations = self._operations
        if operations and not self._is_blocked() and operations.all_wait_beyond(soon):
            parking = operations.parking()
            if parking is None:
                return  # the handler itself waits for something that we do not see
            stays = self._given_at + self._journal.taken * PARK_AFTER_EACH - now
            if stays > 0 and self.host.has_room():
                self.check_park_later(after=stays)
                return
            status, waits, timed = parking
            self.steering.ask(Steer.PARK, (status, self._seen(), waits, timed))

    def _seen(self) -> int:
        return self._known_news.count if self._news is None else self._news.seen
