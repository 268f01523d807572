"""A store in several partitions, on one server: where runs are kept, and what is asked of all."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

import aiki
from aiki import Run, schedule, task, workflow
from aiki.client import Client
from aiki.errors import ConfigError, Conflict, NotFound, StoreReplaced
from aiki.handle import Handle
from aiki.states import Status
from aiki.store.keys import partition_for, partition_of, prefix
from aiki.store.urls import MOST_PARTITIONS
from tests.support.app import PARTITIONS, App, becomes
from tests.support.waiting import eventually

COUNT = 3

jobs = workflow("jobs")
families = workflow("families")
senders = workflow("senders")
go_on = aiki.event("go-on")


@task
async def double(number: int) -> int:
    return 2 * number


@jobs.v("1.0.0")
async def job(run: Run, number: int = 1) -> int:
    return await double.start(run, number)


@jobs.v("2.0.0")
async def waits(run: Run) -> str:
    await go_on.wait(run)
    return "went on"


@families.v("1.0.0")
async def family(run: Run) -> list[str]:
    mapped = await run.map(member, range(3))
    child = await member.start_as_child(run, 3)
    return [*mapped, await child.wait_for_completion()]


@families.v("2.0.0")
async def member(run: Run, _number: int) -> str:
    return run.id


@senders.v("1.0.0")
async def sender(run: Run, to: str) -> None:
    await go_on.send(run, to, None)


@pytest.fixture(autouse=True)
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the application's store have several partitions."""
    monkeypatch.setenv(PARTITIONS, str(COUNT))


def number_of(handle: Handle[Any]) -> int:
    return partition_of(handle.id) or 0


async def one_in_each(app: App) -> list[Handle[str]]:
    """Start runs that wait, one in each partition, in their order."""
    handles = [await waits.start(app.client) for _ in range(COUNT)]
    return sorted(handles, key=number_of)


def test_the_partition_of_a_name_is_the_same_for_ever() -> None:
    found = [partition_for("orders", f"order-{n}", count=4) for n in range(12)]
    assert found == [2, 0, 2, 1, 1, 1, 2, 1, 3, 3, 1, 2]
    assert {partition_for("orders", f"order-{n}", count=1) for n in range(9)} == {0}


async def test_runs_are_spread_and_come_back_with_their_results(app: App) -> None:
    await app.serve(jobs)
    handles = [await job.start(app.client, n) for n in range(COUNT)]
    handles += [
        each
        for each in await aiki.start_many(app.client, [job.bind(n) for n in range(COUNT, 60)])
        if isinstance(each, Handle)
    ]
    results = await asyncio.gather(*(each.wait_for_completion(30) for each in handles))
    assert results == [2 * n for n in range(60)]
    numbers = [number_of(each) for each in handles]
    assert [numbers.count(n) for n in range(COUNT)] == [20, 20, 20]
    for each in handles:
        (base,) = {app.base_of(each.id)}
        assert base == prefix(app.namespace, number_of(each))


async def test_a_key_finds_its_run_whoever_asks(app: App) -> None:
    keys = [f"key-{n}" for n in range(12)]
    calls = [job.with_options(idempotency_key=key) for key in keys]
    first = [await call.start(app.client, 1) for call in calls]
    assert {number_of(each) for each in first} == set(range(COUNT))
    other = await app.connect()
    again = await aiki.start_many(other, [call.bind(1) for call in calls])
    assert [each.id for each in again if isinstance(each, Handle)] == [each.id for each in first]
    with pytest.raises(Conflict) as conflict:
        await calls[0].start(other, 2)
    assert conflict.value.run_id == first[0].id


async def test_children_are_where_their_parent_is(app: App) -> None:
    await app.serve(families)
    for parent in [await family.start(app.client) for _ in range(COUNT)]:
        ids = await parent.wait_for_completion(30)
        assert {partition_of(each) for each in ids} == {number_of(parent)}


async def test_messages_reach_runs_of_every_partition(app: App) -> None:
    waiting = await one_in_each(app)
    await app.serve(jobs, senders)
    for each in waiting:
        await becomes(each, Status.AWAITING_EVENT)
    for each in waiting[1:]:  # from wherever the sender is
        await app.result(sender.bind(each.id))
    await go_on.send(waiting[0], None)
    assert [await each.wait_for_completion(10) for each in waiting] == COUNT * ["went on"]


async def test_a_listing_merges_all_partitions_newest_first(app: App) -> None:
    handles = [
        await waits.with_options(tags=["odd" if n % 2 else "even"]).start(app.client)
        for n in range(80)
    ]
    ids = [each.id for each in reversed(handles)]
    found = [run async for run in app.client.runs()]
    assert {run.id for run in found} == set(ids)
    assert [run.since for run in found] == sorted((run.since for run in found), reverse=True)
    even = [run.id async for run in app.client.runs(tag="even")]
    assert set(even) == {each.id for each in handles[::2]}
    assert await app.client.count_runs() == {"jobs": {Status.QUEUED: 80}}
    overview = app.client.partitions.overview
    assert await overview.workflows() == ["jobs"]
    assert [(each.version, each.is_served) for each in await overview.offers("jobs")] == [
        ("2.0.0", False)
    ]
    findings = await overview.audit()
    assert (findings.runs, findings.left) == (80, [])


@pytest.mark.plain_only("nothing is executed")
async def test_an_audit_says_in_which_partition_a_key_is(app: App) -> None:
    handle = (await one_in_each(app))[2]
    _, second, third = app.client.partitions.all
    await second.link.send(("SET", f"{prefix(app.namespace, 1)}strange", "1"))
    await third.link.send(("ZREM", f"{app.base_of(handle.id)}index:active/jobs", handle.id))
    found = {each.what for each in (await app.client.partitions.overview.audit()).left}
    assert found == {"{1}:strange", handle.id}
    mended = await app.client.partitions.overview.audit(mend=True)
    assert {each.what for each in mended.left} == {"{1}:strange"}


@pytest.mark.plain_only("nothing is executed")
async def test_a_run_of_a_partition_that_is_not_there_is_not_there(app: App) -> None:
    handle = (await one_in_each(app))[0]
    with pytest.raises(NotFound):
        await app.client.handle(f"{COUNT}{handle.id[1:]}").status()


async def test_a_schedule_lives_where_its_name_says_and_so_do_its_runs(app: App) -> None:
    handles = [
        await schedule(f"every-{n}", job.bind(n), every=3600).activate(app.client) for n in range(8)
    ]
    names = [each.name for each in await app.client.schedules()]
    assert sorted(names) == [f"every-{n}" for n in range(8)]
    numbers = {partition_for(name, count=COUNT) for name in names}
    assert numbers == set(range(COUNT))
    await app.serve(jobs)
    for each in handles:
        occurrence = await each.trigger()
        assert partition_of(occurrence.run_id) == partition_for(each.name, count=COUNT)
        await app.client.handle(occurrence.run_id).wait_for_completion(10)
        (recent,) = (await app.client.schedule(each.name).describe()).recent
        assert recent.outcome == "completed"


async def test_schedules_of_every_partition_fire(app: App) -> None:
    await app.serve(jobs)
    for n in range(8):
        await schedule(f"soon-{n}", job.bind(n), every=1).activate(app.client)

    async def all_have_started() -> bool:
        return all(each.started for each in await app.client.schedules())

    await eventually(all_have_started, 15, "a run of each schedule")
    due = [each.next_times[0] for each in await app.client.schedules()]
    assert due == sorted(due)
    for each in await app.client.schedules():
        await app.client.schedule(each.name).delete()


async def test_a_worker_fills_its_slots_from_all_partitions_and_no_more(app: App) -> None:
    crowd, most, now = workflow("crowd"), 0, 0

    @task
    async def stay() -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    @crowd.v("1.0.0")
    async def staying(run: Run) -> None:
        await stay.start(run)

    calls = [staying.bind() for _ in range(60)]
    handles = await aiki.start_many(app.client, calls)
    await app.serve(crowd, max_concurrent_workflow_runs=2)
    for each in handles:
        assert isinstance(each, Handle)
        await each.wait_for_completion(30)
    assert most == 2


async def test_a_lease_that_is_lost_in_one_partition_costs_nothing_in_the_others(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    held, begun = workflow("held"), dict[str, int]()
    leave = asyncio.Event()

    @task
    async def stay(run_id: str) -> None:
        begun[run_id] = begun.get(run_id, 0) + 1
        await leave.wait()

    @held.v("1.0.0")
    async def staying(run: Run) -> None:
        await stay.start(run, run.id)

    worker = await app.serve(held, heartbeat=0.05)
    handles = [await staying.start(app.client) for _ in range(COUNT)]
    await eventually(lambda: len(begun) == COUNT, what="the begin of all")
    before = worker.incarnations
    lost = app.client.partitions.all[1]
    await lost.workers.recover(before[1], cause="a test")

    def lives_again() -> bool:
        after = worker.incarnations
        return after[1] != before[1] and sum(begun.values()) == COUNT + 1

    await eventually(lives_again, what="another life in the partition")
    assert [worker.incarnations[n] for n in (0, 2)] == [before[n] for n in (0, 2)]
    assert "lost its lease in partition 1" in caplog.text
    leave.set()
    for each in handles:
        await each.wait_for_completion(10)
    assert {each.id: 2 if number_of(each) == 1 else 1 for each in handles} == begun


@pytest.mark.plain_only("it is about workers")
async def test_a_library_worker_takes_quarantined_runs_of_every_partition_one_by_one(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.05)
    monkeypatch.setattr("aiki.presence.ALONE_AFTER", 0.1)
    suspects = workflow("suspects")
    leave, begun, now, most = asyncio.Event(), 0, 0, 0

    @task
    async def stay() -> None:
        nonlocal begun, now, most
        begun, now = begun + 1, now + 1
        if begun > 2 * COUNT:
            most = max(most, now)
        try:
            await leave.wait()
            await asyncio.sleep(0.01)
        finally:
            now -= 1

    @suspects.v("1.0.0")
    async def staying(run: Run) -> None:
        await stay.start(run)

    def has_begun(count: int) -> bool:
        return begun == count

    worker = await app.serve(suspects, heartbeat=0.05)
    handles = [await staying.start(app.client) for _ in range(COUNT)]
    for death in (1, 2):
        await eventually(partial(has_begun, COUNT * death), what="the begin of all")
        for store, incarnation in zip(app.client.partitions.all, worker.incarnations, strict=True):
            await store.workers.recover(incarnation, cause="a test", counted=True)
    leave.set()
    for each in handles:
        await each.wait_for_completion(30)
    assert most == 1
    await app.end(worker)
    assert [each for each in asyncio.all_tasks() if each.get_name().startswith("aiki claims")] == []


# How a store comes to have partitions


async def made(url: str, namespace: str, count: int) -> None:
    async with Client(f"{url}?partitions={count}", namespace=namespace):
        pass


async def test_the_number_is_fixed_when_the_store_is_made(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await made(store_url, "fixed", 4)
    for options in ("", "?partitions=4", "?partitions=7", "?partitions=1"):
        caplog.clear()
        async with Client(store_url + options, namespace="fixed") as client:
            assert len(client.partitions.all) == 4
            assert {each.store_id for each in client.partitions.all} == {client.partitions.store_id}
        warned = [each.message for each in caplog.records if each.levelno == logging.WARNING]
        assert len(warned) == (options[-1:] in ("7", "1"))
        assert all("was made with 4 partitions and keeps to that" in each for each in warned)
    await made(store_url, "whole", 1)
    async with Client(f"{store_url}?partitions=2", namespace="whole") as client:
        assert len(client.partitions.all) == 1


async def test_many_that_make_a_store_at_once_make_one(store_url: str) -> None:
    clients = [
        Client(f"{store_url}?partitions={count}", namespace="at once") for count in (2, 3, 4)
    ]
    await asyncio.gather(*(each.connect() for each in clients))
    assert len({each.partitions.store_id for each in clients}) == 1
    assert len({len(each.partitions.all) for each in clients}) == 1
    for each in clients:
        await each.aclose()


async def test_a_store_that_was_half_made_is_made_to_its_end(store_url: str) -> None:
    await made(store_url, "half", 3)
    async with Client(store_url, namespace="half") as client:
        first, _, third = client.partitions.all
        await first.link.send(("HDEL", f"{prefix('half', 0)}meta", "complete"))
        await third.link.send(("DEL", f"{prefix('half', 2)}meta"))
    async with Client(store_url, namespace="half") as client:
        assert client.partitions.all[2].store_id == client.partitions.store_id


@pytest.mark.parametrize("lost", [0, 2])
async def test_a_store_that_has_lost_a_partition_is_refused(store_url: str, lost: int) -> None:
    await made(store_url, "lost", 3)
    async with Client(store_url, namespace="lost") as client:
        await client.partitions.all[lost].link.send(("DEL", f"{prefix('lost', lost)}meta"))
        starts = await aiki.start_many(client, [job.bind(n) for n in range(3)])
        refused = [isinstance(each, StoreReplaced) for each in starts]
        assert sorted(refused) == [False, False, True], "the others go on"
    told = "partition 2" if lost else "partition 1"  # which is of another store than the new one
    for _ in range(2):
        with pytest.raises(StoreReplaced, match=f"{told} of .* its first partition is of"):
            await Client(f"{store_url}?partitions=3", namespace="lost").connect()


@pytest.mark.parametrize("count", ["0", "65", "-1", "two", "", "1.5"])
def test_a_number_that_cannot_be_is_refused(count: str) -> None:
    assert MOST_PARTITIONS == 64
    for url in ("redis://one", "unix:///a", "redis+cluster://one,two", "redis+sentinel://one/two"):
        with pytest.raises(ConfigError, match="partitions= in a Redis URL is a number from 1 to"):
            Client(f"{url}?partitions={count}")
        Client(f"{url}?partitions=64&durability=fsync")
