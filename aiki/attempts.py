"""The attempts of a step: executed, judged, recorded, and made again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from aiki.codec import address
from aiki.current_step import CurrentStep
from aiki.execution import Execution
from aiki.failures import failure_from_exception, failure_to_json, task_failed
from aiki.once import Once
from aiki.operation import Operation, State
from aiki.records import Entry, EntryKind, open_payload
from aiki.states import Status
from aiki.step import StepSpec, ThreadLeft, call


class Attempts:
    """Executes the tasks of one run as steps."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._once = Once()

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
        if called is None:
            name = self._execution.address(spec.name, payload)
        else:
            name = address(spec.name, called)  # known by anybody

        def perform(operation: Operation) -> Any:
            return self._perform(operation, spec, args, kwargs)

        def read(entry: Entry) -> Any:
            return _outcome(spec, entry)

        if not spec.once:
            return await self._execution.operate(name, perform, read)
        return await self._once.call(name, lambda: self._execution.operate(name, perform, read))

    async def _perform(
        self,
        operation: Operation,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        run, entry = self._execution, operation.entry
        commits, host = run.commits, run.host
        attempt, begun, failure, details = 1, run.loop.time(), b"", b""
        if entry is not None:
            failure, details = entry.failure, entry.details
            now = commits.server_now()
            attempt = entry.attempts + 1
            begun -= (entry.spent + max(0, now - entry.written)) / 1000
            if entry.due > now:
                await self._wait(operation, (entry.due - now) / 1000)
        while True:
            await run.may_start(operation)
            operation.state = State.EXECUTING
            about = CurrentStep(
                run, operation.key, spec.name, attempt,
                begun=begun, failure=failure, details=details,
            )  # fmt: skip
            try:
                value = await call(spec, about, args, kwargs, host.threads, host.around_task)
                if operation.is_cancelled:
                    raise asyncio.CancelledError  # noqa: TRY301 - the task caught it
                payload, value = commits.encoded(spec, value)
                await run.flush()
            except BaseException as caught:
                if run.is_closing(caught, operation.task):
                    raise
                error = caught  # whatever it is, it is a failed attempt
            else:
                commit = commits.step(EntryKind.RESULT, operation, attempt, begun, payload)
                await run.record(operation, commit)
                return value
            await self._judge(operation, spec, error)
            spent = run.loop.time() - begun
            delay = spec.next_delay(attempt, spent, error, random.random())  # noqa: S311
            payload = failure = failure_to_json(failure_from_exception(error))
            if delay is None:
                commit = commits.step(EntryKind.FAILURE, operation, attempt, begun, payload)
                await run.record(operation, commit)
                # On a replay there is only the record, so that is all there is the first time.
                raise task_failed(spec.name, attempt, payload) from None
            del error
            operation.state = State.COMMITTING
            details = about.details
            payload = open_payload(failure, details)
            failed = commits.attempt(operation, attempt, begun, payload, delay)
            if not await run.written(operation.key, failed) or run.is_closed:
                await run.never()
            await self._wait(operation, delay)
            attempt += 1

    async def _judge(self, operation: Operation, spec: StepSpec, error: BaseException) -> None:
        """Tell a failed attempt from what only looks like one; return where it is one."""
        run = self._execution
        if isinstance(error, KeyboardInterrupt):
            run.host.interrupt(error)
            await run.given_up(operation)
        if run.is_closed or operation.is_cancelled:
            # Whatever the task made of it: a step that is not awaited any more has no outcome.
            raise asyncio.CancelledError
        if operation.state is State.POINT:
            await run.until_cancelled()
        if isinstance(error, ThreadLeft):
            run.host.recycle(f"a thread of task {spec.name!r} goes on after its time-out")

    async def _wait(self, operation: Operation, delay: float) -> None:
        until = self._execution.loop.time() + delay
        self._execution.wait_begins(operation, until, Status.AWAITING_RETRY)
        await asyncio.sleep(delay)


def _outcome(spec: StepSpec, entry: Entry) -> Any:
    """Give what is recorded of a step, as its handler gets it."""
    if entry.kind is EntryKind.RESULT:
        return spec.result.decode(entry.payload)
    raise task_failed(spec.name, entry.attempts, entry.payload)
