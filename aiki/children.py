"""Children: runs that a run starts, waits for and looks after."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from aiki.client import Call
from aiki.codec import Codec, address
from aiki.durations import Seconds, seconds
from aiki.errors import (
    AikiError,
    Conflict,
    DataError,
    DefinitionError,
    LimitExceeded,
    RunCancelled,
    RunFailed,
)
from aiki.execution import Execution
from aiki.failures import failure_from_exception, failure_from_json, failure_to_json
from aiki.once import Once
from aiki.operation import Operation
from aiki.records import Entry, EntryKind, Message
from aiki.rounds import Turn
from aiki.states import Status
from aiki.store.children import NewChild
from aiki.store.keys import child_run_id
from aiki.waits import TIMEOUT, Waits

R_co = TypeVar("R_co", covariant=True)

OnError: TypeAlias = Literal["raise", "return"]

STARTED_TOGETHER = 32  # by one script
MAX_MAPPED = 10_000

_ENDS = {
    EntryKind.RESULT: Status.COMPLETED,
    EntryKind.FAILURE: Status.FAILED,
    EntryKind.CANCELLED: Status.CANCELLED,
}


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
            TimeoutError: it was not over in time; it goes on.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        result: R_co = await self._children.wait(self.id, self._result, limit)
        return result

    async def cancel(self, reason: str = "") -> None:
        """Ask the child to end, as a recorded step."""
        await self._children.cancel(self.id, reason)

    def __repr__(self) -> str:
        return f"<ChildHandle {self.id}>"


class Children:
    """The children of one run."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._waits = Waits(execution)
        self._once = Once()
        self._inputs: dict[str, bytes] = {}
        self._to_wait_for: dict[str, ChildHandle[Any]] = {}

    async def start(self, call: Call[Any]) -> ChildHandle[Any]:
        """Start a run as a child of this one."""
        kind = f"child/{call.workflow}"
        digest = call.version.encode() + b"\n" + call.payload
        key = call.options.idempotency_key
        if key is None:
            return await self._start(address(kind, digest), call)
        name = address(kind, b"key " + key.encode())
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

        async def perform(operation: Operation) -> Any:
            return await self._wait(operation, child_id, result, timeout)

        def read(entry: Entry) -> Any:
            if entry.kind is EntryKind.TIMEOUT:
                return TIMEOUT
            return _outcome(child_id, result, _ENDS[entry.kind], entry.payload)

        value = await self._execution.operate(f"end/{child_id}", perform, read)
        self._to_wait_for.pop(child_id, None)
        if value is TIMEOUT:
            raise TimeoutError(f"run {child_id} was not over within {timeout:g} s")
        if isinstance(value, AikiError):
            raise value
        return value

    async def cancel(self, child_id: str, reason: str) -> None:
        """Ask a child to end."""
        run = self._execution

        async def perform(operation: Operation) -> None:
            await run.may_start(operation)
            begun = asyncio.get_running_loop().time()
            await run.host.children.cancel([child_id], reason)
            done = run.commits.step(EntryKind.RESULT, operation, 1, begun, b"null")
            await run.record(operation, done)

        await run.operate(f"cancel/{child_id}", perform, lambda _: None)

    async def settle(self) -> None:
        """Wait for the children that the run was to wait for and has not."""
        for child in list(self._to_wait_for.values()):
            try:
                await child.wait_for_completion()
            except (RunFailed, RunCancelled):
                continue

    async def map(
        self, calls: Sequence[Call[Any]], *, max_parallel: int, on_error: OnError
    ) -> list[Any]:
        """Start a child for each call, so many at a time; give their results in order."""
        if len(calls) > MAX_MAPPED:
            raise LimitExceeded(
                f"run.map takes at most {MAX_MAPPED:,} items, not {len(calls):,}; map over parts"
            )
        if not calls:
            return []
        if any(call.options.idempotency_key or call.options.at for call in calls):
            raise DefinitionError("run.map takes a version, without options about one run")
        content = b"\n".join([call.version.encode() + b"\n" + call.payload for call in calls])
        name = address(f"map/{calls[0].workflow}", content + on_error.encode())
        mapping = _Mapping(self._execution, calls, max_parallel, strict=on_error == "raise")
        outcomes = await mapping.recorded(name)

        def read(entry: Entry) -> list[tuple[Status, bytes]]:
            if entry.kind is EntryKind.FAILURE:
                raise _failed(entry.payload)
            if outcomes is None:
                raise DataError("the children that are recorded as ended are not there")
            return outcomes

        ended = await self._execution.operate(name, mapping.perform, read)
        results: list[Any] = []
        for number, (call, outcome) in enumerate(zip(calls, ended, strict=True)):
            child_id = mapping.child_id(mapping.key, number)
            results.append(_outcome(child_id, call.result, *outcome))
        return results

    async def _start(self, name: str, call: Call[Any]) -> ChildHandle[Any]:
        run = self._execution

        async def perform(operation: Operation) -> str:
            await run.may_start(operation)
            child_id = child_run_id(run.owner.run_id, scoped(run, operation.key))
            new, begun = _new(call), asyncio.get_running_loop().time()

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

    async def _wait(
        self, operation: Operation, child_id: str, result: Codec, timeout: float | None
    ) -> Any:
        run = self._execution
        outcome: list[Any] = []

        def take(message: Message, begun: float) -> Callable[[Turn], Awaitable[Any]]:
            async def consume(turn: Turn) -> Any:
                answer: list[Any] | int | bytes = await run.commits.consume_end(
                    operation, turn, child_id, message.number, begun=begun
                )
                if isinstance(answer, list) and len(answer) == 3:  # noqa: PLR2004 - taken
                    outcome.extend(answer[1:])
                    return answer[0]
                return answer

            return consume

        answer = await self._waits.until_message(
            operation, f"end/{child_id}", timeout, take, Status.AWAITING_CHILD
        )
        if answer is TIMEOUT:
            return TIMEOUT
        if answer is not None:
            run.steering.stall(_refused(child_id, answer))
            await run.never()
        status, payload = outcome
        return _outcome(child_id, result, Status(status.decode()), payload)


class _Mapping:
    """One map: which of its children are started, and which have ended."""

    def __init__(
        self, execution: Execution, calls: Sequence[Call[Any]], max_parallel: int, *, strict: bool
    ) -> None:
        self._execution = execution
        self._store = execution.host.children
        self._calls = calls
        self._parallel = max_parallel
        self._strict = strict
        self._origin = execution.scope
        self.key = ""

    def child_id(self, key: str, number: int) -> str:
        origin, _, generation = self._origin.partition("~")
        return child_run_id(
            origin, f"{key}~{generation}/{number}" if generation else f"{key}/{number}"
        )

    async def recorded(self, name: str) -> list[tuple[Status, bytes]] | None:
        """Read the outcomes of a map that is recorded as done; None where it is not."""
        self.key, entry = self._execution.peek(name)
        if entry is None or entry.kind is not EntryKind.RESULT:
            return None
        self._origin = str(json.loads(entry.payload)["of"])  # a fork has the record of another run
        return await self._outcomes()

    async def perform(self, operation: Operation) -> list[tuple[Status, bytes]]:
        run, loop = self._execution, asyncio.get_running_loop()
        if operation.entry is None:
            await run.may_start(operation)
        begun = loop.time()
        told = run.news.next()
        try:
            while True:
                states = await self._store.read_map(run.owner.run_id, scoped(run, operation.key))
                failed = next((n for n, word in states.items() if word in ("fa", "ca")), None)
                if self._strict and failed is not None:
                    await self._fail(operation, failed, states, begun)
                if sum(word != "s" for word in states.values()) == len(self._calls):
                    break
                await self._start_more(operation, states)
                run.wait_begins(operation, math.inf, Status.AWAITING_CHILD)
                await asyncio.wait([told])
                told = run.news.next()
        finally:
            told.cancel()
        outcomes = await self._outcomes()
        if outcomes is None:
            run.steering.stall(f"Children of {operation.key} are recorded as ended and are gone.")
            await run.never()
        payload = json.dumps({"children": len(self._calls), "of": self._origin}).encode()
        done = run.commits.step(EntryKind.RESULT, operation, 1, begun, payload)
        await run.record(operation, done)
        return outcomes

    async def _start_more(self, operation: Operation, states: dict[int, str]) -> None:
        """Start as many as may run, and say when to be told of ends."""
        running = sum(word == "s" for word in states.values())
        left = [number for number in range(len(self._calls)) if number not in states]
        more = left[: max(0, self._parallel - running)]
        ended, running = len(states) - running, running + len(more)
        # Told of each end, a run that is parked would be repeated as often. Of the last ones it is
        # told together; before, when half of those that run have made room for others.
        all_started = len(more) == len(left)
        wake_at = ended + (running if all_started else max(1, running // 2))
        parts = [more[n : n + STARTED_TOGETHER] for n in range(0, len(more), STARTED_TOGETHER)]
        for part in parts or [[]]:
            some = [
                (number, self.child_id(operation.key, number), self._calls[number].payload)
                for number in part
            ]
            is_last = part is (parts or [part])[-1]
            starting = self._execution.commits.start_children(
                operation, _new(self._calls[0]), some, strict=self._strict,
                wake_at=wake_at if is_last else 0,
            )  # fmt: skip
            if not await self._execution.written(operation.key, starting):
                await self._execution.never()

    async def _fail(
        self, operation: Operation, failed: int, states: dict[int, str], begun: float
    ) -> None:
        """Have the others end, and raise what the first one has failed with."""
        run, key = self._execution, operation.key
        others = [self.child_id(key, n) for n, word in states.items() if word == "s"]
        child_id = self.child_id(key, failed)
        await self._store.cancel(others, f"child {child_id} of the same map failed")
        outcome = (await self._store.outcomes([child_id]))[0]
        status, payload = outcome or (Status.FAILED, b"")
        error: AikiError = _outcome(child_id, Codec(object, "a child"), status, payload)
        stored = failure_to_json(failure_from_exception(error))
        await run.record(
            operation, run.commits.step(EntryKind.FAILURE, operation, 1, begun, stored)
        )
        raise error

    async def _outcomes(self) -> list[tuple[Status, bytes]] | None:
        ids = [self.child_id(self.key, number) for number in range(len(self._calls))]
        found = await self._store.outcomes(ids)
        outcomes = [outcome for outcome in found if outcome is not None]
        return outcomes if len(outcomes) == len(ids) else None


def scoped(run: Execution, key: str) -> str:
    """Give a key that no other generation of the run has."""
    return key + run.scope.removeprefix(run.owner.run_id)


def _new(call: Call[Any]) -> NewChild:
    options = call.options
    return NewChild(
        call.workflow, call.version, options.pool, options.packed(), options.on_parent_close
    )


def _outcome(child_id: str, result: Codec, status: Status, payload: bytes) -> Any:
    """Give a child's result, or the exception that stands for its end."""
    if status is Status.COMPLETED:
        return result.decode(payload)
    if status is Status.CANCELLED:
        reason = payload.decode(errors="replace")
        told = f": {reason}" if reason else ""
        return RunCancelled(f"run {child_id} was cancelled{told}", run_id=child_id, reason=reason)
    failure = failure_from_json(payload)
    return RunFailed(
        f"run {child_id} failed: {failure.type}: {failure.message}",
        run_id=child_id,
        failure=failure,
    )


def _failed(stored: bytes) -> AikiError:
    """Give what a map has failed with; it was made by `_outcome`."""
    failure = failure_from_json(stored)
    child_id = failure.message.split(" ", 2)[1]
    if failure.cause is None:
        reason = failure.message.partition(": ")[2]
        return RunCancelled(failure.message, run_id=child_id, reason=reason)
    return RunFailed(failure.message, run_id=child_id, failure=failure.cause)


def _refused(child_id: str, answer: list[Any]) -> str:
    if answer[0] == b"LARGE":
        return (
            f"The result of child {child_id} has {int(answer[1]):,} bytes, which are more than the "
            "run may still hold. Store large data elsewhere and return where it is."
        )
    return f"Child {child_id} is not there any more: its record was removed by hand."
