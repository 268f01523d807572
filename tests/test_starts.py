"""Starting later, by a deadline, with tags and a memo; saying what a run is at."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import aiki
from aiki import (
    DataError,
    DefinitionError,
    LimitExceeded,
    Run,
    RunCancelled,
    Start,
    Status,
    WorkflowVersion,
    start_many,
    task,
    workflow,
)
from aiki.store.runs import Runs
from tests.support.app import App, becomes
from tests.support.waiting import eventually

executes_nothing = pytest.mark.plain_only("no run is executed here")

doubling = workflow("doubling")


@doubling.v("1.0.0")
async def doubling_v1(run: Run, number: int) -> int:
    assert run.id
    return 2 * number


# When


async def test_a_delayed_run_starts_when_it_is_due_and_not_before(app: App) -> None:
    await app.serve(doubling_v1)
    begun = time.monotonic()
    handle = await doubling_v1.with_options(delay=1.5).start(app.client, 21)
    told = await handle.describe()
    assert told.status is Status.SCHEDULED
    assert told.due is not None
    assert told.due - told.created == timedelta(seconds=1.5)
    assert told.reason == f"is to start at {told.due.isoformat()}"
    assert await handle.wait_for_completion(60) == 42
    assert time.monotonic() - begun >= 1.5


async def test_a_run_starts_at_a_moment_of_any_time_zone(app: App) -> None:
    await app.serve(doubling_v1)
    at = datetime.now(UTC) + timedelta(seconds=2)
    call = doubling_v1.with_options(start_at=at.astimezone()).bind(1)
    past = doubling_v1.with_options(start_at=at - timedelta(days=9)).bind(2)
    later, now = await start_many(app.client, [call, past])
    assert not isinstance(later, aiki.AikiError)
    assert not isinstance(now, aiki.AikiError)
    assert await now.wait_for_completion(60) == 4
    told = await later.describe()
    assert told.status is Status.SCHEDULED
    assert told.due is not None
    assert timedelta(0) <= told.due - at < timedelta(milliseconds=1)
    assert await later.wait_for_completion(60) == 2


@executes_nothing
async def test_a_scheduled_run_is_cancelled_at_once(app: App) -> None:
    handle = await doubling_v1.with_options(delay=timedelta(days=30)).start(app.client, 1)
    assert await handle.cancel("changed my mind") is Status.CANCELLED
    with pytest.raises(RunCancelled, match="changed my mind"):
        await handle.wait_for_completion(0)


@executes_nothing
async def test_the_same_key_finds_the_run_that_is_scheduled(app: App) -> None:
    keyed = doubling_v1.with_options(idempotency_key="k")
    first = await keyed.with_options(delay=60).start(app.client, 1)
    assert (await keyed.start(app.client, 1)).id == first.id


NAIVE = datetime(2030, 1, 31, 9)  # noqa: DTZ001 - that is what is refused
SOON = datetime.now(UTC) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay must be between"),
        ({"delay": "soon"}, "delay must be seconds"),
        ({"delay": float("nan")}, "delay must be between"),
        ({"start_at": NAIVE}, "start_at 2030-01-31T09:00:00 has no time zone"),
        ({"start_at": 5}, "start_at is a datetime, not 5"),
        ({"delay": 1, "start_at": SOON}, "give delay or start_at, not both"),
        ({"start_by": NAIVE}, "start_by 2030-01-31T09:00:00 has no time zone"),
        ({"finish_by": "soon"}, "finish_by must be seconds"),
        ({"start_at": SOON, "finish_by": SOON}, "finish_by comes before start_at"),
        ({"tags": "red"}, "tags are a list of texts"),
        ({"tags": [7]}, "a tag is a str"),
        ({"tags": [""]}, "the tag '' is empty"),
        ({"tags": ["a\nb"]}, "unprintable"),
        ({"tags": ["x" * 129]}, "at most 128"),
        ({"memo": "red"}, "memo is an object"),
        ({"memo": {"a": object()}}, "has no stored form"),
    ],
)
def test_options_that_cannot_work_are_refused_where_they_are_given(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        doubling_v1.with_options(**options)


@pytest.mark.parametrize(
    "options", [{"tags": [str(number) for number in range(21)]}, {"memo": {"a": "x" * 4096}}]
)
def test_tags_and_memo_have_limits(options: dict[str, Any]) -> None:
    with pytest.raises(LimitExceeded):
        doubling_v1.with_options(**options)


def test_options_about_one_run_give_a_start_and_others_a_definition() -> None:
    of_a_definition: list[dict[str, Any]] = [
        {"tags": ["red"]}, {"memo": {}}, {"start_by": 5}, {"finish_by": None},
    ]  # fmt: skip
    for options in of_a_definition:
        assert type(doubling_v1.with_options(**options)) is WorkflowVersion
    of_a_run: list[dict[str, Any]] = [
        {"delay": 1}, {"start_at": SOON}, {"start_by": SOON}, {"finish_by": SOON},
    ]  # fmt: skip
    for options in of_a_run:
        start: Any = doubling_v1.with_options(**options)
        with pytest.raises(DefinitionError):
            aiki.Registry().add(start)
        assert type(start) is Start


# By when


async def test_a_run_that_is_not_started_in_time_never_starts(app: App) -> None:
    handle = await doubling_v1.with_options(start_by=0.2).start(app.client, 1)
    await app.serve(aiki.workflow("other").v("1.0.0", exec=doubling_other))  # who fires timers
    with pytest.raises(RunCancelled) as caught:
        await handle.wait_for_completion(60)
    assert caught.value.reason == "deadline: it was not started in time"


async def doubling_other(run: Run) -> str:
    return run.id


async def test_a_run_that_is_started_in_time_may_take_as_long_as_it_likes(app: App) -> None:
    @task
    async def long() -> None:
        app.ledger.note("long")
        await asyncio.sleep(2.5)

    @workflow("in-time").v("1.0.0")
    async def in_time(run: Run) -> str:
        await long.start(run)
        return "done"

    await app.serve(in_time)
    assert await app.result(in_time.with_options(start_by=2).bind()) == "done"
    assert app.ledger.count()["long"] == 1


async def test_a_run_that_is_not_over_in_time_may_clean_up(app: App) -> None:
    @task
    async def note(text: str) -> None:
        app.ledger.note(text)

    @task(retry=aiki.fixed(max_attempts=2, delay=60))
    async def failing() -> None:
        raise ConnectionError

    @workflow("late").v("1.0.0")
    async def late(run: Run) -> None:
        try:
            await failing.start(run)
        except asyncio.CancelledError:
            await note.start(run, "cleaned up")
            raise

    await app.serve(late)
    handle = await late.with_options(finish_by=0.5).start(app.client)
    with pytest.raises(RunCancelled, match="deadline: it was not over in time"):
        await handle.wait_for_completion(60)
    assert app.ledger.count()["cleaned up"] == 1
    assert (await handle.describe()).finish_by is not None


# Tags, memo, details


@executes_nothing
async def test_tags_and_memo_of_a_definition_and_of_a_run_are_put_together(app: App) -> None:
    ours = doubling_v1.with_options(tags=["team:red"], memo={"team": "red", "from": "us"})
    once = ours.with_options(idempotency_key="k", tags=["customer:7", "team:red"])
    handle = await once.with_options(memo={"from": "Ada", "ids": [1]}).start(app.client, 1)
    told = await handle.describe()
    assert told.tags == ("team:red", "customer:7")
    assert told.memo == {"team": "red", "from": "Ada", "ids": [1]}
    plain = await (await doubling_v1.start(app.client, 1)).describe()
    assert (plain.tags, plain.memo, plain.details, plain.due) == ((), {}, "", None)


async def test_details_are_seen_from_outside_and_the_last_ones_win(app: App) -> None:
    go_on = asyncio.Event()

    @task
    async def step(number: int) -> int:
        if number == 2:
            await go_on.wait()
        return number

    @workflow("talking").v("1.0.0")
    async def talking(run: Run) -> None:
        await run.set_details("at the first step")
        await step.start(run, 1)
        await run.set_details("at the second step")
        await step.start(run, 2)
        await run.set_details("")
        await run.set_details("done: **all** of it\n✓")

    await app.serve(talking)
    handle = await talking.start(app.client)

    async def at_second() -> bool:
        return (await handle.describe()).details == "at the second step"

    await eventually(at_second)
    go_on.set()
    await handle.wait_for_completion(60)
    assert (await handle.describe()).details == "done: **all** of it\n✓"
    assert [step.task for step in await handle.journal()] == ["step", "step"]


async def test_details_are_silent_while_recorded_steps_are_repeated(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    set_details = Runs.set_details

    async def listening(runs: Runs, owner: Any, text: str) -> bytes:
        said.append(text)
        return await set_details(runs, owner, text)

    monkeypatch.setattr(Runs, "set_details", listening)
    asked = 0

    @task(retry=aiki.fixed(max_attempts=2, delay=0.2))
    async def second_time() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ConnectionError

    @task
    async def first() -> None:
        pass

    @workflow("silent").v("1.0.0")
    async def silent(run: Run) -> None:
        await run.set_details("one")
        await first.start(run)
        await second_time.start(run)
        await run.set_details("two")
        try:
            await first.start(run)
        finally:
            await run.set_details("three")

    await app.serve(silent)
    handle = await silent.start(app.client)
    await handle.wait_for_completion(60)
    assert said.count("one") == 1
    assert (await handle.describe()).details == "three"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (7, DataError, "are a str, not int"),
        ("x" * 4097, LimitExceeded, "4097 bytes; at most 4096"),
        ("\ud800", DataError, "no text that can be stored"),
    ],
)
async def test_details_that_cannot_be_stored_are_refused_in_the_handler(
    app: App, text: Any, error: type[Exception], words: str
) -> None:
    @workflow("refused").v("1.0.0")
    async def refused(run: Run) -> str:
        with pytest.raises(error, match=words):
            await run.set_details(text)
        return "refused"

    await app.serve(refused)
    assert await app.result(refused.bind()) == "refused"


async def test_details_are_set_in_the_handler_only(app: App) -> None:
    @workflow("elsewhere").v("1.0.0")
    async def elsewhere(run: Run) -> str:
        @task
        async def tells() -> str:
            with pytest.raises(DefinitionError, match="outside its handler"):
                await run.set_details("from a task")
            return "refused"

        return await tells.start(run)

    await app.serve(elsewhere)
    assert await app.result(elsewhere.bind()) == "refused"


# Finding


@executes_nothing
async def test_runs_are_found_by_status_workflow_tag_and_time(app: App) -> None:
    other = workflow("other").v("1.0.0", exec=doubling_other)
    red = doubling_v1.with_options(tags=["red"])
    first = (await red.start(app.client, 1)).id
    second = (await doubling_v1.start(app.client, 2)).id
    third = (await other.with_options(tags=["red"], delay=60).start(app.client)).id
    assert await app.client.handle(second).cancel() is Status.CANCELLED

    async def found(**asked: Any) -> list[str]:
        return [run.id async for run in app.client.runs(**asked)]

    assert sorted(await found()) == sorted([first, second, third])
    assert await found(status=Status.QUEUED) == [first]
    assert await found(status="cancelled") == [second]
    assert set(await found(status=[Status.QUEUED, Status.SCHEDULED])) == {third, first}
    assert await found(status=Status.RUNNING) == []
    assert await found(workflow="other") == [third]
    assert set(await found(tag="red")) == {third, first}
    assert await found(tag="red", status=Status.SCHEDULED) == [third]
    assert await found(tag="red", workflow="doubling") == [first]
    assert await found(tag="blue") == []
    since = (await app.client.handle(second).describe()).since
    assert second in await found(since=since)
    assert second not in await found(since=since + timedelta(milliseconds=1))
    assert await found(since=datetime.now(UTC) + timedelta(minutes=1)) == []
    assert await app.client.count_runs() == {
        "doubling": {Status.QUEUED: 1, Status.CANCELLED: 1},
        "other": {Status.SCHEDULED: 1},
    }
    assert await app.client.count_runs(workflow="other") == {"other": {Status.SCHEDULED: 1}}


@executes_nothing
async def test_more_runs_than_one_page_are_read_each_once(app: App) -> None:
    calls = [doubling_v1.with_options(tags=["red"]).bind(number) for number in range(150)]
    started = [
        each for each in await start_many(app.client, calls) if isinstance(each, aiki.Handle)
    ]
    for handle in started[:40]:
        await handle.cancel()
    ids = {handle.id for handle in started}
    for tag in (None, "red"):
        listed = [run async for run in app.client.runs(tag=tag)]
        assert len(listed) == len({run.id for run in listed}) == 150
        assert {run.id for run in listed} == ids
    times = [run.since async for run in app.client.runs()]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    "asked", [{"since": NAIVE}, {"status": "begun"}, {"status": ["begun"]}, {"tag": ""}], ids=str
)
@executes_nothing
async def test_what_cannot_be_listed_is_refused_at_once(app: App, asked: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        app.client.runs(**asked)


@executes_nothing
async def test_a_run_is_held_that_nobody_serves_and_can_be_found_as_such(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    timers = app.client.partitions.of(handle.id).timers
    assert await timers.stall_unserved(0, every=60) == [handle.id]
    await becomes(handle, Status.STALLED)
    told = await handle.describe()
    assert told.reason == "For 0 s no worker of pool default has served doubling 1.0.0."
    assert [run.id async for run in app.client.runs(status=Status.STALLED)] == [handle.id]
