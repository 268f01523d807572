"""Schedules as users have them: defined, activated, fired beside a worker, steered by a handle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

import aiki
from aiki import (
    DataError,
    LimitExceeded,
    NotFound,
    Run,
    ScheduleHandle,
    task,
    workflow,
)
from aiki.schedule_handle import Overlap
from aiki.states import Status
from tests.support.app import App, becomes
from tests.support.audit import audit
from tests.support.store import TIMEOUT, Scene
from tests.support.waiting import eventually

HOUR = timedelta(hours=1)
SELDOM = timedelta(days=3650)  # its planned times do not come in between
OPEN: dict[str, asyncio.Event] = {}

reports = workflow("reports")


@reports.v("1.0.0")
async def report_v1(run: Run, subject: str) -> str:
    return f"{await render.start(run, subject)} by {run.id}"


@task
async def render(subject: str) -> str:
    """Take no time, or until it is let go on."""
    if gate := OPEN.get(subject):
        await gate.wait()
    return f"about {subject}"


@pytest.fixture(autouse=True)
def gates() -> None:
    OPEN.clear()


async def scheduled(
    app: App,
    subject: str = "sales",
    *,
    overlap: Overlap = "skip",
    every: timedelta = SELDOM,
    behind: timedelta = HOUR / 2,
) -> ScheduleHandle:
    """Activate a schedule, and let it fall due as if its planned time was so long ago."""
    defined = aiki.schedule(subject, report_v1.bind(subject), every=every, overlap=overlap)
    handle = await defined.activate(app.client)
    await falls_behind(app, subject, behind)
    return handle


async def falls_behind(app: App, name: str, behind: timedelta) -> None:
    """Let a schedule be due since so long: what time would do."""
    store = app.client.partitions.named(name)
    scene = Scene(store)
    planned = await store.schedules.now(timeout=TIMEOUT) - behind // timedelta(milliseconds=1)
    key = f"{scene.base}schedule:{name}"
    await scene.command("HSET", key, "planned", planned, "due", planned)
    await scene.command("ZADD", scene.base + "schedules", planned, name)
    await scene.command("PUBLISH", scene.base + "schedules", "0")


async def has(handle: ScheduleHandle, **expected: object) -> aiki.ScheduleStatus:
    """Wait until a description has these values; of what is buffered, how many."""

    async def looked() -> aiki.ScheduleStatus | None:
        found = await handle.describe()
        values = asdict(found) | {"buffered": len(found.buffered)}
        return found if values | expected == values else None

    found = await eventually(looked, what=f"{expected}")
    assert found is not None
    return found


async def result(app: App, run_id: str) -> object:
    return await app.client.handle(run_id).wait_for_completion(60)


async def test_a_schedule_starts_its_workflow_when_it_is_due(app: App) -> None:
    await app.serve(reports)
    handle = await scheduled(app)
    found = await has(handle, started=1)
    (occurrence,) = found.recent
    assert await result(app, occurrence.run_id) == f"about sales by {occurrence.run_id}"
    assert (await handle.describe()).recent[0].outcome == "completed"
    assert (found.name, found.workflow, found.version) == ("sales", "reports", "1.0.0")
    assert found.input == {"subject": "sales"}
    assert (found.timing, found.overlap) == ("every 3650 days, 0:00:00", "skip")
    assert len(found.next_times) == 5
    assert datetime.now(UTC) < found.next_times[0] <= datetime.now(UTC) + SELDOM
    assert found.next_times[1] - found.next_times[0] == SELDOM
    await audit(Scene(app.client.store))


async def test_an_interval_of_a_second_goes_on_by_itself(app: App) -> None:
    await app.serve(reports)
    defined = aiki.schedule("often", report_v1.bind("it"), every=1, overlap="allow_all")
    handle = await defined.activate(app.client)
    found = await eventually(lambda: _when_started(handle, 3), what="three runs")
    assert found is not None
    planned = [occurrence.planned for occurrence in found.recent]
    assert all(a - b == timedelta(seconds=1) for a, b in pairwise(planned))
    late: list[float] = []
    for occurrence in found.recent:
        store = app.client.partitions.of(occurrence.run_id)
        run = await store.runs.snapshot(occurrence.run_id, timeout=TIMEOUT)
        late.append(run.created / 1000 - occurrence.planned.timestamp())
    assert min(late) >= 0
    # Each at its time. A machine that stands still for a moment makes one late, and not two.
    assert sorted(late)[1] < 1
    await handle.delete()


async def _when_started(handle: ScheduleHandle, count: int) -> aiki.ScheduleStatus | None:
    found = await handle.describe()
    return found if found.started >= count else None


async def test_any_number_of_workers_start_each_occurrence_once(app: App) -> None:
    for number in range(4):
        await app.serve(reports, client=await app.connect(), id=f"w{number}")
    for n in range(5):
        await scheduled(app, f"s{n}", overlap="allow_all", every=HOUR, behind=5.5 * HOUR)
    for n in range(5):
        found = await _caught_up(app.client.schedule(f"s{n}"))
        assert found.started in (6, 7)  # as many full hours as there were, and the first
        runs = {occurrence.run_id for occurrence in found.recent}
        assert len(runs) == len(found.recent) == found.started
        for run_id in runs:
            await result(app, run_id)
    for store in app.client.partitions.all:
        await audit(Scene(store))


async def _caught_up(handle: ScheduleHandle) -> aiki.ScheduleStatus:
    async def looked() -> aiki.ScheduleStatus | None:
        found = await handle.describe()
        return found if found.next_times[0] > datetime.now(UTC) else None

    found = await eventually(looked, what="everything planned is past")
    assert found is not None
    return found


@pytest.mark.parametrize("overlap", ["skip", "allow_all"])
async def test_a_run_that_is_under_way_is_skipped_or_left_alone(app: App, overlap: Overlap) -> None:
    OPEN["sales"] = asyncio.Event()
    await app.serve(reports)
    handle = await scheduled(app, overlap=overlap)
    await has(handle, started=1)
    await falls_behind(app, "sales", timedelta(seconds=1))
    if overlap == "skip":
        await has(handle, started=1, skipped=1)
    else:
        await has(handle, started=2, skipped=0)
    OPEN["sales"].set()
    for occurrence in (await handle.describe()).recent:
        await result(app, occurrence.run_id)


@pytest.mark.parametrize("overlap", ["buffer_one", "buffer_all"])
async def test_what_is_buffered_starts_soon_after_the_run_before(
    app: App, overlap: Overlap
) -> None:
    OPEN["sales"] = asyncio.Event()
    await app.serve(reports)
    handle = await scheduled(app, overlap=overlap)
    await has(handle, started=1)
    for seconds in (20, 10):
        await falls_behind(app, "sales", timedelta(seconds=seconds))
        await _caught_up(handle)
    expected = {"buffer_one": (1, 1), "buffer_all": (2, 0)}[overlap]
    await has(handle, started=1, buffered=expected[0], skipped=expected[1])
    OPEN["sales"].set()
    found = await has(handle, started=1 + expected[0], buffered=0)
    for occurrence in found.recent:
        await result(app, occurrence.run_id)


async def test_a_buffer_is_looked_after_when_the_hint_is_lost(app: App) -> None:
    """Given a worker that ends, when the run before ends elsewhere while nobody listens."""
    OPEN["sales"] = asyncio.Event()
    worker = await app.serve(reports)
    handle = await scheduled(app, overlap="buffer_one")
    await has(handle, started=1)
    await falls_behind(app, "sales", timedelta(seconds=10))
    await has(handle, buffered=1)
    await app.end(worker)
    lonely = await app.serve(reports, housekeeping=False)
    OPEN["sales"].set()
    await becomes(app.client.handle((await handle.describe()).recent[0].run_id), Status.COMPLETED)
    assert len((await handle.describe()).buffered) == 1
    await app.end(lonely)
    await app.serve(reports)
    await has(handle, started=2, buffered=0)


async def test_another_run_is_cancelled_and_cleans_up_before_the_next_starts(app: App) -> None:
    OPEN["sales"] = asyncio.Event()
    await app.serve(reports)
    handle = await scheduled(app, overlap="cancel_other")
    first = (await has(handle, started=1)).recent[0].run_id
    await eventually(lambda: _is(app, first, Status.RUNNING))
    await falls_behind(app, "sales", timedelta(seconds=1))
    found = await has(handle, started=2)
    assert [occurrence.outcome for occurrence in found.recent][1] == "cancelled"
    with pytest.raises(aiki.RunCancelled, match="schedule sales starts its next run"):
        await result(app, first)
    OPEN["sales"].set()
    await result(app, found.recent[0].run_id)


async def test_another_run_is_terminated_without_its_handler(app: App) -> None:
    OPEN["sales"] = asyncio.Event()
    await app.serve(reports)
    handle = await scheduled(app, overlap="terminate_other")
    first = (await has(handle, started=1)).recent[0].run_id
    await eventually(lambda: _is(app, first, Status.RUNNING))
    await falls_behind(app, "sales", timedelta(seconds=1))
    found = await has(handle, started=2)
    with pytest.raises(aiki.RunCancelled, match=r"schedule sales started run 0-.* instead"):
        await result(app, first)
    OPEN["sales"].set()
    await result(app, found.recent[0].run_id)
    assert await app.client.handle(first).journal() == []


async def _is(app: App, run_id: str, status: Status) -> bool:
    return (await app.client.handle(run_id).status()).status is status


@pytest.mark.plain_only("nothing is executed before all has been looked at")
async def test_after_an_outage_what_is_in_the_window_is_made_up_for_and_the_rest_is_counted(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    defined = aiki.schedule(
        "sales",
        report_v1.bind("sales"),
        every=HOUR,
        overlap="allow_all",
        catch_up_window=3 * HOUR,
    )
    handle = await defined.activate(app.client)
    await falls_behind(app, "sales", timedelta(hours=10))
    await app.serve(reports)
    found = await _caught_up(handle)
    assert found.started == 3
    assert found.missed in (7, 8)
    planned = [occurrence.planned for occurrence in found.recent]
    assert planned == sorted(planned, reverse=True)
    assert "schedule sales missed" in caplog.text


async def test_a_schedule_is_triggered_by_hand_also_while_it_is_paused(app: App) -> None:
    await app.serve(reports)
    handle = await aiki.schedule("sales", report_v1.bind("sales"), every=HOUR).activate(app.client)
    await handle.pause("until the books are right")
    occurrence = await handle.trigger()
    assert occurrence.outcome == "started"
    await result(app, occurrence.run_id)
    found = await handle.describe()
    assert (found.paused, found.note) == (True, "until the books are right")
    assert found.next_times == []
    assert [each.name for each in await app.client.schedules()] == ["sales"]
    await handle.resume()
    found = await handle.describe()
    assert (found.paused, found.note, found.started) == (False, "", 1)
    assert datetime.now(UTC) < found.next_times[0]


async def test_a_trigger_follows_the_policy_or_another_one(app: App) -> None:
    OPEN["sales"] = asyncio.Event()
    await app.serve(reports)
    handle = await scheduled(app)
    await has(handle, started=1)
    assert (await handle.trigger()).outcome == "skipped"
    assert (await handle.trigger(overlap="buffer_one")).outcome == "buffered"
    again = await handle.trigger(overlap="allow_all")
    assert again.outcome == "started"
    OPEN["sales"].set()
    await result(app, again.run_id)
    await has(handle, started=3, buffered=0)


async def test_a_backfill_starts_what_was_not_started_in_its_order(app: App) -> None:
    await app.serve(reports)
    defined = aiki.schedule("sales", report_v1.bind("sales"), cron="0 9 * * *")
    handle = await defined.activate(app.client)
    start = datetime(2025, 3, 1, 9, tzinfo=UTC)
    filled = await handle.backfill(start, start + timedelta(days=3), overlap="allow_all")
    assert [each.planned for each in filled] == [start + timedelta(days=n) for n in range(3)]
    assert {each.outcome for each in filled} == {"started"}
    more = await handle.backfill(start, start + timedelta(days=4), overlap="buffer_all")
    assert [each.run_id for each in more[:3]] == [each.run_id for each in filled]
    await has(handle, started=4)
    for each in more:
        await result(app, each.run_id)


@pytest.mark.plain_only("nothing is executed")
async def test_a_backfill_that_cannot_be_meant_is_refused(app: App) -> None:
    handle = await aiki.schedule("sales", report_v1.bind("sales"), every=60).activate(app.client)
    now = datetime.now(UTC)
    refused: list[tuple[type[Exception], str, Callable[[], Awaitable[object]]]] = [
        (LimitExceeded, "more than 1000", lambda: handle.backfill(now - 20 * HOUR, now)),
        (DataError, "in the past", lambda: handle.backfill(now, now + 2 * HOUR)),
        (DataError, "in the past", lambda: handle.backfill(now, now - HOUR)),
        (DataError, "aware", lambda: handle.backfill(datetime(2026, 1, 1), now)),  # noqa: DTZ001
        (DataError, "overlap is one of", lambda: handle.trigger(overlap="no")),  # type: ignore[arg-type]
        (DataError, "at most 1000", lambda: handle.pause("x" * 1001)),
        (DataError, "cannot be stored", lambda: handle.pause("\ud800")),
    ]
    for kind, words, asked in refused:
        with pytest.raises(kind, match=words):
            await asked()
    assert (await handle.describe()).started == 0


@pytest.mark.plain_only("nothing is executed")
async def test_activated_again_it_is_the_same_one_and_another_is_refused(app: App) -> None:
    def define(**options: Any) -> aiki.Schedule:
        options = {"cron": "0 9 * * *", "timezone": "Europe/Amsterdam"} | options
        return aiki.schedule("sales", report_v1.bind(options.pop("subject", "sales")), **options)

    handles = await asyncio.gather(*(define().activate(app.client) for _ in range(5)))
    before = await handles[0].describe()
    await define(cron=" 0  9 * * * ").activate(app.client)  # means the same
    others = (
        define(cron="0 10 * * *"),
        define(timezone="UTC"),
        define(overlap="allow_all"),
        define(jitter=5),
        define(catch_up_window=60),
        define(subject="stock"),
    )
    for other in others:
        with pytest.raises(aiki.Conflict, match="active with another definition"):
            await other.activate(app.client)
    assert await handles[0].describe() == before
    for other in others:
        await other.activate(app.client, on_conflict="replace")
    assert (await handles[0].describe()).input == {"subject": "stock"}
    assert before.next_times[0].tzname() in ("CET", "CEST")
    assert before.next_times[0].hour == 9
    await handles[0].delete()
    await handles[0].delete()
    with pytest.raises(NotFound, match="no schedule 'sales'"):
        await handles[0].describe()
    assert await app.client.schedules() == []
