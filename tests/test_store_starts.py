"""Starting and finding in the store: delays, deadlines, tags, listings, unserved versions."""

from __future__ import annotations

import pytest

from aiki.errors import AikiError
from aiki.states import Status
from aiki.store.overview import Overview
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, WORKFLOW, Scene
from tests.support.waiting import eventually

MINUTE, DAY = 60_000, 86_400_000


# Delays and deadlines


async def test_a_delayed_run_is_offered_when_its_time_has_come_and_not_before(scene: Scene) -> None:
    run_id = await scene.start_run(more="at +60000")
    record = await scene.record(run_id)
    assert int(record["wake"]) - int(record["created"]) == MINUTE
    assert (await scene.store.timers.fire())[0] == 0
    assert (await scene.status(run_id), await scene.entries()) == (Status.SCHEDULED, [])
    await audit(scene)
    await scene.fall_due()
    assert (await scene.store.timers.fire())[0] == 1
    assert (await scene.status(run_id), await scene.entries()) == (Status.QUEUED, [run_id])
    await audit(scene)


@pytest.mark.parametrize("more", ["at +0", "at 1000", "memo {}"])
async def test_a_run_whose_time_has_come_already_is_queued_at_once(scene: Scene, more: str) -> None:
    run_id = await scene.start_run(more=more)
    assert await scene.status(run_id) is Status.QUEUED
    assert await scene.members("timers") == []
    await audit(scene)


async def test_a_scheduled_run_is_heard_of_by_who_waits_for_the_next_timer(scene: Scene) -> None:
    heard: list[bytes] = []
    await scene.store.inbox.subscribe("timers", heard.append, lambda: None)
    await scene.start_run(more="at +50000")
    await scene.start_run(more="at +90000")
    await scene.start_run(more="finish +20000")
    _, left = await scene.store.timers.fire()
    assert left is not None
    assert left < 21
    # What is heard comes on another connection than what is answered
    await eventually(lambda: len(heard) >= 2, what="both of them")
    assert [round(int(message), -4) for message in heard] == [50_000, 20_000]


async def test_deadlines_count_from_when_the_run_is_due(scene: Scene) -> None:
    run_id = await scene.start_run(more="at +60000\nstart +1000\nfinish +5000")
    record = await scene.record(run_id)
    due = int(record["wake"])
    assert (int(record["start_by"]), int(record["finish_by"])) == (due + 1000, due + 5000)


async def test_a_key_finds_a_run_that_is_scheduled(scene: Scene) -> None:
    run_id = await scene.start_run(key="once", more="at +60000")
    assert await scene.start_run(key="once") == run_id
    with pytest.raises(AikiError, match="belongs to run"):
        await scene.start_run(key="once", digest="other", more="at +60000")


async def test_a_deadline_to_start_is_nothing_to_a_run_that_was_claimed(scene: Scene) -> None:
    owner = await scene.running(more="start +60000")
    await scene.store.runs.release(owner.run_id, owner.epoch, owner.incarnation)
    await scene.fall_due()
    await scene.store.timers.fire()
    assert await scene.status(owner.run_id) is Status.QUEUED
    assert "cancel" not in await scene.record(owner.run_id)
    await audit(scene)


async def test_a_deadline_ends_what_was_never_claimed_and_says_which(scene: Scene) -> None:
    late = {name: await scene.start_run(more=f"{name} +60000") for name in ("start", "finish")}
    await scene.fall_due()
    await scene.store.timers.fire()
    reasons = [(await scene.record(run_id))["failure"] for run_id in late.values()]
    assert reasons == [
        "deadline: it was not started in time",
        "deadline: it was not over in time",
    ]
    assert await scene.entries() == []
    await audit(scene)


async def test_a_deadline_to_finish_tells_the_owner_once_and_keeps_an_earlier_reason(
    scene: Scene,
) -> None:
    worker = await scene.register()
    told = await scene.running(worker, more="finish +60000")
    asked = await scene.running(worker, more="finish +60000")
    await scene.cancel(asked.run_id)
    await scene.fall_due()
    await scene.store.timers.fire()
    assert await scene.members(f"worker:{worker}:notices") == sorted([told.run_id, asked.run_id])
    assert (await scene.record(told.run_id))["cancel"] == "deadline: it was not over in time"
    assert (await scene.record(asked.run_id))["cancel"] == "no longer wanted"
    assert await scene.members("timers") == []
    await audit(scene)


async def test_a_run_that_is_removed_takes_its_tags_and_deadlines_with_it(scene: Scene) -> None:
    before = await scene.keys()
    owner = await scene.running(more="start +60000\nfinish +60000\ntag customer:7\ntag red")
    await scene.finish(owner)
    await audit(scene)
    assert await scene.members("timers") == [f"{owner.run_id}!finish", f"{owner.run_id}!start"]
    assert await scene.store.timers.remove_finished(0, [WORKFLOW]) == 1
    assert {key for key in await scene.keys() - before if key.startswith(("run", "tag", "ti"))} == (
        set()
    )
    await audit(scene)


# Listings


async def test_what_is_listed_comes_newest_first_and_once_however_many_came_together(
    scene: Scene,
) -> None:
    """Given more runs of one moment than are read at a time, and others around them."""
    ids = [await scene.start_run(run_id=f"0-{number:03}") for number in range(60)]
    index = f"{scene.base}index:active/{WORKFLOW}"
    for number, run_id in enumerate(ids):
        await scene.command("ZADD", index, 5 if 10 <= number < 50 else number, run_id)
    expected = sorted(ids, key=lambda each: (5 if each in ids[10:50] else int(each[2:]), each))
    reading = await Overview([scene.store]).reading()
    found: list[str] = []
    while page := await reading.next(7):
        found += page
    assert found == expected[::-1]


async def test_a_run_that_moves_while_one_reads_is_not_given_twice(scene: Scene) -> None:
    ids = [await scene.start_run() for _ in range(30)]
    reading = await Overview([scene.store]).reading()
    found = await reading.next(3)
    for run_id in (*found, ids[0], ids[1]):
        await scene.cancel(run_id)
    while page := await reading.next(10):
        found += page
    assert len(set(found)) == len(found)
    assert set(found) >= set(ids) - {ids[0], ids[1]}


async def test_a_page_costs_the_same_whatever_is_stored(scene: Scene) -> None:
    async def cost() -> int:
        async def reads() -> int:
            stats = (await scene.command("INFO", "commandstats")).decode()
            lines = [each for each in stats.splitlines() if each.startswith("cmdstat_")]
            return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)

        before = await reads()
        await scene.listed(5)
        return await reads() - before

    await scene.start_run()
    few = await cost()
    for _ in range(200):
        await scene.start_run()
    assert await cost() <= few + 2


async def test_runs_are_counted_by_workflow_and_status_without_being_looked_at(
    scene: Scene,
) -> None:
    worker = await scene.register()
    assert await scene.store.catalog.counts() == {}
    for _ in range(2):
        await scene.finish(await scene.running(worker))
    await scene.running(worker)
    for _ in range(3):
        await scene.start_run()
    await scene.start_run(more="at +60000")
    expected = {
        Status.COMPLETED: 2, Status.RUNNING: 1, Status.QUEUED: 3, Status.SCHEDULED: 1,
    }  # fmt: skip
    assert await scene.store.catalog.counts() == {WORKFLOW: expected}
    assert await scene.store.catalog.counts("unknown") == {}


# Versions that nobody serves


async def hold(scene: Scene, after: int = DAY) -> list[str]:
    reply = await scene.script("stall_unserved", after, MINUTE, 100, "24 h")
    return [run_id.decode() for run_id in reply]


async def age(scene: Scene, *streams: str, by: int) -> None:
    """Let it be longer since nobody serves these streams, as if somebody had looked meanwhile."""
    for stream in streams or (STREAM,):
        first, last = (await scene.command("HGET", scene.base + "unserved", stream)).split()
        aged = f"{int(first) - by} {last.decode()}"
        await scene.command("HSET", scene.base + "unserved", stream, aged)


async def test_a_run_that_nobody_has_served_for_long_is_held_and_says_why(scene: Scene) -> None:
    run_id = await scene.queued_long_ago(36)
    young = await scene.start_run()
    assert await hold(scene) == [], "it is not known yet for how long nobody serves it"
    await age(scene, by=DAY)
    assert await hold(scene) == [run_id]
    record = await scene.record(run_id)
    assert record["status"] == Status.STALLED
    assert record["reason"] == "For 24 h no worker of pool default has served orders 1.0.0."
    assert (await scene.status(young), await scene.entries()) == (Status.QUEUED, [young])
    await audit(scene)


async def test_a_backlog_of_what_is_served_is_not_held_while_its_workers_restart(
    scene: Scene,
) -> None:
    run_id = await scene.queued_long_ago(9 * 24)
    await hold(scene)
    await age(scene, by=9 * DAY)
    worker = await scene.register()
    assert await hold(scene) == []
    await scene.kill(worker)
    assert await hold(scene) == [], "the time begins anew"
    assert await scene.status(run_id) is Status.QUEUED


async def test_the_time_begins_anew_where_nobody_kept_house_meanwhile(scene: Scene) -> None:
    run_id = await scene.queued_long_ago(9 * 24)
    await hold(scene)
    first, last = (await scene.command("HGET", scene.base + "unserved", STREAM)).split()
    off = f"{int(first) - 2 * DAY} {int(last) - 2 * DAY}"
    await scene.command("HSET", scene.base + "unserved", STREAM, off)
    assert await hold(scene) == []
    assert await scene.status(run_id) is Status.QUEUED


async def test_only_the_version_that_is_unserved_is_held_at_most_so_many_at_a_time(
    scene: Scene,
) -> None:
    await scene.register(STREAM, ALONE)
    served = await scene.start_run()
    other = [await scene.start_run(version="2.0.0") for _ in range(5)]
    held = [await scene.script("stall_unserved", 0, MINUTE, 2, "0 s") for _ in range(4)]
    assert [len(ids) for ids in held] == [2, 2, 1, 0]
    assert [await scene.status(run_id) for run_id in other] == [Status.STALLED] * 5
    assert await scene.status(served) is Status.QUEUED
    await audit(scene)


async def test_what_was_held_can_be_cancelled(scene: Scene) -> None:
    run_id = await scene.start_run()
    await scene.stall_unserved()
    assert await scene.cancel(run_id) is Status.CANCELLED
    await audit(scene)


async def test_the_details_of_a_run_are_those_of_its_owner(scene: Scene) -> None:
    owner = await scene.running()
    assert await scene.store.runs.set_details(owner, "half done") == b"OK"
    await scene.kill(owner.incarnation)
    assert await scene.store.runs.set_details(owner, "all done") == b"FENCED"
    assert (await scene.record(owner.run_id))["details"] == "half done"
