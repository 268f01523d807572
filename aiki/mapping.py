"""A map: children in great number, of which the journal holds one entry.

How they stand is kept in one small hash, and each result in its child's record.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

from aiki.call import Call
from aiki.codec import MAX_PAYLOAD, Codec
from aiki.ends import outcome, read_error, stored_error
from aiki.errors import AikiError, DataError, DefinitionError, LimitExceeded
from aiki.execution import Execution
from aiki.operation import Operation
from aiki.records import Entry, EntryKind
from aiki.states import Status
from aiki.store.children import MapState, NewChild
from aiki.store.keys import child_run_id

OnError: TypeAlias = Literal["raise", "return"]

STARTED_TOGETHER = 32  # by one script
READ_TOGETHER = 200
LOOK_AGAIN = 0.1  # seconds, after a child that had failed was retried
MAX_MAPPED = 10_000
MAX_RESULTS = 64 * 1024 * 1024  # bytes: they are all in the memory of the worker at once


class ChildMap:
    """One map of one run: which of its children are started, and which have ended."""

    def __init__(
        self, execution: Execution, calls: Sequence[Call[Any]], max_parallel: int, on_error: OnError
    ) -> None:
        if any(call.options.idempotency_key or call.options.at for call in calls):
            raise DefinitionError("run.map takes a version, without options about one run")
        self._execution = execution
        self._store = execution.host.children
        self._calls = calls
        self._parallel = max_parallel
        self._is_strict = on_error == "raise"
        self._origin = execution.scope
        self._key = ""
        self._results: list[Any] = []

    async def results(self) -> list[Any]:
        """Start the children, so many at a time; give their results in order."""
        if not self._calls:
            return []
        how = "raise" if self._is_strict else "return"
        parts = [call.version.encode() + b"\n" + call.payload for call in self._calls]
        content = b"\n".join([*parts, how.encode()])
        name = self._execution.address(f"map/{self._calls[0].workflow}", content)
        return await self._execution.operate(name, self._perform, self._read, fetch=self._fetch)

    # What is recorded

    async def _fetch(self, key: str, entry: Entry) -> None:
        """Read the results of a map that is recorded as done."""
        self._key = key
        self._origin = str(json.loads(entry.payload)["of"])  # a fork has the record of another run
        self._results = await self._outcomes()

    def _read(self, entry: Entry) -> list[Any]:
        if entry.kind is EntryKind.FAILURE:
            raise read_error(entry.payload)
        return self._results

    # What is done

    async def _perform(self, operation: Operation) -> list[Any]:
        run, loop = self._execution, asyncio.get_running_loop()
        self._key, begun = operation.key, loop.time()
        if operation.entry is None:
            await run.may_start(operation)
        else:
            begun -= max(0, run.commits.server_now() - operation.entry.written) / 1000
        told = run.news.next()
        try:
            while True:
                await run.works(operation)
                state = await self._store.read_map(run.owner.run_id, scoped(run, self._key))
                if self._is_strict and state.first_failed is not None:
                    await self._fail(operation, state.first_failed, begun)
                    await asyncio.sleep(LOOK_AGAIN)
                    continue
                if state.ended == len(self._calls):
                    return await self._complete(operation, begun)
                await self._start_more(operation, state)
                run.wait_begins(operation, math.inf, Status.AWAITING_CHILD, told)
                await asyncio.wait([told])
                told = run.news.next()
        except DataError as error:
            run.steering.stall(f"What is stored of {self._key} does not fit the code: {error}")
            await run.never()
        finally:
            told.cancel()

    async def _start_more(self, operation: Operation, state: MapState) -> None:
        """Start as many as may run, and say when to be told of ends."""
        run = self._execution
        running = state.started - state.ended
        left = len(self._calls) - state.started
        more = min(left, max(0, self._parallel - running))
        # Told of each end, a run that is parked would be repeated as often. Of the last ones it is
        # told together; before, when half of those that run have made room for others.
        running += more
        wake_at = state.ended + (running if more == left else max(1, running // 2))
        parts = list(self._parts(state.started, more)) or [[]]
        for part in parts:
            if part:
                await run.may_start(operation)
                await run.works(operation)
            starting = run.commits.start_children(
                operation, new_child(self._calls[0]), part, strict=self._is_strict,
                wake_at=wake_at if part is parts[-1] else 0,
            )  # fmt: skip
            if not await run.written(operation.key, starting):
                await run.never()

    def _parts(self, first: int, count: int) -> Iterator[list[tuple[int, str, bytes]]]:
        """Cut into what is sent together: so many, and no more than the largest single payload."""
        part: list[tuple[int, str, bytes]] = []
        size = 0
        for number in range(first, first + count):
            payload = self._calls[number].payload
            if len(part) == STARTED_TOGETHER or (part and size + len(payload) > MAX_PAYLOAD):
                yield part
                part, size = [], 0
            part.append((number, self._child_id(number), payload))
            size += len(payload)
        if part:
            yield part

    async def _complete(self, operation: Operation, begun: float) -> list[Any]:
        run = self._execution
        try:
            results = await self._outcomes()
        except LimitExceeded as error:
            await self._record_failure(operation, error, begun)
        told = json.dumps({"children": len(results), "of": self._origin}).encode()
        await run.record(operation, run.commits.step(EntryKind.RESULT, operation, 1, begun, told))
        return results

    async def _fail(self, operation: Operation, failed: int, begun: float) -> None:
        """Have the others end, and raise what the first one has failed with.

        Returns where that one was retried meanwhile, which took back what it had told.
        """
        run = self._execution
        child_id = self._child_id(failed)
        found = (await self._store.outcomes([child_id]))[0]
        if found is None or found[0] is Status.COMPLETED:
            return
        left = await self._store.still_mapped(run.owner.run_id, scoped(run, self._key))
        others = [self._child_id(number) for number in left]
        await self._store.cancel(others, f"child {child_id} of the same map failed")
        error = outcome(child_id, Codec(object, "a child"), *found)
        await self._record_failure(operation, error, begun)

    async def _record_failure(
        self, operation: Operation, error: AikiError, begun: float
    ) -> NoReturn:
        run, stored = self._execution, stored_error(error)
        await run.record(
            operation, run.commits.step(EntryKind.FAILURE, operation, 1, begun, stored)
        )
        # On a replay there is only the record, so that is all there is the first time.
        raise read_error(stored) from None

    async def _outcomes(self) -> list[Any]:
        """Read what each child has come to.

        Raises:
            DataError: that is not what the code says, or is gone.
            LimitExceeded: it is too much to be held in memory.
        """
        results: list[Any] = []
        size, total = 0, len(self._calls)
        for first in range(0, total, READ_TOGETHER):
            numbers = range(first, min(first + READ_TOGETHER, total))
            ids = [self._child_id(number) for number in numbers]
            for number, child_id, found in zip(
                numbers, ids, await self._store.outcomes(ids), strict=True
            ):
                if found is None:
                    raise DataError(f"child {child_id} is recorded as over and is not there")
                size += len(found[1])
                results.append(outcome(child_id, self._calls[number].result, *found))
            if size > MAX_RESULTS:
                raise LimitExceeded(
                    f"the results of run.map have more than {MAX_RESULTS >> 20} MiB; store large "
                    "data elsewhere and return where it is, or map over parts"
                )
        return results

    def _child_id(self, number: int) -> str:
        origin, _, generation = self._origin.partition("~")
        key = f"{self._key}~{generation}" if generation else self._key
        return child_run_id(origin, f"{key}/{number}")


def scoped(run: Execution, key: str) -> str:
    """Give a key that no other generation of the run has."""
    return key + run.scope.removeprefix(run.owner.run_id)


def new_child(call: Call[Any]) -> NewChild:
    """Give what a child is a run of, as the store is told."""
    options = call.options
    return NewChild(
        call.workflow, call.version, options.pool, options.packed(), options.on_parent_close
    )
