"""Children in great number: `run.map`."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest

import aiki
from aiki import (
    AikiError,
    DataError,
    DefinitionError,
    LimitExceeded,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    task,
    workflow,
)
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

DEADLINE = 60.0

go_on = aiki.event("go-on")
squares = workflow("squares")


@squares.v("1.0.0")
async def square(_run: Run, number: int) -> int:
    return number * number


@squares.v("2.0.0")
async def picky(run: Run, number: int) -> int:
    if number % 3 == 2:
        raise ValueError(f"not {number}")
    if number % 3 == 1:
        await go_on.wait(run)
    return number


@squares.v("3.0.0")
async def who(run: Run, _number: int) -> str:
    return run.id


@squares.v("4.0.0")
async def returns_much(_run: Run, size: int) -> str:
    return "x" * size


class Crowd:
    """How many are at work at once, across the workers of a test."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.present = 0
        self.most = 0
        self.seen = 0

    def enter(self) -> None:
        with self._lock:
            self.present += 1
            self.seen += 1
            self.most = max(self.most, self.present)

    def leave(self) -> None:
        with self._lock:
            self.present -= 1


async def square_all(app: App, count: int) -> list[int]:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run, count: int) -> list[int]:
        return await run.map(square, range(count))

    await app.serve(mapping, squares)
    return await app.result(mapped.bind(count), DEADLINE)


@pytest.mark.parametrize("count", [0, 1, 2, 33, 100])
async def test_results_come_in_the_order_of_the_items(app: App, count: int) -> None:
    assert await square_all(app, count) == [number * number for number in range(count)]


@pytest.mark.parametrize("parallel", [1, 2, 3, 7, 40, 1000])
async def test_no_more_run_at_once_than_may(app: App, parallel: int) -> None:
    crowd = Crowd()
    mapping, busy = workflow("mapping"), workflow("busy")

    @task
    async def enter_and_leave() -> None:
        crowd.enter()
        await asyncio.sleep(0.005)
        crowd.leave()

    @busy.v("1.0.0")
    async def works(run: Run, number: int) -> int:
        await enter_and_leave.start(run)
        return number

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[int]:
        return await run.map(works, range(40), max_parallel=parallel)

    await app.serve(mapping, busy)
    assert await app.result(mapped.bind(), DEADLINE) == list(range(40))
    assert crowd.most <= parallel
    assert crowd.seen == 40
    if parallel > 1:
        assert crowd.most > 1


@pytest.mark.plain_only("what takes long is the number, and replay is the same for a few")
@pytest.mark.parametrize(("count", "parallel"), [(1_000, 1_000), (3_000, 1_000), (3_000, 100)])
async def test_thousands_are_one_entry_of_the_journal(app: App, count: int, parallel: int) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run, count: int) -> int:
        return sum(await run.map(square, range(count), max_parallel=parallel))

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client, count)
    assert await handle.wait_for_completion(DEADLINE) == sum(n * n for n in range(count))
    assert await outcomes(handle) == [("map/squares", "completed")]
    counts = await app.client.count_runs(workflow=squares.name)
    assert counts == {squares.name: {Status.COMPLETED: count}}


@pytest.mark.plain_only("it counts how often a handler is called")
async def test_a_parked_parent_is_woken_once_for_all_of_its_children(app: App) -> None:
    mapping, gated = workflow("mapping"), workflow("gated")
    calls: list[str] = []

    @gated.v("1.0.0")
    async def waits(run: Run, number: int) -> int:
        await go_on.wait(run)
        return number

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> int:
        calls.append(run.id)
        return sum(await run.map(waits, range(50)))

    await app.serve(mapping, gated)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    found = [run.id async for run in app.client.runs(workflow=gated.name)]
    for run_id in found:
        await go_on.send(app.client, run_id, None)
        await asyncio.sleep(0)
    assert await handle.wait_for_completion(DEADLINE) == sum(range(50))
    assert len(calls) == 2


async def test_items_with_equal_input_have_children_of_their_own(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[list[str]]:
        return [await run.map(who, [7] * 5), await run.map(who, [7] * 5)]

    await app.serve(mapping, squares)
    first, second = await app.result(mapped.bind(), DEADLINE)
    assert len({*first, *second}) == 10


async def test_equal_maps_beside_each_other_keep_their_children_apart(app: App) -> None:
    mapping = workflow("mapping")

    @task
    async def nothing() -> None:
        return None

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[bool]:
        first, second = await asyncio.gather(run.map(who, [1, 2]), run.map(who, [1, 2]))
        await nothing.start(run)
        return [len({*first, *second}) == 4]

    await app.serve(mapping, squares)
    assert await app.result(mapped.bind(), DEADLINE) == [True]


async def test_the_first_failure_has_the_others_cancelled_and_is_raised(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[str]:
        try:
            await run.map(picky, [1, 4, 7, 2])
        except RunFailed as error:
            return [error.run_id, error.failure.type, error.failure.message, str(error)]
        return []

    await app.serve(mapping, squares)
    run_id, kind, message, text = await app.result(mapped.bind(), DEADLINE)
    assert (kind, message) == ("ValueError", "not 2")
    assert text == f"run {run_id} failed: ValueError: not 2"

    async def all_are_over() -> bool:
        counts = await app.client.count_runs(workflow=squares.name)
        return counts[squares.name] == {Status.FAILED: 1, Status.CANCELLED: 3}

    await eventually(all_are_over, what="the end of the others")
    (reason,) = {
        (await app.client.handle(run.id).describe()).status
        async for run in app.client.runs(workflow=squares.name, status=Status.CANCELLED)
    }
    assert reason is Status.CANCELLED


async def test_a_failure_that_is_not_caught_fails_the_run(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[int]:
        return await run.map(picky, [0, 2])

    await app.serve(mapping, squares)
    with pytest.raises(RunFailed) as failed:
        await app.result(mapped.bind(), DEADLINE)
    assert failed.value.failure.cause is not None
    assert failed.value.failure.cause.message == "not 2"


async def test_a_child_that_is_cancelled_counts_as_one_that_fails(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[str]:
        try:
            await run.map(picky, [1, 4])
        except RunCancelled as error:
            return [error.run_id, error.reason]
        return []

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    assert "those of squares that are mapped" in (await handle.status()).reason
    (victim, _) = [run.id async for run in app.client.runs(workflow=squares.name)]
    await app.client.handle(victim).cancel("not this: one")
    assert await handle.wait_for_completion(DEADLINE) == [victim, "not this: one"]


async def test_failures_may_stand_among_the_results(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[str]:
        found = await run.map(picky, [0, 2, 1, 3, 5], on_error="return")
        return [
            f"{type(each).__name__} {each.run_id != ''}"
            if isinstance(each, RunFailed | RunCancelled)
            else str(each)
            for each in found
            if not isinstance(each, AikiError) or isinstance(each, RunFailed | RunCancelled)
        ]

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)

    async def one_is_left() -> list[str]:
        waiting = [
            run.id
            async for run in app.client.runs(workflow=squares.name, status=Status.AWAITING_EVENT)
        ]
        return waiting if len(waiting) == 1 else []

    (left,) = await eventually(one_is_left, what="the one that waits")
    await app.client.handle(left).cancel("not this one")
    assert await handle.wait_for_completion(DEADLINE) == [
        "0", "RunFailed True", "RunCancelled True", "3", "RunFailed True",
    ]  # fmt: skip


async def test_a_map_stands_beside_other_things_in_a_gather(app: App) -> None:
    mapping = workflow("mapping")

    @task
    async def add(number: int) -> int:
        return number + 1

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[Any]:
        async def chain() -> int:
            return await add.start(run, await add.start(run, 0))

        child = await square.start_as_child(run, 9)
        found = await asyncio.gather(
            run.map(square, range(5), max_parallel=2),
            chain(),
            run.sleep("a while", 1.2),
            run.map(square, range(3)),
            child.wait_for_completion(),
            go_on.wait(run, timeout=0.1),
        )
        return [*found[:5], found[5] is aiki.TIMEOUT]

    await app.serve(mapping, squares)
    assert await app.result(mapped.bind(), DEADLINE) == [
        [0, 1, 4, 9, 16], 2, False, [0, 1, 4], 81, True
    ]  # fmt: skip


async def test_a_map_that_is_given_up_is_cleaned_up_at_the_end_of_the_run(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> str:
        async def no_longer_than(duration: float) -> None:
            await run.sleep("no longer", duration)
            raise TimeoutError

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(no_longer_than(0.2))
                group.create_task(run.map(picky, [1, 4]))
        except* TimeoutError:
            pass
        return f"{await run.map(square, [3])}"

    await app.serve(mapping, squares)
    assert await app.result(mapped.bind(), DEADLINE) == "[9]"

    async def all_are_over() -> bool:
        counts = await app.client.count_runs(workflow=squares.name)
        return counts[squares.name].get(Status.CANCELLED) == 2

    await eventually(all_are_over, what="the end of those that were given up")


@pytest.mark.parametrize("on_error", ["raise", "return"])
async def test_a_cancel_that_meets_a_map_reaches_its_children(
    app: App, on_error: Literal["raise", "return"]
) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> None:
        if on_error == "raise":
            await run.map(picky, [1, 4, 7], max_parallel=2)
        else:
            await run.map(picky, [1, 4, 7], max_parallel=2, on_error="return")

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    await handle.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(DEADLINE)

    async def all_are_over() -> bool:
        counts = await app.client.count_runs(workflow=squares.name)
        return counts[squares.name] == {Status.CANCELLED: 2}

    await eventually(all_are_over, what="the end of those that were started")


async def test_a_map_goes_on_with_the_worker_that_takes_its_parent_over(app: App) -> None:
    mapping, gated = workflow("mapping"), workflow("gated")

    @gated.v("1.0.0")
    async def waits(run: Run, number: int) -> int:
        await go_on.wait(run)
        app.ledger.note(f"{number}")
        return number

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> int:
        return sum(await run.map(waits, range(30), max_parallel=10))

    first = await app.serve(mapping, inline_wait=3600)  # it never parks
    await app.serve(gated)
    handle = await mapped.start(app.client)

    async def waiting() -> list[str]:
        return [
            run.id
            async for run in app.client.runs(workflow=gated.name, status=Status.AWAITING_EVENT)
        ]

    async def some_wait() -> list[str]:
        found = await waiting()
        return found if len(found) == 10 else []

    for run_id in (await eventually(some_wait, what="the first ten"))[:7]:
        await go_on.send(app.client, run_id, None)
    await app.end(first)
    await app.serve(mapping)

    async def let_go() -> bool:
        for run_id in await waiting():
            await go_on.send(app.client, run_id, None)
        return (await handle.status()).status.is_final

    await eventually(let_go, DEADLINE, "the end of all")
    assert await handle.wait_for_completion(DEADLINE) == sum(range(30))
    counts = await app.client.count_runs(workflow=gated.name)
    assert counts[gated.name] == {Status.COMPLETED: 30}, "each was started once"


async def test_a_replay_reads_the_results_again_and_starts_nothing(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[Any]:
        seen: list[Any] = [await run.map(square, range(4))]
        try:
            await run.map(picky, [2])
        except RunFailed as error:
            seen.append(error.failure.message)
        await go_on.wait(run)
        return seen

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    before = await app.client.count_runs(workflow=squares.name)
    await go_on.send(handle, None)
    assert await handle.wait_for_completion(DEADLINE) == [[0, 1, 4, 9], "not 2"]
    assert await app.client.count_runs(workflow=squares.name) == before


async def test_a_replay_whose_children_are_gone_stalls_with_the_reason(app: App) -> None:
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[str]:
        found = await run.map(who, range(2))
        await go_on.wait(run)
        return found

    await app.serve(mapping, squares)
    handle = await mapped.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    base, link = f"aiki:{app.namespace}:{{0}}:", app.client.store.link
    async for run in app.client.runs(workflow=squares.name):
        await link.send(("DEL", f"{base}run:{run.id}"))
    await go_on.send(handle, None)
    await becomes(handle, Status.STALLED)
    assert "is recorded as over and is not there" in (await handle.status()).reason


async def test_results_that_are_too_large_together_are_refused(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.mapping.MAX_RESULTS", 1000)
    mapping = workflow("mapping")

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> list[str]:
        try:
            await run.map(returns_much, [400, 400, 400])
        except LimitExceeded as error:
            return [str(error), *await run.map(returns_much, [3])]
        return []

    await app.serve(mapping, squares)
    message, small = await app.result(mapped.bind(), DEADLINE)
    assert message.startswith("the results of run.map have more than")
    assert small == "xxx"


async def test_large_inputs_are_started_in_small_company(app: App) -> None:
    mapping, large = workflow("mapping"), workflow("large")

    @large.v("1.0.0")
    async def size(_run: Run, text: str) -> int:
        return len(text)

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> int:
        return sum(await run.map(size, ["x" * 700_000] * 6))

    await app.serve(mapping, large)
    assert await app.result(mapped.bind(), DEADLINE) == 4_200_000


async def test_what_cannot_be_mapped_is_refused_before_anything_is_started(app: App) -> None:
    mapping = workflow("mapping")

    def endless() -> Iterator[int]:
        while True:
            yield 1

    @mapping.v("1.0.0")
    async def mapped(run: Run) -> str:
        for parallel in (0, -1, True, 1.5, "2"):
            with pytest.raises(DataError, match="max_parallel is a whole number of at least 1"):
                await run.map(square, [1], max_parallel=parallel)  # type: ignore[arg-type]
        with pytest.raises(DataError, match='on_error is "raise" or "return"'):
            await run.map(square, [1], on_error="ignore")  # type: ignore[call-overload]
        with pytest.raises(LimitExceeded, match="at most 10,000 items"):
            await run.map(square, endless())
        with pytest.raises(DataError):
            await run.map(square, [1, "a"])  # type: ignore[misc]
        with pytest.raises(DefinitionError, match="without options about one run"):
            await run.map(square.with_options(idempotency_key="one"), [1])
        with pytest.raises(DefinitionError, match="without options about one run"):
            await run.map(square.with_options(delay=5), [1])
        with pytest.raises(DefinitionError, match="takes a version of a workflow"):
            await run.map(workflow, [1])  # type: ignore[call-overload]
        return "refused"

    await app.serve(mapping, squares)
    assert await app.result(mapped.bind(), DEADLINE) == "refused"
    assert await app.client.count_runs(workflow=squares.name) in ({}, {squares.name: {}})
