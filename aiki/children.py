"""Children: runs that a run starts, waits for and looks after."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from aiki.call import Call
from aiki.codec import Codec
from aiki.durations import Seconds, seconds
from aiki.ends import outcome, refused
from aiki.errors import AikiError, Conflict, DataError, RunCancelled, RunFailed
from aiki.execution import Execution
from aiki.mapping import new_child, scoped
from aiki.names import checked_reason
from aiki.once import Once
from aiki.operation import Operation, State
from aiki.records import Entry, EntryKind, Message
from aiki.rounds import Turn
from aiki.states import Status
from aiki.store.keys import child_run_id
from aiki.waits import TIMEOUT, Waits

R_co = TypeVar("R_co", covariant=True)

_ENDS = {
    EntryKind.RESULT: Status.COMPLETED,
    EntryKind.FAILURE: Status.FAILED,
    EntryKind.CANCELLED: Status.CANCELLED,
}
_KINDS = {status: kind for kind, status in _ENDS.items()}
_TAKEN = 3  # parts of the answer to who has taken an end
_TOLD_HERE = 0  # the number of a message that is in no mailbox


class ChildHandle(Generic[R_co]):
    """A run that this run has started. Made by `start_as_child`."""

    def __init__(self, id: str, result: Codec, children: Children) -> None:
        self.id = id
        self._result = result
        self._children = children

    async def wait_for_completion(self, timeout: Seconds | None = None) -> R_co:
        """Wait until the child is over and return its result; a run that waits takes no worker.

        Raises:
            RunFailed: its handler failed.
            RunCancelled: it was cancelled.
            TimeoutError: it was not over in time, by the store's clock; it goes on.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        result: R_co = await self._children.wait(self.id, self._result, limit)
        return result

    async def cancel(self, reason: str = "") -> None:
        """Ask the child to end, as a recorded step.

        Raises `DataError` for a reason of more than 4 KiB.
        """
        await self._children.cancel(self.id, checked_reason(reason))

    def __repr__(self) -> str:
        return f"<ChildHandle {self.id}>"


class Children:
    """The children of one run. `check` refuses what is done outside of its handler."""

    def __init__(self, execution: Execution, check: Callable[[str], None]) -> None:
        self._execution = execution
        self._check = check
        self._waits = Waits(execution)
        self._once = Once()
        self._inputs: dict[str, bytes] = {}
        self._to_wait_for: dict[str, ChildHandle[Any]] = {}
        self._waiting: Counter[str] = Counter()
        self._ended: dict[str, tuple[Status, bytes]] = {}  # that the handler has been told of

    async def start(self, call: Call[Any]) -> ChildHandle[Any]:
        """Start a run as a child of this one."""
        kind = f"child/{call.workflow}"
        digest = call.version.encode() + b"\n" + call.payload
        key = call.options.idempotency_key
        if key is None:
            return await self._start(self._execution.address(kind, digest), call)
        name = self._execution.address(kind, b"key " + key.encode())
        is_same = self._inputs.setdefault(name, digest) == digest
        if not is_same and call.options.on_conflict == "error":
            raise Conflict(
                f"idempotency key {key!r} belongs to another child of this run, which was "
                "started with another input or version; use a new key",
                run_id=self._execution.owner.run_id,
            )
        child: ChildHandle[Any] = await self._once.call(name, lambda: self._start(name, call))
        return child

    async def wait(self, child_id: str, result: Codec, timeout: float | None) -> Any:
        """Wait for the end of a child."""
        self._check(f"child {child_id} was waited for")
        if child_id not in self._ended:
            self._waiting[child_id] += 1
            try:
                await self._wait(child_id, timeout)
            finally:
                self._waiting[child_id] -= 1
                if self._waiting[child_id] == 0:
                    del self._waiting[child_id]
        self._to_wait_for.pop(child_id, None)
        try:
            value = outcome(child_id, result, *self._ended[child_id])
        except DataError as error:
            self._execution.steering.stall(
                f"The result of child {child_id} does not fit the code: {error}"
            )
            await self._execution.never()
        if isinstance(value, AikiError):
            raise value
        return value

    async def cancel(self, child_id: str, reason: str) -> None:
        """Ask a child to end."""
        self._check(f"child {child_id} was cancelled")
        run = self._execution

        async def perform(operation: Operation) -> None:
            await run.may_start(operation)
            operation.state = State.EXECUTING
            begun = asyncio.get_running_loop().time()
            await run.host.children.cancel([child_id], reason)
            done = run.commits.step(EntryKind.RESULT, operation, 1, begun, b"null")
            await run.record(operation, done)

        await run.operate(f"cancel/{child_id}", perform, lambda _: None)

    async def settle(self) -> None:
        """Wait for the children that the run was to wait for and has not, even if cancelled."""
        cancelled: asyncio.CancelledError | None = None
        while self._to_wait_for:
            try:
                await next(iter(self._to_wait_for.values())).wait_for_completion()
            except (RunFailed, RunCancelled):
                continue
            except asyncio.CancelledError as error:
                if self._execution.is_closed:
                    raise
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _start(self, name: str, call: Call[Any]) -> ChildHandle[Any]:
        run, has_key = self._execution, call.options.idempotency_key is not None

        async def perform(operation: Operation) -> str:
            await run.may_start(operation)
            # By its key it is the same child also where an earlier start of it was given up.
            unique = scoped(run, name if has_key else operation.key)
            child_id = child_run_id(run.owner.run_id, unique)
            new, begun = new_child(call), asyncio.get_running_loop().time()

            def start(turn: Turn) -> Awaitable[int | bytes]:
                payload = b'"%b"' % child_id.encode()
                entry = run.commits.entry(turn, EntryKind.RESULT, begun, payload)
                return run.host.children.start_child(
                    run.owner, operation.key, entry, child_id, new, call.payload
                )

            await run.record(operation, start)
            return child_id

        child_id = await run.operate(name, perform, lambda entry: entry.payload[1:-1].decode())
        handle: ChildHandle[Any] = ChildHandle(child_id, call.result, self)
        if call.options.on_parent_close == "wait":
            self._to_wait_for[child_id] = handle
        return handle

    async def _wait(self, child_id: str, timeout: float | None) -> None:
        """Wait for the end of a child that the handler was not told of."""

        async def perform(operation: Operation) -> tuple[Status, bytes] | None:
            return await self._take_end(operation, child_id, timeout)

        def read(entry: Entry) -> tuple[Status, bytes] | None:
            return None if entry.kind is EntryKind.TIMEOUT else (_ENDS[entry.kind], entry.payload)

        end = await self._execution.operate(f"end/{child_id}", perform, read)
        if end is None:
            raise TimeoutError(f"run {child_id} was not over within {timeout or 0:g} s")
        if child_id not in self._ended:
            self._ended[child_id] = end
        if self._waiting[child_id] > 1:
            # The store tells of an end once, and others here wait for the same one.
            told = Message(_TOLD_HERE, f"end/{child_id}", b"")
            self._execution.news.mail.put_back(told)

    async def _take_end(
        self, operation: Operation, child_id: str, timeout: float | None
    ) -> tuple[Status, bytes] | None:
        """Take the end of a child into the journal, or the time-out."""
        run = self._execution
        end: list[tuple[Status, bytes]] = []

        def take(message: Message, begun: float) -> Callable[[Turn], Awaitable[Any]]:
            if message.number == _TOLD_HERE:
                end[:] = [self._ended[child_id]]
                status, payload = end[0]
                return run.commits.step(_KINDS[status], operation, 1, begun, payload)

            async def consume(turn: Turn) -> Any:
                try:
                    answer = await run.commits.consume_end(
                        operation, turn, child_id, message.number, begun=begun
                    )
                except DataError as error:
                    run.steering.stall(f"The end of child {child_id} cannot be read: {error}")
                    await run.never()
                if isinstance(answer, list) and len(answer) == _TAKEN:
                    end[:] = [(Status(answer[1].decode()), answer[2])]
                    return answer[0]
                return answer

            return consume

        answer = await self._waits.until_message(
            operation, f"end/{child_id}", timeout, take, Status.AWAITING_CHILD
        )
        if answer is TIMEOUT:
            return None
        if answer is not None:
            run.steering.stall(refused(child_id, answer))
            await run.never()
        return end[0]
