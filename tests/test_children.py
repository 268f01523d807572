"""Runs that a run starts and waits for, and what they give."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import aiki
from aiki import (
    Run,
    RunCancelled,
    RunFailed,
    Status,
    workflow,
)
from tests.support.app import App, becomes, outcomes
from tests.support.families import (
    children,
    children_of,
    double,
    doubles,
    fails,
    sleeps,
)
from tests.support.waiting import eventually

LONG = timedelta(hours=1)


async def test_a_child_gives_its_result_and_is_a_run_like_any_other(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run, number: int) -> list[Any]:
        child = await doubles.start_as_child(run, number)
        return [child.id, await child.wait_for_completion()]

    await app.serve(parents, children)
    handle = await parent.start(app.client, 21)
    child_id, result = await handle.wait_for_completion(60)
    assert result == 42
    assert await doubles.handle(app.client, child_id).wait_for_completion() == 42
    name = children.name
    assert [task.partition("/")[0] for task, _ in await outcomes(handle)] == ["child", "end"]
    described = await app.client.handle(child_id).describe()
    assert (described.workflow, described.version) == (name, "1.0.0")
    assert described.parent == handle.id


async def test_a_child_that_fails_raises_what_its_handle_would(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        child = await fails.start_as_child(run, "no luck")
        try:
            await child.wait_for_completion()
        except RunFailed as error:
            return [error.run_id, error.failure.type, error.failure.message, str(error)]
        return []

    await app.serve(parents, children)
    run_id, kind, message, text = await app.result(parent.bind(), 60)
    assert (kind, message) == ("ValueError", "no luck")
    assert text == f"run {run_id} failed: ValueError: no luck"


async def test_a_failure_that_is_not_caught_fails_the_parent_with_the_child_as_its_cause(
    app: App,
) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        child = await fails.start_as_child(run, "no luck")
        await child.wait_for_completion()

    await app.serve(parents, children)
    with pytest.raises(RunFailed) as failed:
        await app.result(parent.bind(), 60)
    assert failed.value.failure.type == "aiki.errors.RunFailed"
    assert failed.value.failure.cause is not None
    assert failed.value.failure.cause.message == "no luck"


async def test_a_child_that_is_cancelled_from_outside_raises_run_cancelled(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        child = await sleeps.start_as_child(run)
        try:
            return await child.wait_for_completion()
        except RunCancelled as error:
            return f"{error.run_id} {error.reason}"

    await app.serve(parents, children)
    handle = await parent.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    (child_id,) = await eventually(lambda: children_of(app), what="a child")
    assert "waits for its children: " + child_id in (await handle.status()).reason
    await app.client.handle(child_id).cancel("not needed")
    assert await handle.wait_for_completion(60) == f"{child_id} not needed"


async def test_a_parent_cancels_a_child_by_its_handle_as_a_recorded_step(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        child = await sleeps.start_as_child(run)
        await child.cancel("changed my mind")
        try:
            await child.wait_for_completion()
        except RunCancelled as error:
            return error.reason
        return "slept"

    await app.serve(parents, children)
    handle = await parent.start(app.client)
    assert await handle.wait_for_completion(60) == "changed my mind"
    steps = [name.partition("/")[0] for name, _ in await outcomes(handle)]
    assert steps == ["child", "cancel", "end"]


async def test_a_wait_with_a_time_out_raises_timeout_error_and_the_child_goes_on(app: App) -> None:
    parents = workflow("parents")
    released = aiki.event("released")
    waits = workflow("waits")

    @waits.v("1.0.0")
    async def until_released(run: Run) -> str:
        await released.wait(run)
        return "in the end"

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        child = await until_released.start_as_child(run)
        seen: list[str] = []
        for timeout in (0, 0.05, 1.2):  # the last one is long enough to be parked for
            try:
                await child.wait_for_completion(timeout)
            except TimeoutError as error:
                seen.append(str(error))
        await released.send(run, child.id, None)
        return [*seen, await child.wait_for_completion(LONG)]

    await app.serve(parents, waits)
    handle = await parent.start(app.client)
    *seen, last = await handle.wait_for_completion(60)
    assert last == "in the end"
    assert [text.partition(" was ")[2] for text in seen] == [
        "not over within 0 s", "not over within 0.05 s", "not over within 1.2 s"
    ]  # fmt: skip
    assert [outcome for name, outcome in await outcomes(handle) if name.startswith("end/")] == [
        "timed out", "timed out", "timed out", "completed"
    ]  # fmt: skip


async def test_children_are_gathered_in_the_order_that_was_asked_for(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run, count: int) -> list[int]:
        started = await asyncio.gather(*(doubles.start_as_child(run, n) for n in range(count)))
        return await asyncio.gather(*(child.wait_for_completion() for child in started))

    await app.serve(parents, children)
    assert await app.result(parent.bind(8), 60) == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.plain_only("it counts how often a handler is called")
async def test_a_parent_of_many_is_not_repeated_for_each_that_ends(app: App) -> None:
    parents = workflow("parents")
    calls: list[str] = []

    @parents.v("1.0.0")
    async def parent(run: Run, count: int) -> list[str]:
        calls.append(run.id)
        ends = (1.2 + 0.005 * number for number in range(count))  # long enough to be parked for
        started = await asyncio.gather(*(sleeps.start_as_child(run, end) for end in ends))
        return await asyncio.gather(*(child.wait_for_completion() for child in started))

    await app.serve(parents, children)
    assert await app.result(parent.bind(300), 60) == ["slept"] * 300
    assert len(calls) < 30


async def test_a_task_group_whose_child_fails_cancels_its_other_waits_only(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        slow = await sleeps.start_as_child(run)
        bad = await fails.start_as_child(run, "no luck")
        seen: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(slow.wait_for_completion())
                group.create_task(bad.wait_for_completion())
        except* RunFailed as failed:
            seen = [
                error.failure.message for error in failed.exceptions if isinstance(error, RunFailed)
            ]
        await slow.cancel("the group failed")
        try:
            await slow.wait_for_completion()
        except RunCancelled as error:
            seen.append(error.reason)
        return seen

    await app.serve(parents, children)
    first, second = await app.result(parent.bind(), 60)
    assert (first, second) == ("no luck", "the group failed")


async def test_one_child_may_be_waited_for_often_at_once_and_one_after_the_other(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[Any]:
        child = await doubles.start_as_child(run, 2)
        bad = await fails.start_as_child(run, "no luck")
        both = await asyncio.gather(*(child.wait_for_completion() for _ in range(3)))
        failures = await asyncio.gather(
            *(bad.wait_for_completion() for _ in range(3)), return_exceptions=True
        )
        later = await child.wait_for_completion()
        names = [type(failure).__name__ for failure in failures]
        return [*both, *names, await double.start(run, later), await child.wait_for_completion()]

    await app.serve(parents, children)
    found = await app.result(parent.bind(), 60)
    assert found == [4, 4, 4, "RunFailed", "RunFailed", "RunFailed", 8, 4]


async def test_a_child_that_ended_long_before_it_is_waited_for_gives_its_result_at_once(
    app: App,
) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> int:
        child = await doubles.start_as_child(run, 1)
        await run.sleep("meanwhile", 1.5)
        return await child.wait_for_completion(0.5)

    await app.serve(parents, children)
    assert await app.result(parent.bind(), 60) == 2


@pytest.mark.parametrize("policy", ["cancel", "abandon"])
async def test_a_child_need_not_be_waited_for(app: App, policy: Any) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        lasts = 0.3 if policy == "abandon" else 3600.0
        child = await sleeps.with_options(on_parent_close=policy).start_as_child(run, lasts)
        return child.id

    await app.serve(parents, children)
    child = app.client.handle(await app.result(parent.bind(), 60))
    if policy == "abandon":
        assert await child.wait_for_completion(60) == "slept"
    else:
        with pytest.raises(RunCancelled, match=r"its parent, run .*, is over"):
            await child.wait_for_completion(60)


async def test_children_have_children(app: App) -> None:
    family = workflow("family")

    @family.v("1.0.0")
    async def generation(run: Run, left: int) -> int:
        if left == 0:
            return 1
        pair = await asyncio.gather(*(generation.start_as_child(run, left - 1) for _ in "ab"))
        return sum(await asyncio.gather(*(child.wait_for_completion() for child in pair)))

    await app.serve(family)
    assert await app.result(generation.bind(3), 60) == 8


async def test_one_slot_is_enough_for_a_family(app: App) -> None:
    family = workflow("family")

    @family.v("1.0.0")
    async def generation(run: Run, left: int) -> int:
        if left == 0:
            return 1
        started = [await generation.start_as_child(run, left - 1) for _ in "ab"]
        return sum([await child.wait_for_completion() for child in started])

    await app.serve(family, max_concurrent_workflow_runs=1)
    assert await app.result(generation.bind(2), 60) == 4
