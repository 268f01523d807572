"""Children by their keys and options, how long they stay, and what is refused."""

import asyncio
from typing import Any

import pytest

import aiki
from aiki import (
    Conflict,
    DataError,
    DefinitionError,
    Run,
    Status,
    task,
    workflow,
)
from aiki.store.keys import child_run_id
from aiki.store.scripts import SCRIPTS
from tests.support.app import App, becomes
from tests.support.families import (
    children,
    children_of,
    doubles,
    go_on,
    read,
    remove_what_is_over,
    returns_much,
)
from tests.support.waiting import eventually


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
    (child_id,) = await eventually(lambda: children_of(app), what="a child")
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
    (child_id,) = await eventually(lambda: children_of(app), what="a child")
    await app.client.handle(child_id).wait_for_completion(60)
    await go_on.send(handle, None)
    await handle.wait_for_completion(60)
    await remove_what_is_over(app)  # the one or the other first
    await remove_what_is_over(app)
    assert await app.client.count_runs() == {}


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
    reply = await app.link_of(handle.id).send((
        "EVALSHA", SCRIPTS["post_message"].sha, "1",
        app.base_of(handle.id), handle.id, "m", "60000", "event/go-on\nnull", "1", "100",
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


async def test_those_of_a_map_stay_for_a_parent_that_may_be_retried_or_forked(app: App) -> None:
    failing = {"yes"}

    @task
    async def shaky() -> None:
        if failing:
            raise ConnectionError("down")

    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[int]:
        found = await run.map(doubles, [1, 2, 3])
        await shaky.start(run)
        return found

    await app.serve(parents, children)
    handle = await parent.start(app.client)
    await becomes(handle, Status.FAILED)
    base, link = app.base_of(handle.id), app.link_of(handle.id)
    for run_id in await children_of(app):
        await link.send(("ZADD", f"{base}index:completed/{children.name}", "XX", "1", run_id))
    for store in app.client.partitions.all:
        await store.timers.remove_finished(3600, [children.name])
    failing.clear()
    fork = await handle.fork()
    assert await fork.wait_for_completion(60) == [2, 4, 6]
    await handle.retry()
    assert await handle.wait_for_completion(60) == [2, 4, 6]
    for _ in range(2):  # of their parent, and then of themselves
        await remove_what_is_over(app)
    assert await children_of(app) == []


@pytest.mark.parametrize("is_map", [False, True])
async def test_those_of_earlier_generations_are_left_to_their_retention(
    app: App, *, is_map: bool
) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run, number: int) -> None:
        if is_map:
            await run.map(doubles, [1, 2])
        else:
            await doubles.with_options(on_parent_close="abandon").start_as_child(run, number)
            await run.sleep("a moment", 0.01)
        if number < 3:
            await run.continue_as_new(number + 1)
        await go_on.wait(run)

    await app.serve(parents, children)
    handle = await parent.start(app.client, 1)
    await becomes(handle, Status.AWAITING_EVENT)
    count = 6 if is_map else 3

    async def are_over() -> bool:
        ended = app.client.runs(workflow=children.name, status=Status.COMPLETED)
        return len([run async for run in ended]) == count

    await eventually(are_over, what="the children")
    await remove_what_is_over(app)
    left = [await read(app, child, "parent_generation") for child in await children_of(app)]
    assert set(left) == {b"2"}, "only those of the last generation"
    base, link = app.base_of(handle.id), app.link_of(handle.id)
    told = await link.send(("HLEN", f"{base}run:{handle.id}:mailbox"))
    assert told == (0 if is_map else 1)
