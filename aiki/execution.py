"""What a run does with its steps: take, hold, execute, commit, abandon, and leave.

Nothing that steers a run is raised inside its handler, a person's cancel excepted: an
operation that has to wait stays pending, and one that must not go on (the run is parked, handed
back or fenced) never returns. The actor then cancels the handler and ignores its outcome.
Store failures do not reach a handler either.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NoReturn

from aiki.codec import address
from aiki.commits import Commits
from aiki.current_step import CurrentStep
from aiki.errors import AikiError, DataError
from aiki.failures import failure_from_exception, failure_to_json, task_failed
from aiki.journal import Journal
from aiki.once import Once
from aiki.operation import Host, Operation, Operations, State
from aiki.records import ClaimedRun, Entry, EntryKind, open_payload
from aiki.replay import Replay
from aiki.rounds import Rounds, Turn
from aiki.steering import Steer, Steering
from aiki.step import StepSpec, ThreadLeft, call
from aiki.store.runs import CANCEL_WANTED

PARK_AFTER = 0.01  # lets a handler that was just given something ask for its next step
PARK_AGAIN = 1.0  # after the store said to stay: what it saw comes to us meanwhile
SUSPEND_AFTER = 0.1
LEASE_LOOK = 0.05  # seconds between two looks whether the lease is known to be ours again


class Execution:
    """One owner's execution of one run."""

    def __init__(self, claimed: ClaimedRun, host: Host) -> None:
        self._owner = claimed.ownership
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._journal = Journal(claimed.journal, claimed.cancel_at)
        self._rounds = Rounds(claimed.journal, claimed.cancel_at)
        self._commits = Commits(claimed, host, self._journal, self._rounds)
        self._cancel_at = claimed.cancel_at
        self._cancel_wanted = claimed.cancel is not None and claimed.cancel_at is None
        self.cancel_delivered = False
        self._closed = False
        self._suspending = False
        self._delivering: asyncio.Task[None] | None = None
        self._handler: asyncio.Task[None] | None = None
        self.steering = Steering()
        self._operations = Operations()
        self._once = Once()
        self._park_check: asyncio.TimerHandle | None = None
        # Only where something is recorded: it refers back to us, and a new run that forms no
        # cycle of references is freed without the garbage collector.
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
        name = f"aiki run {self._owner.run_id}"
        self._handler = self._loop.create_task(self._handle(handler), name=name)

    def steer_again(self) -> None:
        """Go on after a park that the store refused."""
        self.steering.begin_again()
        self._go_on()
        self._check_park_later(after=PARK_AGAIN)

    def suspend(self) -> None:
        """Start nothing more; ask to be handed back once nothing executes."""
        self._suspending = True
        self._check_suspend()

    def cancel_requested(self) -> None:
        """Deliver a person's cancel at the next point where it can be recorded."""
        if self._cancel_wanted or self._cancel_at is not None or self._closed:
            return
        self._cancel_wanted = True
        self._meet_cancel()

    def abandoned_by_finish(self) -> list[tuple[str, bytes]]:
        """Give the journal entries for steps that are pending when the handler ends."""
        return [
            (operation.key, self._commits.abandoned_entry())
            for operation in self._operations.unrecorded()
        ]

    async def close(self) -> bool:
        """Let no operation write or return any more, and end the handler.

        Returns whether it ended: it may catch each cancellation and go on.
        """
        self._closed = self._operations.is_closed = True
        self._rounds.stop()
        if self._replay is not None:
            self._replay.stop()
        for pending in (self._park_check, self._delivering):
            if pending is not None:
                pending.cancel()
        for attempt in range(100):
            left = self._operations.unfinished_tasks()
            if self._handler is not None and not self._handler.done():
                left.append(self._handler)
            if not left:
                self._handler = None  # its context refers to the run: a cycle otherwise
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

    def is_on_this_loop(self) -> bool:
        """Tell whether the caller is on the loop that executes the run."""
        return threading.get_ident() == self._thread

    async def execute(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        called: bytes | None = None,
    ) -> Any:
        """Give a step's recorded outcome, or execute and record it.

        Its address is made of its input, or of what it is `called`.
        """
        payload, args, kwargs = spec.arguments.encode(args, kwargs)
        name = address(spec.name, payload if called is None else called)
        if not spec.once:
            return await self._step(spec, name, args, kwargs)
        return await self._once.call(name, lambda: self._step(spec, name, args, kwargs))

    # One step

    async def _handle(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        result, error = None, None
        try:
            result = await handler()
        except KeyboardInterrupt as caught:
            self._host.interrupt(caught)
            self.steering.ask(Steer.RELEASE)
            return
        except BaseException as caught:
            if self._is_closing(caught, self._handler):
                raise
            error = caught  # whatever it is, it is the run's outcome
        if not self._closed:
            self.steering.ask(Steer.ENDED, (result, error))

    def _is_closing(self, error: BaseException, task: asyncio.Task[Any] | None) -> bool:
        """Tell a GeneratorExit that ends a coroutine from one that its own code raised."""
        return isinstance(error, GeneratorExit) and asyncio.current_task(self._loop) is not task

    async def _step(
        self, spec: StepSpec, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if self._closed:
            await self._operations.never()
        # Told the loop, it need not look for it, which costs a system call on Python 3.11
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - the run checked that it is on the loop
        key, entry = self._journal.take(name)
        operation = Operation(key, entry, spec, task)
        self._operations.add(operation)
        self._rounds.asked(in_branch=task is not self._handler)
        if self._replay is not None:
            self._replay.asked()
        try:
            if self._replay is not None and entry and entry.kind is not EntryKind.OPEN:
                return await self._recorded(self._replay, operation, entry)
            return await self._perform(operation, args, kwargs)
        except asyncio.CancelledError:
            if not self._closed:
                await self._abandon(operation)
            raise
        finally:
            self._operations.remove(operation)
            if self._suspending:
                self._check_suspend()
            elif self._operations and not self._closed:
                self._check_park_later()

    async def _recorded(self, replay: Replay, operation: Operation, entry: Entry) -> Any:
        turn = operation.turn = self._rounds.recorded(
            operation.key, is_alone=self._is_alone(operation)
        )
        if entry.kind is EntryKind.ABANDONED and operation.key != self._cancel_at:
            operation.state = State.ABANDONED
            replay.watch()
            await self._operations.until_cancelled()
        if entry.kind is EntryKind.ABANDONED:
            operation.state = State.POINT
            self._delivering = self._loop.create_task(self._give_cancel(operation, turn))
            await self._operations.until_cancelled()
        operation.state = State.REPLAYING
        if await self._rounds.come(turn, is_final=True):
            self._operations.cancel_again(operation)
        try:
            if entry.kind is EntryKind.RESULT:
                return operation.spec.result.decode(entry.payload)
            failed = task_failed(operation.spec.name, entry.attempts, entry.payload)
        except DataError as error:
            self.steering.stall(
                f"What is recorded of {operation.key} no longer fits the code: {error}"
            )
            await self._operations.never()
        raise failed

    async def _perform(
        self, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        spec, entry, host = operation.spec, operation.entry, self._host
        attempt, begun, failure, details = 1, self._loop.time(), b"", b""
        if entry is not None:
            failure, details = entry.failure, entry.details
            now = self._commits.server_now()
            attempt = entry.attempts + 1
            begun -= (entry.spent + max(0, now - entry.written)) / 1000
            if entry.due > now:
                await self._wait(operation, (entry.due - now) / 1000)
        while True:
            await self._may_start(operation)
            operation.state = State.EXECUTING
            about = self._attempt(operation, attempt, begun, failure, details)
            try:
                value = await call(spec, about, args, kwargs, host.threads, host.around_task)
                if operation.is_cancelled:
                    raise asyncio.CancelledError  # noqa: TRY301 - the task caught it
                payload, value = self._commits.encoded(spec, value)
            except BaseException as caught:
                if self._is_closing(caught, operation.task):
                    raise
                error = caught  # whatever it is, it is a failed attempt
            else:
                await self._commit(operation, EntryKind.RESULT, attempt, begun, payload)
                return value
            await self._judge(operation, error)
            spent = self._loop.time() - begun
            delay = spec.next_delay(attempt, spent, error, random.random())  # noqa: S311
            payload = failure = failure_to_json(failure_from_exception(error))
            if delay is None:
                await self._commit(operation, EntryKind.FAILURE, attempt, begun, payload)
                # On a replay there is only the record, so that is all there is the first time.
                raise task_failed(spec.name, attempt, payload) from None
            del error
            operation.state = State.COMMITTING
            details = about.details
            payload = open_payload(failure, details)
            failed = self._commits.attempt(operation, attempt, begun, payload, delay)
            if not await self._written(operation, failed) or self._closed:
                await self._operations.never()
            await self._wait(operation, delay)
            attempt += 1

    def _attempt(
        self, operation: Operation, attempt: int, begun: float, failure: bytes, details: bytes
    ) -> CurrentStep:
        """Give what the task may know and say; the last two are of the attempt before."""
        about = CurrentStep(
            self._owner.run_id,
            attempt,
            f"{self._owner.run_id}/{operation.key}",
            operation.spec.name,
            loop=self._loop,
            begun=begun,
            failure=failure,
            details=details,
            write=partial(self._beat, operation),
            is_draining=self._host.is_draining,
        )
        if operation.spec.schedule_to_close is not None and operation.entry is None:
            about.note()  # or a death in this attempt would begin the time anew
        return about

    async def _beat(self, operation: Operation, about: CurrentStep) -> None:
        """Store what an attempt says while it is under way."""
        if not self._closed:
            await self._written(operation, self._commits.heartbeat(operation, about))

    async def _judge(self, operation: Operation, error: BaseException) -> None:
        """Tell a failed attempt from what only looks like one; return where it is one."""
        if isinstance(error, KeyboardInterrupt):
            operation.state = State.HELD  # nothing executes that a drain would wait for
            self._host.interrupt(error)
            await self._operations.never()
        if self._closed or operation.is_cancelled:
            # Whatever the task made of it: a step that is not awaited any more has no outcome.
            raise asyncio.CancelledError
        if operation.state is State.POINT:
            await self._operations.until_cancelled()
        if isinstance(error, ThreadLeft):
            self._host.recycle(
                f"a thread of task {operation.spec.name!r} goes on after its time-out"
            )

    async def _wait(self, operation: Operation, delay: float) -> None:
        operation.state = State.WAITING
        operation.until = self._loop.time() + delay
        if self._suspending:
            self._check_suspend()
        elif delay > self._host.inline_wait:
            self._check_park_later()
        self._meet_cancel()
        await asyncio.sleep(delay)

    async def _may_start(self, operation: Operation) -> None:
        """Wait until a new effect is allowed."""
        while True:
            if operation.state is State.POINT:
                await self._operations.until_cancelled()
            elif self._is_blocked():
                if self._replay is not None:
                    self._replay.watch()
                if self._suspending:
                    self._loop.call_soon(self._check_suspend)
                await self._operations.hold(operation)
            elif self._cancel_wanted and not self.cancel_delivered:
                self._deliver_cancel(operation)
            elif not self._host.is_leased():
                # A worker that was stopped or cut off for so long may have been given up, and
                # the step been done elsewhere. The next beat tells.
                operation.state = State.HELD
                await asyncio.sleep(LEASE_LOOK)
            else:
                return

    def _is_blocked(self) -> bool:
        return (
            self._rounds.is_replaying
            or self._closed
            or self._suspending
            or self._is_delivering()
            or self.steering.wish.done()
        )

    def _is_alone(self, operation: Operation) -> bool:
        """Tell whether the handler itself waits for this and for nothing else."""
        return len(self._operations) == 1 and operation.task is self._handler

    def _go_on(self) -> None:
        """Do what had to wait, unless it still has to."""
        self._meet_cancel()
        if not self._is_blocked():
            self._operations.release()

    # What is written

    async def _commit(
        self, operation: Operation, kind: EntryKind, attempt: int, begun: float, payload: bytes
    ) -> None:
        if self._closed or operation.state is State.POINT:
            await self._operations.until_cancelled()
        turn = operation.turn = self._rounds.join(is_alone=self._is_alone(operation))
        operation.state = State.COMMITTING
        commit = self._commits.step(operation, turn, kind, attempt, begun, payload)
        if not await self._written(operation, commit) or self._closed:
            await self._operations.never()
        operation.state = State.RECORDED
        if self._host.suspend_always:
            await self._suspended()
        if await self._rounds.come(turn, is_final=False):
            self._operations.cancel_again(operation)

    async def _suspended(self) -> NoReturn:
        self.suspend()
        # Others that execute may end first; one that would never end is not waited for.
        self._loop.call_later(SUSPEND_AFTER, self.steering.ask, Steer.RELEASE)
        await self._operations.never()

    async def _written(self, operation: Operation, sending: Awaitable[int | bytes]) -> bool:
        """Tell whether a write was done, and steer the run where the store's word is another."""
        try:
            reply = await sending
        except AikiError as error:
            self.steering.stall(f"The store refused to record {operation.key}: {error}")
            return False
        if isinstance(reply, int):
            if reply & CANCEL_WANTED:
                self.cancel_requested()
            return True
        if reply == b"FENCED":
            self.steering.ask(Steer.FENCED)
        elif reply == b"DIVERGED":
            self.steering.stall(f"Step {operation.key} was recorded by another owner of the run.")
        return False

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
            if self._host.suspend_always:
                await self._suspended()
        await self._rounds.come(turn, is_final=True)

    async def _record_abandoned(self, operation: Operation, late: Turn | None) -> Turn:
        """Write the mark; `late` is the turn of a result that was not given yet."""
        operation.state = State.ABANDONED
        if late is not None:
            self._rounds.hold(late)
        turn = operation.turn = self._rounds.join(is_alone=self._is_alone(operation))
        writing = self._loop.create_task(self._commits.abandon(operation, turn))
        await self._outlast(writing)
        if late is not None:
            self._rounds.withdraw(late)
        if not await self._written(operation, writing):
            await self._operations.never()
        return turn

    async def _outlast(self, writing: asyncio.Task[Any]) -> None:
        """Wait for a write, whatever cancellations come, unless the run is left."""
        while not writing.done():
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError:
                if self._closed:
                    raise

    # Cancel

    def _is_delivering(self) -> bool:
        return self._delivering is not None and not self.cancel_delivered

    def _meet_cancel(self) -> None:
        """Deliver a cancel that is wanted to a step that executes or waits."""
        if self._cancel_wanted and not self.cancel_delivered and not self._is_blocked():
            for operation in self._operations:
                if operation.state in (State.EXECUTING, State.WAITING):
                    self._deliver_cancel(operation)
                    return

    def _deliver_cancel(self, operation: Operation) -> None:
        """Record where the cancel meets the handler, then raise it there."""
        operation.state = State.POINT
        self._delivering = self._loop.create_task(self._record_cancel(operation))

    async def _record_cancel(self, operation: Operation) -> None:
        turn = operation.turn = self._rounds.join(is_alone=False)
        point = self._commits.abandon(operation, turn, deliver_cancel=True)
        if not await self._written(operation, point):
            return
        if self._host.suspend_always:
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
        if self._handler is not None and not self._closed:
            self._handler.cancel("the run was cancelled")
            self._loop.call_later(self._host.cancel_grace, self._check_cancelled)
        self._go_on()
        await self._rounds.come(self._rounds.next(), is_final=True)

    def _check_cancelled(self) -> None:
        """End a handler that was told and does nothing durable any more."""
        busy = (State.EXECUTING, State.COMMITTING, State.WAITING)
        if self._closed:
            return
        if self._operations.some_are(*busy):
            self._loop.call_later(self._host.cancel_grace, self._check_cancelled)
        else:
            self.steering.ask(Steer.OVERDUE)

    # Leaving

    def _check_suspend(self) -> None:
        executing = self._operations.some_are(State.EXECUTING, State.COMMITTING)
        if not executing and not self._is_delivering():
            self.steering.ask(Steer.RELEASE)

    def _check_park_later(self, *, after: float = PARK_AFTER) -> None:
        if self._park_check is None and self._operations.some_are(State.WAITING):
            self._park_check = self._loop.call_later(after, self._check_park)

    def _check_park(self) -> None:
        """Ask to be parked where everything pending is a wait that the store will end."""
        self._park_check = None
        soon = self._loop.time() + self._host.inline_wait
        operations = self._operations
        if operations and not self._is_blocked() and operations.all_wait_beyond(soon):
            self.steering.ask(Steer.PARK, [operation.key for operation in operations])
