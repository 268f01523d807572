"""Updates: accepted or refused, executed once as part of the run, answered for good."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

import aiki
from aiki import Handle, Run, Update, Workflow, WorkflowVersion, task, workflow
from aiki.errors import (
    AskFailed,
    DataError,
    DefinitionError,
    InvalidTransition,
    NotFound,
    Rejected,
    RunCancelled,
    RunFailed,
    TaskFailed,
)
from aiki.states import Status
from tests.support.app import TIMEOUT, App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.waiting import eventually


@dataclass
class Basket:
    items: list[str] = field(default_factory=list[str])


closed = aiki.event("closed")


@task
async def reserve(item: str) -> str:
    if item == "nothing":
        raise ValueError("no such item")
    return f"a {item}"


def shopping() -> tuple[Workflow, WorkflowVersion[[], list[str]], Update[[str], int]]:
    """Define a workflow that takes updates until it is told to close."""
    wf = workflow("shopping")

    @wf.v("1.0.0")
    async def shopping_v1(run: Run) -> list[str]:
        state = run.state(Basket)
        await closed.wait(run)
        return state.items

    @shopping_v1.update
    async def add(run: Run, state: Basket, item: str) -> int:
        state.items.append(await reserve.start(run, item))
        return len(state.items)

    @add.validator
    def check_item(state: Basket, item: str) -> None:
        if not item:
            raise ValueError("an item has a name")
        if f"a {item}" in state.items:
            raise Rejected(f"there is {item} already")

    return wf, shopping_v1, add


async def test_an_update_runs_steps_of_its_run_and_answers(app: App) -> None:
    wf, version, add = shopping()
    await app.serve(wf)
    handle = await version.start(app.client)
    assert [await add.ask(handle, item) for item in ("cup", "pot", "jug")] == [1, 2, 3]
    await closed.send(handle, None)
    assert await handle.wait_for_completion(TIMEOUT) == ["a cup", "a pot", "a jug"]
    one = [("update", "completed"), ("reserve", "completed"), ("answer/add", "completed")]
    assert await outcomes(handle) == [*one, *one, *one, ("event/closed", "completed")]


async def test_many_updates_at_once_are_each_executed_once(app: App) -> None:
    wf, version, add = shopping()
    await app.serve(wf, inline_wait=0)
    handle = await version.start(app.client)
    other = version.handle(await app.connect(), handle.id)
    names = [f"item {number}" for number in range(8)]
    asked = [add.with_options(id=name).ask(who, name) for name in names for who in (handle, other)]
    answers = await asyncio.gather(*asked)
    assert sorted(answers) == sorted(2 * list(range(1, 9)))
    assert answers[::2] == answers[1::2]
    await closed.send(handle, None)
    items = await handle.wait_for_completion(TIMEOUT)
    assert sorted(items) == sorted(f"a {name}" for name in names)


async def test_a_parked_run_is_woken_by_an_update_and_parks_again(app: App) -> None:
    wf, version, add = shopping()
    await app.serve(wf, inline_wait=0)
    handle = await version.start(app.client)
    for number in range(1, 4):
        await becomes(handle, Status.AWAITING_EVENT)
        assert "event/closed" in (await handle.status()).reason
        assert await add.ask(handle, str(number)) == number
    await becomes(handle, Status.AWAITING_EVENT)


async def test_an_update_that_is_refused_leaves_no_trace_and_may_come_again(app: App) -> None:
    wf, version, add = shopping()
    await app.serve(wf, inline_wait=0)
    handle = await version.start(app.client)
    with pytest.raises(Rejected, match=r"^an item has a name$"):
        await add.ask(handle, "")
    assert await add.ask(handle, "cup") == 1
    again = add.with_options(id="again")
    for _ in range(2):
        with pytest.raises(Rejected, match="there is cup already"):
            await again.ask(handle, "cup")
    assert await again.ask(handle, "pot") == 2
    assert [task for task, _ in await outcomes(handle)].count("update") == 2
    base = f"{app.base_of(handle.id)}run:{handle.id}"
    assert not await app.link_of(handle.id).send(("EXISTS", f"{base}:mailbox"))


async def test_the_answer_is_there_for_whoever_asks_again_also_when_the_run_is_over(
    app: App,
) -> None:
    wf, version, add = shopping()
    await app.serve(wf)
    handle = await version.start(app.client)
    asked = add.with_options(id="the cup")
    assert await asked.ask(handle, "cup") == 1
    assert await asked.ask(handle, "cup") == 1
    with pytest.raises(AskFailed, match="TaskFailed") as failed:
        await add.with_options(id="fails").ask(handle, "nothing")
    await closed.send(handle, None)
    assert await handle.wait_for_completion(TIMEOUT) == ["a cup"]
    assert await asked.ask(version.handle(await app.connect(), handle.id), "cup") == 1
    with pytest.raises(AskFailed) as again:
        await add.with_options(id="fails").ask(handle, "nothing")
    assert again.value.failure == failed.value.failure
    with pytest.raises(InvalidTransition, match="is completed"):
        await add.ask(handle, "late")


async def test_an_update_that_fails_does_not_fail_its_run(app: App) -> None:
    wf, version, add = shopping()
    await app.serve(wf)
    handle = await version.start(app.client)
    with pytest.raises(AskFailed, match="no such item"):
        await add.ask(handle, "nothing")
    assert await add.ask(handle, "cup") == 1


async def test_a_run_waits_for_the_updates_that_it_has_accepted_before_it_ends(app: App) -> None:
    wf = workflow("lingering")
    finished = aiki.event("finished")

    @wf.v("1.0.0")
    async def lingering(run: Run, *, fails: bool) -> str:
        await closed.wait(run)
        if fails:
            raise ValueError("the handler")
        return "the handler"

    @lingering.update
    async def wait_long(run: Run, _: Basket) -> str:
        await finished.wait(run)
        await reserve.start(run, "cup")
        return "the update"

    await app.serve(wf, inline_wait=0)
    for fails in (False, True):
        handle = await lingering.start(app.client, fails=fails)
        asking = asyncio.create_task(wait_long.ask(handle))
        await eventually(partial(has_accepted, handle), TIMEOUT, "the update")
        await closed.send(handle, None)

        async def has_closed(handle: Handle[Any] = handle) -> bool:
            return ("event/closed", "completed") in await outcomes(handle)

        await eventually(has_closed, TIMEOUT, "the end of the handler")
        late = asyncio.create_task(wait_long.ask(handle))
        await becomes(handle, Status.AWAITING_EVENT)
        await finished.send(handle, None)
        assert await asking == "the update"
        with pytest.raises(InvalidTransition, match=r"is (completed|failed)"):
            await late
        if fails:
            with pytest.raises(RunFailed, match="the handler"):
                await handle.wait_for_completion(TIMEOUT)
        else:
            assert await handle.wait_for_completion(TIMEOUT) == "the handler"


async def has_accepted(handle: Handle[Any]) -> bool:
    return ("update", "completed") in await outcomes(handle)


async def test_a_cancel_ends_the_updates_too_and_tells_who_waits(app: App) -> None:
    wf = workflow("cancelled")

    @wf.v("1.0.0")
    async def cancelled(run: Run) -> None:
        await closed.wait(run)

    @cancelled.update
    async def never(run: Run, _: Basket) -> None:
        await aiki.event("never").wait(run)

    await app.serve(wf)
    handle = await cancelled.start(app.client)
    asking = asyncio.create_task(never.ask(handle))
    await eventually(lambda: has_accepted(handle), TIMEOUT, "the update")
    await handle.cancel("enough")
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(TIMEOUT)
    with pytest.raises(AskFailed, match="CancelledError"):
        await asking


async def test_a_handler_sleeps_while_it_takes_updates_and_says_so(app: App) -> None:
    wf = workflow("sleeping")

    @wf.v("1.0.0")
    async def sleeping(run: Run) -> list[str]:
        await run.sleep("a while", 60)
        return run.state(Basket).items

    @sleeping.update
    async def put(run: Run, state: Basket, item: str) -> None:
        await run.sleep("a moment", 0)
        state.items.append(item)

    await app.serve(wf)
    handle = await sleeping.start(app.client)
    await becomes(handle, Status.SLEEPING)
    await put.ask(handle, "cup")
    await becomes(handle, Status.SLEEPING)
    await handle.wake_up()
    assert await handle.wait_for_completion(TIMEOUT) == ["cup"]


async def test_a_handler_that_waits_for_what_is_not_seen_is_not_parked_by_its_updates(
    app: App,
) -> None:
    wf = workflow("unseen")
    gate = asyncio.Event()

    @wf.v("1.0.0")
    async def unseen(run: Run) -> list[str]:
        await gate.wait()
        await reserve.start(run, "last")  # what comes before it is repeated before it
        return run.state(Basket).items

    @unseen.update
    async def put(run: Run, state: Basket, item: str) -> None:
        state.items.append(item)
        await reserve.start(run, item)

    await app.serve(wf, inline_wait=0)
    handle = await unseen.start(app.client)
    await put.ask(handle, "cup")
    assert (await handle.status()).status in (Status.RUNNING, Status.QUEUED)
    gate.set()
    assert await handle.wait_for_completion(TIMEOUT) == ["cup"]


async def test_unknown_updates_and_bad_data_are_refused_with_what_is_known(app: App) -> None:
    wf, version, add = shopping()
    other = workflow("other")

    @other.v("1.0.0")
    async def other_v1(run: Run) -> None:
        await closed.wait(run)

    @other_v1.update
    async def remove(run: Run, _: Basket, item: str) -> None: ...

    await app.serve(wf)
    handle: Handle[Any] = await version.start(app.client)
    with pytest.raises(NotFound, match="no update 'remove'; it has: add"):
        await remove.ask(handle, "cup")
    none = workflow("none")

    @none.v("1.0.0")
    async def none_v1(run: Run) -> None:
        await closed.wait(run)

    await app.serve(none)
    with pytest.raises(NotFound, match="no update 'add'; it has: none"):
        await add.ask(await none_v1.start(app.client), "cup")
    with pytest.raises(DataError, match="parameter 'item' of update add"):
        await add.ask(handle, 7)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="idempotency key"):
        add.with_options(id="")
    unserved = await other_v1.start(app.client)
    with pytest.raises(TimeoutError, match=r"update remove within 0\.05 s: it is queued"):
        await remove.with_options(timeout=0.05).ask(unserved, "cup")


async def test_a_handler_waits_for_what_updates_make_true_or_for_a_time(app: App) -> None:
    wf = workflow("until")

    @wf.v("1.0.0")
    async def until(run: Run) -> list[bool]:
        state = run.state(Basket)
        with pytest.raises(DefinitionError, match="not an async def"):
            await run.until("none", until.handler)
        first = await run.until("one", lambda: state.items)
        both = await asyncio.gather(
            run.until("two", lambda: len(state.items) == 2),
            run.until("never", lambda: len(state.items) == 9, timeout=0.5),
        )
        return [first, *both, await run.until("at once", lambda: True)]

    @until.update
    async def put(_: Run, state: Basket, item: str) -> None:
        state.items.append(item)

    await app.serve(wf, inline_wait=0)
    handle = await until.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    assert "until/one" in (await handle.status()).reason
    await put.ask(handle, "cup")
    await put.ask(handle, "pot")
    assert await handle.wait_for_completion(TIMEOUT) == [True, True, False, True]


async def test_what_a_condition_raises_is_raised_where_it_is_waited_for(app: App) -> None:
    wf = workflow("raises")

    @wf.v("1.0.0")
    async def raises(run: Run) -> str:
        state = run.state(Basket)
        with pytest.raises(TaskFailed, match="until/first' failed after 1 attempt: IndexError"):
            await run.until("first", lambda: state.items[0])
        with pytest.raises(TaskFailed, match="ZeroDivisionError"):
            await run.until("later", lambda: state.items and 1 / 0)
        return "done"

    @raises.update
    async def put(_: Run, state: Basket) -> None:
        state.items.append("cup")

    await app.serve(wf)
    handle = await raises.start(app.client)
    await put.ask(handle)
    assert await handle.wait_for_completion(TIMEOUT) == "done"


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
async def test_whatever_dies_when_each_update_is_executed_once_and_answered(
    app: App, *, unheard: bool
) -> None:
    wf, version, add = shopping()
    for writes in range(1, 15):
        handle = await version.start(app.client)
        asked = [
            asyncio.create_task(add.with_options(id=item).ask(handle, item))
            for item in ("cup", "pot")
        ]
        asking = asyncio.gather(*asked)

        async def close_later(handle: Handle[Any] = handle, asking: Any = asking) -> None:
            await asking
            await closed.send(handle, None)

        closing = asyncio.create_task(close_later())
        runs = await one_life(app, [wf], [handle], {handle.id: writes}, unheard=unheard)
        if handle.id not in runs.dead:
            await closing
            break
        for left in ({handle.id: 1}, {handle.id: 2}, {}):
            if not (await handle.status()).status.is_final:
                await one_life(app, [wf], [handle], left, unheard=unheard)
        await closing
        assert sorted(asking.result()) == [1, 2], writes
        items = await handle.wait_for_completion(TIMEOUT)
        assert sorted(items) == ["a cup", "a pot"], writes
        names = [task for task, _ in await outcomes(handle)]
        assert (names.count("update"), names.count("answer/add")) == (2, 2), writes
    else:
        pytest.fail("no life was long enough to see the end")
