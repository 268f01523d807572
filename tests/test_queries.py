"""Queries: answered by whoever owns the run, out of its state, with nothing recorded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

import aiki
from aiki import Handle, Run, Workflow, WorkflowVersion, task, workflow
from aiki.ask import Query
from aiki.errors import (
    AskFailed,
    DataError,
    DefinitionError,
    InvalidTransition,
    LimitExceeded,
    NotFound,
)
from aiki.states import Status
from tests.support.app import TIMEOUT, App, becomes, outcomes


@dataclass
class Progress:
    done: list[str] = field(default_factory=list[str])
    waits: bool = False


@dataclass(frozen=True)
class Told:
    done: list[str]
    waits: bool


go_on = aiki.event("go-on")


@task
async def work(name: str) -> str:
    return name


def working() -> tuple[Workflow, WorkflowVersion[[list[str]], int], Query[[], Told]]:
    """Define a workflow that does something, waits, and does something again."""
    wf = workflow("working")

    @wf.v("1.0.0")
    async def working(run: Run, names: list[str]) -> int:
        state = run.state(Progress)
        for name in names:
            state.done.append(await work.start(run, name))
        state.waits = True
        await go_on.wait(run)
        state.waits = False
        return len(state.done)

    @working.query
    def told(state: Progress) -> Told:
        return Told(state.done, state.waits)

    return wf, working, told


async def test_a_run_tells_what_it_is_at_and_records_nothing(app: App) -> None:
    wf, version, told = working()
    await app.serve(wf)
    handle = await version.start(app.client, ["a", "b"])

    async def is_waiting() -> bool:
        return (await told.ask(handle)).waits

    async with asyncio.timeout(TIMEOUT):
        while not await is_waiting():
            pass
    before = await outcomes(handle)
    answers = await asyncio.gather(*(told.ask(handle) for _ in range(20)))
    assert answers == [Told(["a", "b"], waits=True)] * 20
    assert await outcomes(handle) == before == [("work", "completed"), ("work", "completed")]
    await go_on.send(handle, None)
    assert await handle.wait_for_completion(TIMEOUT) == 2


async def test_a_run_that_is_parked_is_woken_to_answer_and_parks_again(app: App) -> None:
    wf, version, told = working()
    await app.serve(wf, inline_wait=0)
    handle = await version.start(app.client, ["a"])
    for _ in range(3):
        await becomes(handle, Status.AWAITING_EVENT)
        assert await told.ask(handle) == Told(["a"], waits=True)
    await becomes(handle, Status.AWAITING_EVENT)
    await go_on.send(handle, None)
    assert await handle.wait_for_completion(TIMEOUT) == 1
    base = f"{app.base_of(handle.id)}run:{handle.id}"
    link = app.link_of(handle.id)
    assert await link.send(("HGET", base, "unread")) in (b"0", None)
    assert not await link.send(("EXISTS", f"{base}:mailbox"))


async def test_a_query_waits_for_a_worker_and_says_what_it_waited_for_when_none_came(
    app: App,
) -> None:
    wf, version, told = working()
    handle = await version.start(app.client, [])
    with pytest.raises(TimeoutError, match=r"query told within 0\.1 s: it is queued: waits for"):
        await told.with_options(timeout=0.1).ask(handle)
    asking = asyncio.create_task(told.ask(handle))
    await app.serve(wf)
    assert (await asking).done == []


async def test_a_run_that_is_over_or_held_is_not_asked(app: App) -> None:
    wf, version, told = working()
    held = await version.start(app.client, [])
    link, base = app.link_of(held.id), f"{app.base_of(held.id)}run:{held.id}"
    await link.send(("HSET", base, "input", "{"))
    await app.serve(wf)
    handle = await version.start(app.client, [])
    await go_on.send(handle, None)
    await handle.wait_for_completion(TIMEOUT)
    with pytest.raises(InvalidTransition, match="is completed"):
        await told.ask(handle)
    with pytest.raises(NotFound, match="there is no run"):
        await told.ask(app.client.handle("0-nobody"))
    await becomes(held, Status.STALLED)
    with pytest.raises(InvalidTransition, match="is stalled and cannot be asked: The run's input"):
        await told.ask(held)


async def test_whoever_asks_hears_that_the_run_has_ended_meanwhile(app: App) -> None:
    wf, version, told = working()
    handle = await version.start(app.client, [])
    asking = asyncio.create_task(told.ask(handle))
    link, base = app.link_of(handle.id), f"{app.base_of(handle.id)}run:{handle.id}"

    async with asyncio.timeout(TIMEOUT):
        while not await link.send(("EXISTS", f"{base}:mailbox")):
            pass
    await handle.cancel("enough")
    with pytest.raises(InvalidTransition, match="is cancelled"):
        await asking
    assert not app.client.handle("0-any")._hints._listeners
    assert wf.versions


async def test_an_unknown_query_names_the_known_ones(app: App) -> None:
    wf, version, told = working()
    other = workflow("other")

    @other.v("1.0.0")
    async def other_v1(run: Run) -> None:
        await go_on.wait(run)

    @other_v1.query(name="what else")
    def what_else(state: Progress, number: int) -> int:
        return number + len(state.done)

    none = workflow("none")

    @none.v("1.0.0")
    async def none_v1(run: Run) -> None:
        await go_on.wait(run)

    await app.serve(wf)
    await app.serve(other)
    await app.serve(none)
    handle: Handle[Any] = await version.start(app.client, [])
    with pytest.raises(NotFound, match="no query 'what else'; it has: told"):
        await what_else.ask(handle, 1)
    with pytest.raises(NotFound, match="no query 'told'; it has: none"):
        await told.ask(await none_v1.start(app.client))
    assert await what_else.ask(await other_v1.start(app.client), 1) == 1


async def test_bad_arguments_are_refused_where_they_are_given_and_bad_answers_there(
    app: App,
) -> None:
    wf = workflow("bad")

    @wf.v("1.0.0")
    async def bad(run: Run) -> None:
        await go_on.wait(run)

    @bad.query
    def add(_: Progress, number: int) -> int:
        if number < 0:
            raise ValueError("too low")
        return number + 1 if number else "zero"  # type: ignore[return-value]

    @bad.query
    def long(_: Progress) -> str:
        return "x" * 2_000_000

    await app.serve(wf)
    handle = await bad.start(app.client)
    with pytest.raises(DataError, match="parameter 'number' of query add"):
        await add.ask(handle, "one")  # type: ignore[arg-type]
    with pytest.raises(
        AskFailed, match=r"query add of run .* failed: ValueError: too low"
    ) as caught:
        await add.ask(handle, -1)
    assert caught.value.failure.message == "too low"
    with pytest.raises(AskFailed, match="DataError: result of query add"):
        await add.ask(handle, 0)
    with pytest.raises(AskFailed, match=LimitExceeded.__name__):
        await long.ask(handle)
    assert await add.ask(handle, 1) == 2
    with pytest.raises(DefinitionError, match="is asked with the handle of a run, not with str"):
        await add.ask("0-run", 1)  # type: ignore[arg-type]


async def test_a_query_can_do_nothing_in_its_run(app: App) -> None:
    wf = workflow("curious")
    runs: list[Run] = []

    @wf.v("1.0.0")
    async def curious(run: Run) -> None:
        runs.append(run)
        await go_on.wait(run)

    @curious.query
    def now(_: Progress) -> str:
        return runs[-1].now().isoformat()

    await app.serve(wf)
    handle = await curious.start(app.client)
    with pytest.raises(AskFailed, match=r"run\.now\(\) was called.* outside that run's handler"):
        await now.ask(handle)
