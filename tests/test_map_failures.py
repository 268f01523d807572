"""Maps that fail, are cancelled or given up, are too large, or refused."""

import asyncio
from collections.abc import Iterator
from typing import Literal

import pytest

from aiki import (
    AikiError,
    DataError,
    DefinitionError,
    LimitExceeded,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    workflow,
)
from tests.support.app import App, becomes
from tests.support.families import gives_much, go_on, picky, square, squares, who
from tests.support.waiting import eventually

DEADLINE = 60.0


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

    async def both_wait() -> list[str]:  # a listing may leave out what moves meanwhile
        waiting = app.client.runs(workflow=squares.name, status=Status.AWAITING_EVENT)
        found = [run.id async for run in waiting]
        return found if len(found) == 2 else []

    victim, _ = await eventually(both_wait, what="the children that wait")
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
    base, link = app.base_of(handle.id), app.link_of(handle.id)
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
            await run.map(gives_much, [400, 400, 400])
        except LimitExceeded as error:
            return [str(error), *await run.map(gives_much, [3])]
        return []

    await app.serve(mapping, squares)
    message, small = await app.result(mapped.bind(), DEADLINE)
    assert message.startswith("the results of run.map have more than")
    assert small == "xxx"


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
