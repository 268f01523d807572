"""Schedules in the store: who fires, exactly once, and what becomes of an occurrence."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest

from aiki.errors import Conflict, NotFound, StoreRefused
from aiki.firing import Firing
from aiki.records import ClaimedRun, DueSchedule, Ownership
from aiki.states import FINAL, Status
from aiki.store.keys import new_run_id, occurrence_run_id, partition_of
from tests.support.audit import audit
from tests.support.store import TIMEOUT, WORKFLOW, NewScene, Scene

NAME = "a schedule"
HOUR = 3_600_000
OVERLAPS = ("skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all")


async def taken(scene: Scene) -> DueSchedule:
    """Take the one schedule that is due."""
    _, _, (due,) = await scene.store.schedules.take()
    return due


async def fire(scene: Scene, due: DueSchedule, run_id: str = "") -> tuple[str, list[str]]:
    """Let one planned time of a schedule pass, in the middle of an hour."""
    return await scene.store.schedules.fire(
        due,
        due.planned + HOUR,
        due.planned + HOUR,
        missed=0,
        run_id=run_id or occurrence_run_id(0, due.id, due.planned),
    )


async def started_runs(scene: Scene) -> list[str]:
    """Name all runs, whatever has become of them."""
    names = [name.removeprefix("run:") for name in await scene.keys() if name.startswith("run:")]
    return sorted(name for name in names if ":" not in name)


async def busy(scene: Scene, overlap: str, run_id: str = "0-before") -> Ownership:
    """Have a schedule with a run under way."""
    worker = await scene.register()
    await scene.schedule(overlap=overlap, due_in=-1)
    assert await scene.trigger(run_id) == ("STARTED", [])
    return (await scene.take(worker)).ownership


def test_a_run_of_an_occurrence_has_always_the_same_id() -> None:
    id = occurrence_run_id(0, NAME, HOUR)
    assert id == occurrence_run_id(0, NAME, HOUR)
    assert partition_of(id) == 0
    assert len({id, occurrence_run_id(0, NAME, 2 * HOUR), occurrence_run_id(0, "b", HOUR)}) == 3
    assert id < occurrence_run_id(0, "b", 2 * HOUR), "they sort by the time that was planned"


async def test_of_many_who_fire_one_does(scene: Scene) -> None:
    await scene.schedule(due_in=-1)
    due = await taken(scene)
    replies = await asyncio.gather(*(fire(scene, due) for _ in range(20)))
    assert [word for word, _ in replies].count("STARTED") == 1
    assert [word for word, _ in replies].count("STALE") == 19
    assert await started_runs(scene) == [occurrence_run_id(0, NAME, due.planned)]
    record = await scene.schedule_record()
    assert (record.started, record.planned) == (1, due.planned + HOUR)
    await audit(scene)


async def test_of_many_housekeepers_at_once_each_occurrence_is_started_by_one(
    scene: Scene,
) -> None:
    """Given ten schedules that are some occurrences behind, fired by all at once."""
    names = [f"s{number}" for number in range(10)]
    for name in names:
        await scene.schedule(name, overlap="allow_all", due_in=-2.5 * 3600)
    planned = [(await scene.schedule_record(name)).planned for name in names]
    firings = [Firing(scene.store) for _ in range(8)]
    for _ in range(5):
        await asyncio.gather(*(firing.fire() for firing in firings))
        await hold_nothing(scene)
    records = [await scene.schedule_record(name) for name in names]
    passed = [r.planned // HOUR - p // HOUR for r, p in zip(records, planned, strict=True)]
    assert [record.started for record in records] == passed
    assert min(passed) > 2
    assert len(await started_runs(scene)) == sum(passed)
    await audit(scene)


async def now(scene: Scene) -> int:
    return await scene.store.schedules.now(timeout=TIMEOUT)


async def hold_nothing(scene: Scene) -> None:
    """Let it be over for which a schedule was kept from others: what time would do."""
    key = scene.base + "schedules"
    for name in await scene.command("ZRANGE", key, "-inf", await now(scene) + 5000, "BYSCORE"):
        await scene.command("ZADD", key, 1, name)


async def test_who_dies_after_taking_a_schedule_has_only_delayed_it(scene: Scene) -> None:
    await scene.schedule(due_in=-1)
    await taken(scene)
    _, left, others = await scene.store.schedules.take()
    assert others == []
    assert left is not None
    assert 0 < left <= 2
    await hold_nothing(scene)
    assert (await fire(scene, await taken(scene)))[0] == "STARTED"


async def test_what_was_decided_by_an_older_definition_is_not_done(scene: Scene) -> None:
    await scene.schedule(due_in=-1)
    due = await taken(scene)
    await scene.schedule(every=60, due_in=-1, replace=True)
    assert await fire(scene, due) == ("STALE", [])
    await scene.store.schedules.delete(NAME, timeout=TIMEOUT)
    assert await fire(scene, due) == ("STALE", [])
    assert await started_runs(scene) == []
    await audit(scene)


async def test_what_is_not_due_by_the_servers_clock_is_not_started(scene: Scene) -> None:
    new = await scene.schedule(due_in=60)
    planned = (await scene.schedule_record()).planned
    due = DueSchedule(NAME, new.digest, planned, planned, b"", has_buffer=False)
    assert await fire(scene, due) == ("EARLY", [])
    assert await started_runs(scene) == []


async def test_another_definition_of_the_same_name_is_refused_or_takes_its_place(
    scene: Scene,
) -> None:
    await scene.schedule()
    first = await scene.schedule_record()
    await scene.schedule(due_in=7200)
    assert await scene.schedule_record() == first, "the same again changes nothing"
    with pytest.raises(Conflict, match="is active with another definition"):
        await scene.schedule(overlap="allow_all")
    await scene.trigger("0-run")
    await scene.store.schedules.pause(NAME, "a note", timeout=TIMEOUT)
    await scene.schedule(overlap="allow_all", replace=True)
    record = await scene.schedule_record()
    assert (record.overlap, record.started, record.note) == ("allow_all", 1, "a note")
    assert record.paused
    await audit(scene)


@pytest.mark.parametrize("overlap", OVERLAPS)
async def test_an_occurrence_meets_a_run_that_is_under_way(scene: Scene, overlap: str) -> None:
    owner = await busy(scene, overlap)
    due = await taken(scene)
    word, others = await fire(scene, due, "0-next")
    assert word == {
        "skip": "SKIPPED",
        "buffer_one": "BUFFERED",
        "buffer_all": "BUFFERED",
        "cancel_other": "BUFFERED",
        "terminate_other": "STARTED",
        "allow_all": "STARTED",
    }.get(overlap)
    assert others == (["0-before"] if overlap == "cancel_other" else [])
    is_ended = overlap == "terminate_other"
    assert await scene.status("0-before") is (Status.CANCELLED if is_ended else Status.RUNNING)
    assert await scene.commit(owner, "step#0") == (b"FENCED" if is_ended else 0)
    record = await scene.schedule_record()
    assert [run for run, _ in record.buffer] == (["0-next"] if word == "BUFFERED" else [])
    assert record.skipped == (overlap == "skip")
    # What is buffered starts when the run before is over, once.
    await scene.finish(owner)
    started = (await scene.store.schedules.tend(NAME))[0]
    assert started == ("STARTED" if word == "BUFFERED" else "NOTHING")
    assert (await scene.store.schedules.tend(NAME))[0] == "NOTHING"
    expected = ["0-before"] if overlap == "skip" else ["0-before", "0-next"]
    assert await started_runs(scene) == expected
    await audit(scene)


async def test_a_buffer_of_one_keeps_the_first(scene: Scene) -> None:
    await busy(scene, "buffer_one")
    assert (await scene.trigger("0-second"))[0] == "BUFFERED"
    assert (await scene.trigger("0-third"))[0] == "SKIPPED"
    assert [run for run, _ in (await scene.schedule_record()).buffer] == ["0-second"]


async def test_a_buffer_of_all_keeps_the_order_and_is_bounded(scene: Scene) -> None:
    owner = await busy(scene, "buffer_all")
    words = [(await scene.trigger(f"0-{n}", occurrence=n))[0] for n in range(1001)]
    assert words == ["BUFFERED"] * 1000 + ["DROPPED"]
    assert (await fire(scene, await taken(scene)))[0] == "DROPPED"
    record = await scene.schedule_record()
    assert record.buffer == [(f"0-{n}", n) for n in range(1000)]
    assert record.dropped == 1
    await scene.finish(owner)
    worker = await scene.register()
    for n in range(3):
        assert (await scene.store.schedules.tend(NAME))[0] == "STARTED"
        claimed = await scene.take(worker)
        assert claimed.ownership.run_id == f"0-{n}"
        assert (await scene.store.schedules.tend(NAME))[0] == "WAITS"
        await scene.finish(claimed.ownership)
    await audit(scene)


async def test_the_last_one_that_cancels_is_the_one_that_starts(scene: Scene) -> None:
    owner = await busy(scene, "cancel_other")
    assert await scene.trigger("0-second") == ("BUFFERED", ["0-before"])
    assert await scene.trigger("0-third") == ("BUFFERED", ["0-before"])
    assert await scene.store.schedules.tend(NAME) == ("WAITS", ["0-before"])
    await scene.finish(owner, Status.CANCELLED)
    assert await scene.store.schedules.tend(NAME) == ("STARTED", [])
    assert await started_runs(scene) == ["0-before", "0-third"]
    assert (await scene.schedule_record()).dropped == 1
    await audit(scene)


async def test_the_end_of_what_a_buffer_waits_for_is_told(scene: Scene) -> None:
    owner = await busy(scene, "buffer_all")
    heard = asyncio.Queue[bytes]()
    await scene.store.inbox.subscribe("schedules", heard.put_nowait)
    await scene.trigger("0-next")
    await scene.finish(owner)
    async with asyncio.timeout(TIMEOUT):
        assert (await heard.get()).startswith(b"0-before completed")
    assert await scene.store.schedules.of_run("0-before") == NAME


async def test_an_occurrence_that_has_run_is_not_run_again(scene: Scene) -> None:
    owner = await busy(scene, "allow_all", "0-run")
    await scene.finish(owner)
    assert await scene.trigger("0-run") == ("STARTED", [])
    assert await scene.status("0-run") is Status.COMPLETED
    assert (await scene.schedule_record()).started == 1


async def test_while_it_is_paused_nothing_planned_or_buffered_starts(scene: Scene) -> None:
    owner = await busy(scene, "buffer_all")
    await scene.trigger("0-next")
    due = await taken(scene)
    await scene.store.schedules.pause(NAME, "a note", timeout=TIMEOUT)
    await scene.finish(owner)
    assert await fire(scene, due) == ("STALE", [])
    assert await scene.store.schedules.tend(NAME) == ("NOTHING", [])
    assert (await scene.store.schedules.take())[1:] == (None, [])
    await audit(scene)
    later = due.planned + 2 * HOUR
    schedules = scene.store.schedules
    assert not await schedules.resume(NAME, "another", later, later, timeout=TIMEOUT)
    assert await schedules.resume(NAME, due.digest, later, later, timeout=TIMEOUT)
    # Resumed again, it does not pass over anything.
    assert await schedules.resume(NAME, due.digest, later + HOUR, later + HOUR, timeout=TIMEOUT)
    record = await scene.schedule_record()
    assert (record.planned, record.note, record.paused) == (later, "", False)
    due = await taken(scene)
    assert due.has_buffer
    assert await scene.store.schedules.tend(NAME) == ("STARTED", [])
    await audit(scene)


async def test_each_run_has_the_tags_and_deadlines_of_its_schedule(scene: Scene) -> None:
    """Given one that is started at once, and one that is buffered, and then."""
    worker = await scene.register()
    more = 'start +50000\nfinish +60000\ntag red\ntag blue\nmemo {"by":"Ada"}'
    await scene.schedule(overlap="buffer_one", due_in=-1, more=more)
    await scene.trigger("0-first")
    owner = (await scene.take(worker)).ownership
    assert (await fire(scene, await taken(scene), "0-second"))[0] == "BUFFERED"
    await scene.finish(owner)
    assert (await scene.store.schedules.tend(NAME))[0] == "STARTED"
    for run_id in ("0-first", "0-second"):
        record = await scene.record(run_id)
        assert (record["tags"], record["memo"]) == ("red\nblue", '{"by":"Ada"}')
        assert 60_000 - 1000 < int(record["finish_by"]) - int(record["created"]) <= 60_000
        assert record["schedule"] == NAME
    assert sorted(await scene.listed(tag="red")) == ["0-first", "0-second"]
    await audit(scene)


async def test_a_deleted_schedule_is_not_found_and_its_runs_stay(scene: Scene) -> None:
    await busy(scene, "skip")
    await scene.store.schedules.delete(NAME, timeout=TIMEOUT)
    for asked in (
        scene.schedule_record(),
        scene.trigger("0-run"),
        scene.store.schedules.pause(NAME, "", timeout=TIMEOUT),
        scene.store.schedules.resume(NAME, "digest", 1, 1, timeout=TIMEOUT),
    ):
        with pytest.raises(NotFound, match="there is no schedule 'a schedule'"):
            await asked
    assert await scene.status("0-before") is Status.RUNNING
    await audit(scene)


async def test_a_damaged_or_removed_run_holds_up_no_schedule(scene: Scene) -> None:
    owner = await busy(scene, "skip")
    await scene.finish(owner)
    await scene.store.timers.remove_finished(0, [WORKFLOW])
    assert (await scene.trigger("0-second"))[0] == "STARTED"
    await scene.command("DEL", f"{scene.base}run:0-second")
    await scene.command("SET", f"{scene.base}run:0-second", "garbage")
    assert (await scene.trigger("0-third"))[0] == "STARTED"


async def test_a_damaged_schedule_holds_up_no_other(scene: Scene) -> None:
    for name in ("a", "b", "c", "d"):
        await scene.schedule(name, due_in=-1)
    await scene.command("DEL", scene.base + "schedule:a")
    await scene.command("SET", scene.base + "schedule:a", "garbage")
    await scene.command("HDEL", scene.base + "schedule:b", "workflow")
    await scene.command("HSET", scene.base + "schedule:c", "timing", '{"cron": "never"}')
    await Firing(scene.store).fire()
    assert len(await started_runs(scene)) == 1
    assert (await scene.schedule_record("d")).started == 1


async def test_another_store_fires_nothing(new_scene: NewScene) -> None:
    scene = await new_scene()
    await scene.schedule(due_in=-1)
    due = await taken(scene)
    await scene.command("HSET", scene.base + "meta", "store", "another")
    for asked in (
        fire(scene, due),
        scene.store.schedules.tend(NAME),
        scene.trigger("0-run"),
        scene.schedule("b"),
    ):
        with pytest.raises(StoreRefused, match="is not the store it was"):
            await asked
    assert await started_runs(scene) == []


@dataclass
class Chaos:
    """Housekeepers, ends of runs, copies of old commands, and people who trigger."""

    scene: Scene
    rng: random.Random
    worker: str
    owners: list[Ownership] = field(default_factory=list[Ownership])
    seen: list[DueSchedule] = field(default_factory=list[DueSchedule])
    fired: list[int] = field(default_factory=list[int])

    async def look(self) -> None:
        await hold_nothing(self.scene)
        for due in (await self.scene.store.schedules.take())[2]:
            if due.due <= await now(self.scene):
                self.seen.append(due)
                word, _ = await fire(self.scene, due)
                self.fired += [due.planned] if word in ("STARTED", "BUFFERED") else []

    async def fire_again(self) -> None:
        if self.seen:
            assert (await fire(self.scene, self.rng.choice(self.seen)))[0] == "STALE"

    async def tend(self) -> None:
        await self.scene.store.schedules.tend(NAME)

    async def trigger(self) -> None:
        await self.scene.trigger(new_run_id(0), overlap=self.rng.choice(("", *OVERLAPS)))

    async def claim(self) -> None:
        for entry in await self.scene.deliver(self.worker):
            claimed = await self.scene.try_claim(entry, self.worker)
            self.owners += [claimed.ownership] if isinstance(claimed, ClaimedRun) else []

    async def finish(self) -> None:
        if self.owners:
            owner = self.owners.pop(self.rng.randrange(len(self.owners)))
            await self.scene.finish(owner, self.rng.choice(sorted(FINAL)))


@pytest.mark.parametrize("overlap", OVERLAPS)
async def test_whatever_happens_in_any_order_no_occurrence_is_started_twice(
    scene: Scene, rng: random.Random, overlap: str
) -> None:
    chaos = Chaos(scene, rng, await scene.register())
    await scene.schedule(overlap=overlap, due_in=-30 * 3600)
    events = (
        chaos.look, chaos.look, chaos.fire_again, chaos.tend, chaos.trigger, chaos.claim,
        chaos.finish, chaos.finish,
    )  # fmt: skip
    await chaos.look()  # or all that is planned may be skipped, by what is triggered before
    for turn in range(150):
        await rng.choice(events)()
        if turn % 10 == 0:
            await audit(scene)
    assert len(chaos.fired) == len(set(chaos.fired)) > 0
    record = await scene.schedule_record()
    assert record.started == len(await started_runs(scene))
    await audit(scene)
