"""Updates: taken out of the mail one after the other, executed as branches of the run, answered.

That an update was accepted is an outcome from outside, like a message that the handler waits for:
it is recorded, and a repetition gives it in its round. So an update's code begins where it began,
and meets the handler's branches where it met them. Its steps are the run's steps, and its answer is
recorded as one. All of it happens beside the handler; once that has ended, no update is accepted,
and those that were are waited for.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aiki.asked import (
    ANSWER,
    FAILURE,
    REJECTED,
    UNFIT,
    UNKNOWN,
    UPDATE,
    Asked,
    answer,
    answer_address,
    answer_key,
    read_question,
    unfit,
    unknown,
)
from aiki.errors import DataError, DefinitionError, LimitExceeded
from aiki.execution import Execution
from aiki.failures import failure_from_exception, failure_to_json
from aiki.operation import Operation, State
from aiki.records import Entry, EntryKind, Message
from aiki.rounds import Turn
from aiki.states import Status


@dataclass(frozen=True, slots=True)
class _Accepted:
    """An update that was accepted, as it is recorded."""

    name: str
    id: str
    args: bytes

    def stored(self) -> bytes:
        """Give the stored form, which is JSON as every result is."""
        about = b'"id":%b,"name":%b' % (
            json.dumps(self.id).encode(),
            json.dumps(self.name).encode(),
        )
        return b'{"args":%b,%b}' % (self.args, about)

    @classmethod
    def parse(cls, payload: bytes) -> _Accepted:
        """Read the stored form."""
        stored = json.loads(payload)
        args = json.dumps(stored["args"], ensure_ascii=False).encode()
        return cls(stored["name"], stored["id"], args)


class Updates:
    """The updates of one run whose version has some."""

    def __init__(self, execution: Execution, run: Any) -> None:
        self._execution = execution
        self._run = run
        self._asked: Mapping[str, Asked] = execution.asked
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()  # the handler, that is
        self._tasks: set[asyncio.Task[None]] = set()

    async def beside(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Call the handler and take updates meanwhile; return when all of it has ended."""
        self._spawn(self._take_all())
        try:
            try:
                return await handler()
            finally:
                if not self._execution.is_closed:
                    await self.end()
        finally:
            for task in self._tasks:
                task.cancel()

    async def end(self) -> None:
        """Accept nothing more, and wait for what was accepted; a cancel ends it early.

        Raises `DefinitionError` inside an update, which would wait for itself.
        """
        if asyncio.current_task() in self._tasks:
            raise DefinitionError(
                "run.continue_as_new() was called in an update, which has to be answered first; "
                "let the update tell the handler, by the run's state, and the handler do it"
            )
        if not self._ended.done():
            self._ended.set_result(None)
        is_told = False
        while left := [task for task in self._tasks if not task.done()]:
            if self._execution.cancel_delivered and not is_told:
                is_told = True
                for task in left:
                    task.cancel()
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError:
                if self._execution.is_closed or not self._execution.cancel_delivered:
                    raise

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What is accepted

    async def _take_all(self) -> None:
        run = self._execution
        while True:
            accepted = await run.operate(UPDATE, self._take, _accepted, is_aside=True)
            if accepted is None:
                return
            asked = self._asked.get(f"{UPDATE}/{accepted.name}")
            if asked is None:
                run.steering.stall(f"The code has no update {accepted.name!r} any more.")
                await run.never()
            self._spawn(self._execute(asked, accepted))

    async def _take(self, operation: Operation) -> _Accepted | None:
        """Wait for the next update that is accepted; None where the handler has ended."""
        run = self._execution
        if operation.entry is None:
            await run.may_start(operation)
        while not self._ended.done():
            coming = run.news.mail.next(UPDATE)
            try:
                if not coming.done():
                    run.wait_begins(operation, math.inf, Status.AWAITING_EVENT, coming)
                    either: list[asyncio.Future[Any]] = [coming, self._ended]
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done() or self._ended.done():
                    break
                message = coming.result()
                accepted = self._judged(message)
                if isinstance(accepted, _Accepted):
                    await run.record_for_good(operation, self._taking(operation, message, accepted))
                    return accepted
                operation.state = State.COMMITTING  # it must not park before it has read on
                await self._refuse(message, *accepted)
            finally:
                coming.cancel()
        return None

    def _judged(self, message: Message) -> _Accepted | tuple[str, bytes]:
        """Accept a message, or say why not."""
        name = message.topic.partition("/")[2]
        update_id, payload = read_question(message.payload)
        asked = self._asked.get(f"{UPDATE}/{name}")
        if asked is None:
            known = [each.name for each in self._asked.values() if each.kind == UPDATE]
            return UNKNOWN, unknown(UPDATE, name, known)
        accepted = _Accepted(name, update_id, payload)
        try:
            args, kwargs = asked.decode(payload)
            self._execution.commits.check_room(accepted.stored())
        except DataError as error:
            return UNFIT, unfit(error)
        except LimitExceeded as error:
            return REJECTED, str(error).encode()
        if asked.validator is not None:
            try:
                asked.validator(self._execution.state(asked.state), *args, **kwargs)
            except Exception as error:  # noqa: BLE001 - whatever it is, it says no
                told = str(error) or type(error).__name__
                return REJECTED, told.encode("utf-8", "backslashreplace")
        return accepted

    def _taking(
        self, operation: Operation, message: Message, accepted: _Accepted
    ) -> Callable[[Turn], Coroutine[Any, Any, Any]]:
        commits, begun = self._execution.commits, self._loop.time()
        kind, payload = EntryKind.RESULT, accepted.stored()
        return lambda turn: commits.consume(operation, turn, message, kind, payload, begun=begun)

    async def _refuse(self, message: Message, kind: str, payload: bytes) -> None:
        run = self._execution
        update_id, _ = read_question(message.payload)
        told = answer(update_id, kind, payload)
        forget = answer_key(message.topic.partition("/")[2], update_id)
        sending = run.host.mailbox.answer_unrecorded(run.owner, message.number, forget, told)
        if not await run.written(f"the answer to {message.topic}", sending):
            await run.never()

    # What is executed

    async def _execute(self, asked: Asked, accepted: _Accepted) -> None:
        run = self._execution
        kind, payload = EntryKind.RESULT, b""
        try:
            args, kwargs = asked.decode(accepted.args)
        except DataError as error:
            run.steering.stall(f"Update {accepted.id!r} no longer fits the code: {error}")
            await run.never()
        try:
            value = await asked.fn(self._run, run.state(asked.state), *args, **kwargs)
            payload = asked.result.encode(value)[0]
            run.commits.check_room(payload)
        except BaseException as error:
            if run.is_closed or isinstance(error, GeneratorExit | KeyboardInterrupt):
                raise
            kind, payload = EntryKind.FAILURE, failure_to_json(failure_from_exception(error))

        async def record(operation: Operation) -> None:
            told = answer(accepted.id, ANSWER if kind is EntryKind.RESULT else FAILURE, payload)
            begun = self._loop.time()
            await run.may_start(operation)
            await run.record_for_good(
                operation,
                lambda turn: run.commits.answer(operation, turn, kind, payload, told, begun=begun),
            )

        address = answer_address(accepted.name, accepted.id)
        await run.operate(address, record, lambda _: None)


def _accepted(entry: Entry) -> _Accepted:
    try:
        return _Accepted.parse(entry.payload)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"an update is damaged: {error!r}") from None
