"""Runs that a run starts and waits for: what they give, and how long they stay."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import aiki
from aiki import (
    Conflict,
    DataError,
    DefinitionError,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    task,
    workflow,
)
from aiki.store.keys import child_run_id
from aiki.store.scripts import SCRIPTS
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

LONG = timedelta(hours=1)

children = workflow("children")


@task
async def double(number: int) -> int:
    return number * 2


@children.v("1.0.0")
async def doubles(run: Run, number: int) -> int:
    return await double.start(run, number)


@children.v("2.0.0")
async def fails(_run: Run, message: str) -> None:
    raise ValueError(message)


@children.v("3.0.0")
async def sleeps(run: Run, seconds: float = 3600.0) -> str:
    await run.sleep("long", seconds)
    return "slept"


@children.v("4.0.0")
async def returns_much(_run: Run, size: int) -> str:
    return "x" * size


async def read(app: App, run_id: str, field: str) -> bytes | None:
    """Read a field of a run's record."""
    key = f"aiki:{app.namespace}:{{0}}:run:{run_id}"
    found: bytes | None = await app.client.store.link.send(("HGET", key, field))
    return found


async def remove_what_is_over(app: App) -> None:
    """Let the retention of everything that is over end: what a long time would do."""
    link, base = app.client.store.link, f"aiki:{app.namespace}:{{0}}:"
    for status in ("completed", "failed", "cancelled"):
        for workflow_name in await app.client.store.catalog.workflows():
            key = f"{base}index:{status}/{workflow_name}"
            for run_id in await link.send(("ZRANGE", key, "0", "-1")):
                await link.send(("ZADD", key, "XX", "1", run_id))
    await app.client.store.timers.remove_finished(3600, await app.client.store.catalog.workflows())


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
    (child,) = [run async for run in app.client.runs(workflow=children.name)]
    assert "waits for its children: " + child.id in (await handle.status()).reason
    await app.client.handle(child.id).cancel("not needed")
    assert await handle.wait_for_completion(60) == f"{child.id} not needed"


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
    assert first.endswith("failed: ValueError: no luck")
    assert second == "the group failed"


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
        child = await sleeps.with_options(on_parent_close=policy).start_as_child(run, 0.3)
        return child.id

    await app.serve(parents, children)
    child = app.client.handle(await app.result(parent.bind(), 60))
    if policy == "abandon":
        assert await child.wait_for_completion(60) == "slept"
    else:
        with pytest.raises(RunCancelled, match=r"its parent, run .*, is over"):
            await child.wait_for_completion(60)


async def test_equal_starts_make_several_children_and_one_key_makes_one(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[Any]:
        plain = await asyncio.gather(*(doubles.start_as_child(run, 1) for _ in range(3)))
        keyed = doubles.with_options(idempotency_key="once")
        same = await asyncio.gather(*(keyed.start_as_child(run, 1) for _ in range(3)))
        again = await keyed.start_as_child(run, 1)
        other = await doubles.with_options(idempotency_key="twice").start_as_child(run, 1)
        with pytest.raises(Conflict, match="key 'once' belongs to another child of this run"):
            await keyed.start_as_child(run, 2)
        lenient = doubles.with_options(idempotency_key="once", on_conflict="return_existing")
        existing = await lenient.start_as_child(run, 2)
        results = [await child.wait_for_completion() for child in (*plain, *same, other)]
        return [
            len({child.id for child in plain}),
            len({child.id for child in (*same, again, existing)}),
            other.id != again.id,
            results,
        ]

    await app.serve(parents, children)
    assert await app.result(parent.bind(), 60) == [3, 1, True, [2] * 7]
    started = [run async for run in app.client.runs(workflow=children.name)]
    assert len(started) == 5


async def test_a_key_belongs_to_one_parent_and_is_none_of_a_plain_start(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run, _name: str) -> str:
        keyed = doubles.with_options(idempotency_key="mine")
        return (await keyed.start_as_child(run, 1)).id

    await app.serve(parents, children)
    plain = await doubles.with_options(idempotency_key="mine").start(app.client, 9)
    first = await app.result(parent.bind("a"), 60)
    second = await app.result(parent.bind("b"), 60)
    assert len({plain.id, first, second}) == 3
    assert await plain.wait_for_completion(60) == 18


async def test_a_keyed_start_that_was_given_up_and_made_again_is_the_same_child(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        keyed = doubles.with_options(idempotency_key="once")
        first = asyncio.create_task(keyed.start_as_child(run, 1))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        child = await keyed.start_as_child(run, 1)
        return [run.id, child.id, str(await child.wait_for_completion())]

    await app.serve(parents, children)
    _, _, result = await app.result(parent.bind(), 60)
    assert result == "2"
    assert len([run async for run in app.client.runs(workflow=children.name)]) == 1


async def test_a_child_has_the_options_of_its_start(app: App) -> None:
    parents = workflow("parents")
    special = workflow("special")

    @special.v("1.0.0")
    async def here(_run: Run) -> str:
        return "done"

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        elsewhere = here.with_options(pool="heavy", tags=["red"], memo={"by": "parent"})
        late = here.with_options(delay=0.3)
        never = here.with_options(pool="nowhere", start_by=0.2)
        started = [
            await elsewhere.start_as_child(run),
            await late.start_as_child(run),
            await never.start_as_child(run),
        ]
        found = await asyncio.gather(
            *(child.wait_for_completion() for child in started), return_exceptions=True
        )
        return [each if isinstance(each, str) else str(each) for each in found]

    await app.serve(parents, special)
    await app.serve(special, pools=["heavy"])
    elsewhere, late, never = await app.result(parent.bind(), 60)
    assert (elsewhere, late) == ("done", "done")
    assert never.endswith("was cancelled: deadline: it was not started in time")
    (tagged,) = [run async for run in app.client.runs(tag="red")]
    assert (tagged.pool, tagged.memo) == ("heavy", {"by": "parent"})


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


async def test_a_child_is_kept_until_its_parent_has_taken_its_end(app: App) -> None:
    parents = workflow("parents")
    go_on = aiki.event("go-on")

    @parents.v("1.0.0")
    async def parent(run: Run) -> int:
        child = await doubles.start_as_child(run, 4)
        await go_on.wait(run)
        result = await child.wait_for_completion()
        await go_on.wait(run)
        return result

    await app.serve(parents, children, housekeeping=False)
    handle = await parent.start(app.client)
    await eventually(lambda: children_of(app), what="a child")
    (child_id,) = await children_of(app)
    child = doubles.handle(app.client, child_id)
    await child.wait_for_completion(60)
    await remove_what_is_over(app)
    assert (await child.status()).status is Status.COMPLETED, "its parent has not heard of it"
    assert await read(app, child_id, "held") == b"1"
    await go_on.send(handle, None)

    async def is_taken() -> bool:
        return await read(app, child_id, "held") is None

    await eventually(is_taken, what="the child's end to be taken")
    await remove_what_is_over(app)
    with pytest.raises(aiki.NotFound):
        await child.status()
    await go_on.send(handle, None)
    assert await handle.wait_for_completion(60) == 8


async def test_a_child_whose_end_nobody_takes_is_removed_once_its_parent_is_over(app: App) -> None:
    parents = workflow("parents")
    go_on = aiki.event("go-on")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        child = await doubles.start_as_child(run, 4)
        await go_on.wait(run)
        return child.id

    await app.serve(parents, children, housekeeping=False)
    handle = await parent.start(app.client)
    await eventually(lambda: children_of(app), what="a child")
    (child_id,) = await children_of(app)
    await app.client.handle(child_id).wait_for_completion(60)
    await go_on.send(handle, None)
    await handle.wait_for_completion(60)
    await remove_what_is_over(app)  # the one or the other first
    await remove_what_is_over(app)
    assert await app.client.count_runs() == {}


async def children_of(app: App) -> list[str]:
    return [run.id async for run in app.client.runs(workflow=children.name)]


@pytest.mark.plain_only("one run, told by its journal's size")
async def test_a_result_for_which_the_parent_has_no_room_stalls_it_with_the_reason(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.commits.MAX_RUN_BYTES", 1000)
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        child = await returns_much.start_as_child(run, 2000)
        return await child.wait_for_completion()

    await app.serve(parents, children)
    handle = await parent.start(app.client)
    await becomes(handle, Status.STALLED)
    assert (
        "has 2,002 bytes, which are more than the run may still hold"
        in (await handle.status()).reason
    )


async def test_a_result_that_does_not_fit_the_code_stalls_the_parent(app: App) -> None:
    parents, typed = workflow("parents"), workflow("typed")

    @typed.v("1.0.0")
    async def as_declared(_run: Run) -> int:
        return 1

    old = workflow("typed")

    @old.v("1.0.0")
    async def as_executed(_run: Run) -> str:
        return "one"

    @parents.v("1.0.0")
    async def parent(run: Run) -> int:
        child = await as_declared.start_as_child(run)
        try:
            return await child.wait_for_completion()
        except DataError:
            return -1  # a handler cannot see it: the same record would read otherwise elsewhere

    await app.serve(parents, old)
    handle = await parent.start(app.client)
    await becomes(handle, Status.STALLED)
    assert "does not fit the code" in (await handle.status()).reason


async def test_ends_of_children_do_not_keep_events_out(app: App) -> None:
    parents = workflow("parents")
    go_on = aiki.event("go-on")

    @parents.v("1.0.0")
    async def parent(run: Run) -> int:
        for number in range(3):
            await doubles.start_as_child(run, number)
        await go_on.wait(run)
        return 1

    await app.serve(parents, children)
    handle = await parent.start(app.client)

    async def all_have_ended() -> bool:
        return await read(app, handle.id, "ends") == b"3"

    await eventually(all_have_ended, what="the ends of all children")
    store = app.client.store
    post = store.link.send
    reply = await post((
        "EVALSHA", SCRIPTS["post_message"].sha, "1",
        f"aiki:{app.namespace}:{{0}}:", handle.id, "m", "60000", "event/go-on\nnull", "1", "100",
    ))  # fmt: skip
    assert reply == [b"OK"], "three ends are there, and room for one message"
    assert await handle.wait_for_completion(60) == 1


async def test_what_cannot_work_is_refused_where_it_is_written(app: App) -> None:
    parents = workflow("parents")

    @task
    async def inside(number: int) -> str:
        try:
            await doubles.start_as_child(current_run[0], number)
        except DefinitionError as error:
            return str(error)
        return ""

    @task
    async def waits_inside() -> str:
        try:
            await current_child[0].wait_for_completion()
        except DefinitionError as error:
            return str(error)
        return ""

    current_run: list[Run] = []
    current_child: list[aiki.ChildHandle[int]] = []

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        current_run[:] = [run]
        seen = [await inside.start(run, 1)]
        with pytest.raises(DataError):
            await doubles.start_as_child(run, "a")  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="a child of the run that the handler was given"):
            await doubles.start_as_child(app.client, 1)  # type: ignore[arg-type]
        child = await doubles.start_as_child(run, 1)
        current_child[:] = [child]
        seen.append(await waits_inside.start(run))
        for bad in (-1, "a", float("nan")):
            with pytest.raises(DataError):
                await child.wait_for_completion(bad)  # type: ignore[arg-type]
        with pytest.raises(DataError):
            doubles.with_options(on_parent_close="stay")  # type: ignore[call-overload]
        return seen

    await app.serve(parents, children)
    started, waited = await app.result(parent.bind(), 60)
    assert "was started as a child inside a task" in started
    assert "was waited for inside a task" in waited


def test_the_id_of_a_child_follows_from_its_parent_and_the_step_that_starts_it() -> None:
    first = child_run_id("0-parent", "child/x#0")
    assert first == child_run_id("0-parent", "child/x#0")
    assert first != child_run_id("0-parent", "child/x#1")
    assert first.startswith("0-")
