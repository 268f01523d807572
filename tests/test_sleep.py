"""Sleeps: they end in time, early where somebody says so, and hold no worker meanwhile."""

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from aiki import (
    DataError,
    DefinitionError,
    InvalidTransition,
    NotFound,
    Run,
    RunCancelled,
    Status,
    TaskFailed,
    task,
    workflow,
)
from aiki.store.runs import Runs
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

DAY = 86400.0


@task
async def work(label: str) -> str:
    return label


async def test_a_run_that_sleeps_leaves_its_slot_and_is_called_again_in_time(app: App) -> None:
    nap, other = workflow("nap"), workflow("other")
    lasted: list[float] = []

    @nap.v("1.0.0")
    async def napping(run: Run) -> bool:
        begun = await run_clock(run)
        woken = await run.sleep("nap", 0.3)
        lasted.append((run.now() - begun).total_seconds())
        return woken

    @other.v("1.0.0")
    async def working(run: Run) -> str:
        return await work.start(run, "meanwhile")

    worker = await app.serve(nap, other, inline_wait=0.1, max_concurrent_workflow_runs=1)
    handle = await napping.start(app.client)
    await becomes(handle, Status.SLEEPING)
    status = await handle.status()
    assert status.reason.startswith("sleeps until 20")
    assert status.reason.endswith(": sleep/nap")
    await eventually(lambda: worker.hosted == 0, what="the slot")
    assert await app.result(working.bind()) == "meanwhile"
    assert await handle.wait_for_completion(60) is False
    assert 0.3 <= lasted[-1] < 5


async def run_clock(run: Run) -> datetime:
    """Give a time that is recorded before the next thing begins."""
    found = run.now()
    await work.start(run, "clock")
    return found


@pytest.mark.plain_only("no wait is short: the run parks at once")
async def test_a_short_sleep_keeps_the_slot(app: App) -> None:
    wf = workflow("short")
    lives: list[int] = []

    @wf.v("1.0.0")
    async def short(run: Run) -> bool:
        lives.append(1)
        return await run.sleep("moment", 0.3)

    await app.serve(wf)
    assert await app.result(short.bind()) is False
    assert len(lives) == 1


async def test_a_sleep_of_nothing_is_over_at_once_and_recorded(app: App) -> None:
    wf = workflow("none")

    @wf.v("1.0.0")
    async def none(run: Run) -> list[bool]:
        return [
            await run.sleep("a", 0),
            await run.sleep_until("b", datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))),
            await run.sleep_until("c", datetime.now(UTC) - timedelta(days=400)),
            await run.sleep("d", timedelta()),
        ]

    await app.serve(wf)
    handle = await none.start(app.client)
    assert await handle.wait_for_completion(60) == [False] * 4
    assert await outcomes(handle) == [(f"sleep/{name}", "completed") for name in "abcd"]


async def test_a_run_sleeps_until_a_moment(app: App) -> None:
    wf = workflow("until")

    @wf.v("1.0.0")
    async def until(run: Run, moment: datetime) -> datetime:
        assert await run.sleep_until("then", moment) is False
        return run.now()

    await app.serve(wf, inline_wait=0.05)
    east = timezone(timedelta(hours=5, minutes=45))
    moment = datetime.now(east) + timedelta(seconds=0.4, microseconds=700)
    ended = await app.result(until.bind(moment))
    assert moment <= ended < moment + timedelta(seconds=5)


async def test_sleeps_of_one_name_are_several_sleeps_one_after_the_other_and_at_once(
    app: App,
) -> None:
    wf = workflow("same")

    @wf.v("1.0.0")
    async def same(run: Run) -> list[bool]:
        first = await run.sleep("again", 0.01)
        return [
            first,
            await run.sleep("again", 0.02),
            *await asyncio.gather(run.sleep("again", 0.03), run.sleep("again", 0.01)),
        ]

    await app.serve(wf)
    handle = await same.start(app.client)
    assert await handle.wait_for_completion(60) == [False] * 4
    keys = sorted(step.key for step in await handle.journal())
    assert keys == [f"sleep/again#{number}" for number in range(4)]


async def test_a_thousand_sleeps_at_once_take_as_long_as_one(app: App) -> None:
    wf = workflow("many")

    @wf.v("1.0.0")
    async def many(run: Run) -> int:
        naps = [run.sleep(f"nap-{number}", 3600) for number in range(1000)]
        return sum(await asyncio.gather(*naps))

    # In suspend mode each end is a life of its own
    await app.serve(wf, inline_wait=0.1)
    handle = await many.start(app.client)
    await becomes(handle, Status.SLEEPING, 60)
    reason = (await handle.status()).reason
    assert len(reason) < 2000, "what is told of it stays short"
    await handle.cancel()
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)


# A changed duration


@pytest.mark.parametrize("kind", ["lasts", "until"])
async def test_a_duration_that_was_changed_sleeps_only_the_difference(app: App, kind: str) -> None:
    wf = workflow("changed")
    begun = datetime.now(UTC)
    lasts = [DAY]

    @wf.v("1.0.0")
    async def changed(run: Run) -> datetime:
        if kind == "lasts":
            await run.sleep("pause", lasts[0])
        else:
            await run.sleep_until("pause", begun + timedelta(seconds=lasts[0]))
        return run.now()

    worker = await app.serve(wf, inline_wait=0.05)
    handle = await changed.start(app.client)
    await becomes(handle, Status.SLEEPING)
    first = await due(handle)
    # Longer: it is called when the old time has come, and goes on sleeping
    lasts[0] = 2 * DAY
    await app.end(worker)
    await app.serve(wf, inline_wait=0.05)
    await fall_due(app, handle)
    await eventually(lambda: changed_to(handle, first + timedelta(days=1)), what="the longer sleep")
    await becomes(handle, Status.SLEEPING)
    # Shorter: called by anything, it ends when the shorter time has passed since its beginning
    lasts[0] = 0.5
    await fall_due(app, handle)
    ended = await handle.wait_for_completion(60)
    assert first - timedelta(days=1) + timedelta(seconds=0.5) <= ended
    assert ended < begun + timedelta(seconds=30)


async def due(handle: Any) -> datetime:
    (step,) = await handle.journal()
    assert step.outcome == "waiting"
    assert step.due is not None
    return step.due


async def changed_to(handle: Any, moment: datetime) -> bool:
    return await due(handle) == moment


async def fall_due(app: App, handle: Any) -> None:
    """Have the run called by its timer, which is not its time."""
    base, link = f"aiki:{app.namespace}:{{0}}:", app.client.store.link
    assert await link.send(("ZADD", f"{base}timers", "XX", "CH", "1", handle.id)) == 1
    await app.client.store.timers.fire()


async def test_a_sleep_that_has_ended_returns_at_once_whatever_its_duration_is_now(
    app: App,
) -> None:
    wf = workflow("ended")
    lasts = [0.01]
    gate = asyncio.Event()

    @task
    async def hangs() -> None:
        app.ledger.note("hangs")
        await gate.wait()

    @wf.v("1.0.0")
    async def ended(run: Run) -> bool:
        woken = await run.sleep("pause", lasts[0])
        await hangs.start(run)
        return woken

    worker = await app.serve(wf)
    handle = await ended.start(app.client)
    await eventually(app.ledger.lines)
    lasts[0] = DAY
    await app.end(worker)
    gate.set()
    await app.serve(wf)
    assert await handle.wait_for_completion(60) is False


# Waking up


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


# Cancel and time-outs


@pytest.mark.parametrize("where", ["parked", "with a slot"])
async def test_a_cancel_meets_a_run_that_sleeps_and_lets_it_clean_up(app: App, where: str) -> None:
    wf = workflow("cancelled")

    @wf.v("1.0.0")
    async def cancelled(run: Run) -> None:
        try:
            app.ledger.note("asleep")
            await run.sleep("night", DAY)
        finally:
            await run.sleep("moment", 0.01)
            await work.start(run, "cleanup")

    await app.serve(wf, inline_wait=0.05 if where == "parked" else 2 * DAY)
    handle = await cancelled.start(app.client)
    await eventually(handle.journal, what="the sleep")
    if where == "parked":
        await becomes(handle, Status.SLEEPING)
    await handle.cancel("enough")
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    assert await outcomes(handle) == [
        ("sleep/night", "abandoned"),
        ("sleep/moment", "completed"),
        ("work", "completed"),
    ]


async def test_a_sleep_may_be_given_up_by_a_time_out_or_by_a_group_that_fails(app: App) -> None:
    wf = workflow("given-up")

    @task
    async def breaks() -> None:
        raise ValueError

    @wf.v("1.0.0")
    async def given_up(run: Run) -> list[str]:
        seen: list[str] = []
        try:
            async with asyncio.timeout(0.05):
                await asyncio.gather(run.sleep("a", 0.9), work.start(run, "a"))
        except TimeoutError:
            seen.append("late")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(run.sleep("b", DAY))
                group.create_task(breaks.start(run))
        except* TaskFailed:
            seen.append("failed")
        return [*seen, await work.start(run, "after")]

    await app.serve(wf, inline_wait=1)
    handle = await given_up.start(app.client)
    found = await handle.wait_for_completion(60)
    assert found[-2:] == ["failed", "after"]
    assert ("sleep/b", "abandoned") in await outcomes(handle)


# What is refused


class Nowhere(tzinfo):
    def utcoffset(self, dt: datetime | None) -> None:  # noqa: ARG002
        return None


@pytest.mark.parametrize(
    "duration",
    [-1, -0.001, math.nan, math.inf, -math.inf, True, "1", None, 3654 * DAY, timedelta(days=-1)],
)
@pytest.mark.plain_only("nothing is recorded")
async def test_no_duration_but_0_seconds_to_10_years(app: App, duration: Any) -> None:
    async def handler(run: Run) -> str:
        with pytest.raises(DataError, match="the duration of a sleep must be"):
            await run.sleep("nap", duration)
        return "refused"

    version = workflow("durations").v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "refused"


@pytest.mark.plain_only("nothing is recorded")
async def test_bad_moments_and_names_are_refused(app: App) -> None:
    async def handler(run: Run) -> str:
        moments: list[Any] = [
            datetime.now(),  # noqa: DTZ005 - that is what is refused
            datetime(2027, 1, 1, tzinfo=Nowhere()),
            datetime.now(UTC).date(),
            5,
            "2027-01-01",
            None,
        ]
        for moment in moments:
            with pytest.raises(DataError, match="until an aware datetime"):
                await run.sleep_until("nap", moment)
        with pytest.raises(DataError, match="0 seconds and 10 years"):
            await run.sleep_until("nap", datetime.now(UTC) + timedelta(days=3660))
        with pytest.raises(DataError, match="0 seconds and 10 years"):
            await run.sleep_until("nap", datetime.max.replace(tzinfo=UTC))
        names: list[Any] = ["", " nap", "a:b", "a/b", "a{b}", "a\nb", "\ud800", "x" * 201, 5, None]
        for name in names:
            with pytest.raises(DefinitionError, match="sleep: "):
                await run.sleep(name, 1)
        return "refused"

    version = workflow("moments").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == "refused"
    assert await handle.journal() == []


async def test_a_run_sleeps_nowhere_but_in_its_handler(app: App) -> None:
    runs: list[Run] = []

    @task
    async def sleeps() -> str:
        try:
            await runs[-1].sleep("nap", 1)
        except DefinitionError as refused:
            return str(refused)
        return "slept"

    async def handler(run: Run) -> str:
        runs.append(run)
        return await sleeps.start(run)

    version = workflow("elsewhere").v("1.0.0", exec=handler)
    await app.serve(version)
    assert "inside a task" in await app.result(version.bind())
    with pytest.raises(DefinitionError, match="outside that run's handler"):
        await runs[-1].sleep("nap", 1)
