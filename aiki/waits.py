"""Sleeps and messages: what a run waits for that is recorded, and takes no worker meanwhile."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from aiki.durations import milliseconds
from aiki.errors import AikiError, DataError, InvalidTransition, LimitExceeded, NotFound
from aiki.execution import Execution
from aiki.failures import (
    failure_from_exception,
    failure_from_json,
    failure_to_json,
    task_failed,
)
from aiki.operation import Operation, State
from aiki.records import Entry, EntryKind, Message
from aiki.rounds import Turn
from aiki.states import Status


class _Timeout(Enum):
    TIMEOUT = "timeout"

    def __repr__(self) -> str:
        return "aiki.TIMEOUT"


TIMEOUT: Final = _Timeout.TIMEOUT
"""What a wait with a time-out gives where nothing came in time."""
Timeout: TypeAlias = Literal[_Timeout.TIMEOUT]

# Of a message that told of the end of a child, which was retried since, and tells again.
_TOO_SOON = [b"WAIT"]

# What a send may end with: the caller's error, or the state of the other run.
_REFUSALS: dict[str, type[AikiError]] = {
    kind.__qualname__: kind for kind in (NotFound, InvalidTransition, LimitExceeded)
}


class Waits:
    """The waits of one run, and what it sends to others."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._loop = asyncio.get_running_loop()

    async def sleep(
        self, name: str, *, lasts: float | None = None, until_ms: int | None = None
    ) -> bool:
        """Sleep, and tell whether that was ended early."""

        async def perform(operation: Operation) -> bool:
            return await self._sleep(operation, lasts, until_ms)

        return await self._execution.operate(f"sleep/{name}", perform, _was_woken)

    async def message(
        self,
        topic: str,
        timeout: float | None,
        read: Callable[[EntryKind, bytes], Any],
        *,
        judge: Callable[[bytes], tuple[EntryKind, bytes]] = lambda data: (EntryKind.RESULT, data),
    ) -> Any:
        """Take the next message on a topic, or give TIMEOUT.

        `judge` tells how a message is recorded, `read` makes of that what the handler gets.
        """

        async def perform(operation: Operation) -> Any:
            return await self._take(operation, topic, timeout, read, judge)

        def recorded(entry: Entry) -> Any:
            return TIMEOUT if entry.kind is EntryKind.TIMEOUT else read(entry.kind, entry.payload)

        return await self._execution.operate(topic, perform, recorded)

    async def until(
        self, name: str, condition: Callable[[], object], timeout: float | None
    ) -> bool:
        """Wait until a condition is true, and tell whether it is."""

        async def perform(operation: Operation) -> bool:
            return await self._until(operation, condition, timeout)

        def was_true(entry: Entry) -> bool:
            if entry.kind is EntryKind.FAILURE:
                raise task_failed(f"until/{name}", 1, entry.payload)
            return entry.kind is EntryKind.RESULT

        return await self._execution.operate(f"until/{name}", perform, was_true)

    async def send(self, topic: str, run_id: str, payload: bytes, key: str | None) -> None:
        """Send a message to another run, as a step of this one."""
        content = json.dumps([run_id, key]).encode() + payload

        async def perform(operation: Operation) -> None:
            await self._send(operation, topic, run_id, payload, key)

        name = self._execution.address(f"send/{topic}", content)
        await self._execution.operate(name, perform, _was_sent)

    # A sleep

    async def _sleep(self, operation: Operation, lasts: float | None, until_ms: int | None) -> bool:
        run, entry = self._execution, operation.entry
        if entry is None:
            await run.may_start(operation)
        until, begun, before = await self._opened(operation, lasts, until_ms)
        wake = run.news.woken(after=before)
        try:
            while True:
                if not wake.done() and until > self._loop.time():
                    run.wait_begins(operation, until, Status.SLEEPING, wake)
                    await self._wait_for(wake, until)
                woken = wake.done()
                payload = b"true" if woken else b"false"
                end = self._ending(operation, EntryKind.RESULT, payload, begun, woken=woken)
                answer = await run.record_for_good(operation, end)
                if answer is None:
                    return woken
                until = self._loop.time() + int(answer[1]) / 1000
        finally:
            wake.cancel()

    # A message

    async def _take(
        self,
        operation: Operation,
        topic: str,
        timeout: float | None,
        read: Callable[[EntryKind, bytes], Any],
        judge: Callable[[bytes], tuple[EntryKind, bytes]],
    ) -> Any:
        value: list[Any] = []

        def taking(message: Message, begun: float) -> Callable[[Turn], Awaitable[Any]]:
            kind, payload = judge(message.payload)
            given = read(kind, payload) if kind is EntryKind.RESULT else None
            value[:] = [kind, payload, given]  # looked at now, so that nothing unfit is taken
            return self._taking(operation, message, begun, kind, payload)

        try:
            answer = await self.until_message(
                operation, topic, timeout, taking, Status.AWAITING_EVENT
            )
        except (DataError, LimitExceeded) as error:
            run = self._execution
            run.steering.stall(f"What came for {operation.key} does not fit the code: {error}")
            await run.never()
        if answer is TIMEOUT:
            return TIMEOUT
        kind, payload, given = value
        return given if kind is EntryKind.RESULT else read(kind, payload)

    async def until_message(
        self,
        operation: Operation,
        topic: str,
        timeout: float | None,
        taking: Callable[[Message, float], Callable[[Turn], Awaitable[Any]]],
        parks_as: Status,
    ) -> Any:
        """Record the next message on a topic by what `taking` makes of it, or the time-out.

        Gives None where a message was taken, TIMEOUT, or the answer of a script that took none.
        A message that is no longer true is dropped.
        """
        run = self._execution
        if operation.entry is None:
            await run.may_start(operation)
        coming = run.news.mail.next(topic)
        is_taken = False
        try:
            until, begun = math.inf, self._loop.time()
            if timeout is not None and (operation.entry is not None or not coming.done()):
                until, begun, _ = await self._opened(operation, timeout, None)
            while True:
                if not coming.done() and until > self._loop.time():
                    run.wait_begins(operation, until, parks_as, coming)
                    await self._wait_for(coming, until)
                if coming.done():
                    take = taking(coming.result(), begun)
                    answer = await run.record_for_good(operation, take)
                    if answer == _TOO_SOON:
                        coming = run.news.mail.next(topic)
                        continue
                    is_taken = answer is None
                    return answer
                seen = run.news.seen
                answer = await run.record_for_good(
                    operation, self._ending(operation, EntryKind.TIMEOUT, b"", begun, seen=seen)
                )
                if answer is None:
                    return TIMEOUT
                if answer[0] == b"EARLY":
                    until = self._loop.time() + int(answer[1]) / 1000
                else:
                    await run.news.refresh()
        finally:
            if not is_taken and coming.done() and not coming.cancelled():
                run.news.mail.put_back(coming.result())
            coming.cancel()

    # A condition

    async def _until(
        self, operation: Operation, condition: Callable[[], object], timeout: float | None
    ) -> bool:
        run = self._execution
        if operation.entry is None:
            await run.may_start(operation)
        until, begun = math.inf, self._loop.time()
        if timeout is not None:
            until, begun, _ = await self._opened(operation, timeout, None)
        coming = run.conditions.add(condition)
        try:
            while True:
                if not coming.done() and until > self._loop.time():
                    run.wait_begins(operation, until, Status.AWAITING_EVENT, coming)
                    await self._wait_for(coming, until)
                if coming.done():
                    error = coming.exception()
                    kind, payload = EntryKind.RESULT, b"true"
                    if error is not None:
                        kind = EntryKind.FAILURE
                        payload = failure_to_json(failure_from_exception(error))
                    commit = run.commits.step(kind, operation, 0, begun, payload)
                    await run.record_for_good(operation, commit)
                    if error is not None:
                        raise task_failed(operation.key.rpartition("#")[0], 1, payload)
                    return True
                seen = run.news.seen
                answer = await run.record_for_good(
                    operation, self._ending(operation, EntryKind.TIMEOUT, b"", begun, seen=seen)
                )
                if answer is None:
                    return False
                if answer[0] == b"EARLY":
                    until = self._loop.time() + int(answer[1]) / 1000
                else:
                    await run.news.refresh()
        finally:
            coming.cancel()

    def _taking(
        self,
        operation: Operation,
        message: Message,
        begun: float,
        kind: EntryKind,
        payload: bytes,
    ) -> Callable[[Turn], Awaitable[int | bytes]]:
        commits = self._execution.commits
        commits.check_room(payload)

        def take(turn: Turn) -> Awaitable[int | bytes]:
            return commits.consume(operation, turn, message, kind, payload, begun=begun)

        return take

    # Both

    async def _opened(
        self, operation: Operation, lasts: float | None, until_ms: int | None
    ) -> tuple[float, float, int]:
        """Give when a wait ends and when it began, by the loop's clock, and the wakes before it."""
        run, entry = self._execution, operation.entry
        now_ms, now = run.commits.server_now(), self._loop.time()
        if entry is not None:
            due = until_ms if lasts is None else entry.written + milliseconds(lasts)
            if due == entry.due:
                begun = now - max(0, now_ms - entry.written) / 1000
                return now + (entry.due - now_ms) / 1000, begun, int(entry.payload)
        opening = run.commits.open_wait(operation, lasts=lasts, until_ms=until_ms)
        reply = await run.answered(operation.key, opening)
        _, left, before = reply
        begun = now if entry is None else now - max(0, now_ms - entry.written) / 1000
        return self._loop.time() + int(left) / 1000, begun, int(before)

    def _ending(
        self,
        operation: Operation,
        kind: EntryKind,
        payload: bytes,
        begun: float,
        *,
        seen: int | None = None,
        woken: bool = False,
    ) -> Callable[[Turn], Any]:
        def end(turn: Turn) -> Awaitable[Any]:
            return self._execution.commits.end_wait(
                operation, turn, kind, payload, begun=begun, seen=seen, woken=woken
            )

        return end

    async def _wait_for(self, coming: asyncio.Future[Any], until: float) -> None:
        left = None if until == math.inf else max(0.0, until - self._loop.time())
        await asyncio.wait([coming], timeout=left)

    # A send

    async def _send(
        self, operation: Operation, topic: str, run_id: str, payload: bytes, key: str | None
    ) -> None:
        run = self._execution
        await run.may_start(operation)
        operation.state = State.EXECUTING
        begun = self._loop.time()
        error: AikiError | None = None
        message_id = f"{topic}/{key}" if key else f"{run.scope}/{operation.key}"
        try:
            mailbox = run.host.mailbox_of(run_id)
            await mailbox.post(run_id, topic, payload, message_id=message_id, timeout=None)
        except (NotFound, InvalidTransition, LimitExceeded) as refused:
            error = refused
        except AikiError as trouble:  # the store's, of which no handler hears
            run.steering.stall(f"The store refused to send {operation.key}: {trouble}")
            await run.never()
        kind, data = EntryKind.RESULT, b"null"
        if error is not None:
            kind, data = EntryKind.FAILURE, failure_to_json(failure_from_exception(error))
        await run.record(operation, run.commits.step(kind, operation, 1, begun, data))
        if error is not None:
            raise _refusal(data)


def _was_woken(entry: Entry) -> bool:
    return entry.payload == b"true"


def _was_sent(entry: Entry) -> None:
    if entry.kind is EntryKind.FAILURE:
        raise _refusal(entry.payload)


def _refusal(payload: bytes) -> AikiError:
    failure = failure_from_json(payload)
    kind = _REFUSALS.get(failure.type.rpartition(".")[2], AikiError)
    return kind(failure.message)
