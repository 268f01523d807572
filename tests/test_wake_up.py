"""Sleeps that end early, because somebody said so."""

import asyncio
import time
from typing import Any

import pytest

from aiki import InvalidTransition, NotFound, Run, Status, task, workflow
from aiki.store.runs import Runs
from tests.support.app import App, becomes
from tests.support.waiting import eventually

DAY = 86400.0


@task
async def work(label: str) -> str:
    return label


async def test_a_parked_sleep_that_is_woken_up_says_so(app: App) -> None:
    wf = workflow("woken")

    @wf.v("1.0.0")
    async def woken(run: Run) -> list[bool]:
        return [await run.sleep("night", DAY), await run.sleep("moment", 0.01)]

    await app.serve(wf, inline_wait=0.1)
    handle = await woken.start(app.client)
    await becomes(handle, Status.SLEEPING)
    await handle.wake_up()
    assert await handle.wait_for_completion(60) == [True, False]


@pytest.mark.plain_only("no run keeps its slot while it sleeps")
async def test_a_sleep_that_keeps_its_slot_is_woken_up_too(app: App) -> None:
    wf = workflow("woken-inline")

    @wf.v("1.0.0")
    async def woken(run: Run) -> bool:
        app.ledger.note("asleep")
        return await run.sleep("night", DAY)

    await app.serve(wf, inline_wait=2 * DAY)
    handle = await woken.start(app.client)
    await eventually(app.ledger.lines)
    await eventually(handle.journal, what="the sleep")
    await handle.wake_up()
    assert await handle.wait_for_completion(60) is True


async def test_it_ends_all_sleeps_that_the_run_is_in_and_none_that_begins_later(app: App) -> None:
    wf = workflow("several")

    @wf.v("1.0.0")
    async def several(run: Run) -> list[bool]:
        both = await asyncio.gather(run.sleep("a", DAY), run.sleep("b", 2 * DAY))
        return [*both, await run.sleep("later", DAY)]

    await app.serve(wf, inline_wait=0.05)
    handle = await several.start(app.client)
    await eventually(lambda: waiting(handle, 2), what="both sleeps")
    await asyncio.gather(handle.wake_up(), handle.wake_up())  # heard twice, done once
    await eventually(lambda: waiting(handle, 3), what="the later sleep")
    await becomes(handle, Status.SLEEPING)
    assert (await handle.journal())[-1].outcome == "waiting"
    await handle.wake_up()
    assert await handle.wait_for_completion(60) == [True, True, True]


async def waiting(handle: Any, count: int) -> bool:
    return len(await handle.journal()) == count


@pytest.mark.plain_only("the sleep is begun while the run executes")
async def test_one_that_came_before_a_sleep_began_leaves_it_alone_and_costs_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner hears of it late: when the next sleep is under way already."""
    wf = workflow("before")
    asked: list[int] = []
    end_wait, read_news = Runs.end_wait, Runs.read_news
    opened = asyncio.Event()

    async def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return await end_wait(*args, **kwargs)

    async def late(*args: Any, **kwargs: Any) -> Any:
        await opened.wait()
        await asyncio.sleep(0.05)
        return await read_news(*args, **kwargs)

    @wf.v("1.0.0")
    async def before(run: Run) -> bool:
        await work.start(run, "a")
        await app.client.handle(run.id).wake_up()
        asyncio.get_running_loop().call_later(0.1, opened.set)
        return await run.sleep("later", 0.6)

    monkeypatch.setattr(Runs, "end_wait", counted)
    monkeypatch.setattr(Runs, "read_news", late)
    await app.serve(wf)
    begun = time.monotonic()
    assert await app.result(before.bind()) is False
    assert time.monotonic() - begun >= 0.6
    assert len(asked) < 5, "it asks the store when there is something to ask"


async def test_a_run_that_waits_for_something_else_is_not_disturbed(app: App) -> None:
    wf = workflow("elsewhere")
    gate = asyncio.Event()

    @task
    async def hangs() -> str:
        app.ledger.note("hangs")
        await gate.wait()
        return "done"

    @wf.v("1.0.0")
    async def elsewhere(run: Run) -> str:
        return await hangs.start(run)

    handle = await elsewhere.start(app.client)
    await handle.wake_up()  # queued
    await app.serve(wf)
    await eventually(app.ledger.lines)
    await handle.wake_up()  # running
    gate.set()
    assert await handle.wait_for_completion(60) == "done"


async def test_waking_up_is_refused_where_no_sleep_can_be(app: App) -> None:
    wf = workflow("refused")

    @wf.v("1.0.0")
    async def refused(run: Run) -> str:
        return run.id

    await app.serve(wf)
    handle = await refused.start(app.client)
    await handle.wait_for_completion(60)
    with pytest.raises(InvalidTransition, match=r"is completed: it cannot be woken up"):
        await handle.wake_up()
    with pytest.raises(NotFound, match="there is no run '0-unknown'"):
        await app.client.handle("0-unknown").wake_up()
