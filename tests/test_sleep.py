"""Sleeps: they end in time, early where somebody says so, and hold no worker meanwhile."""

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from aiki import (
    DataError,
    DefinitionError,
    Run,
    RunCancelled,
    Status,
    TaskFailed,
    task,
    workflow,
)
from aiki.handle import Handle
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
        woken = await run.sleep("nap", 2)
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
    assert 2 <= lasted[-1] < 60


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
    assert moment <= ended < moment + timedelta(seconds=60)


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
    assert ended < begun + timedelta(seconds=150)


async def due(handle: Handle[Any]) -> datetime:
    (step,) = await handle.journal()
    assert step.outcome == "waiting"
    assert step.due is not None
    return step.due


async def changed_to(handle: Handle[Any], moment: datetime) -> bool:
    return await due(handle) == moment


async def fall_due(app: App, handle: Any) -> None:
    """Have the run called by its timer, which is not its time."""
    base, link = app.base_of(handle.id), app.link_of(handle.id)
    assert await link.send(("ZADD", f"{base}timers", "XX", "CH", "1", handle.id)) == 1
    await app.client.partitions.of(handle.id).timers.fire()


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
    """A zone that says nothing of itself."""

    def dst(self, dt: datetime | None) -> None:  # noqa: ARG002
        return None

    def tzname(self, dt: datetime | None) -> None:  # noqa: ARG002
        return None

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
