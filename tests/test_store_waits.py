"""Parks, timers and cancels, in every order in which they can meet."""

from __future__ import annotations

import asyncio

import pytest

from aiki.states import Status
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, TIMEOUT, Scene

# Park and wake


async def test_a_park_for_something_that_is_due_already_stays(scene: Scene) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "due#0", delay=0)
    await scene.attempt(owner, "later#0", delay=60)
    before = await scene.dump()
    assert await scene.park(owner, "due#0", "later#0") == b"STAY"
    assert await scene.park(owner, "later#0", "due#0") == b"STAY"
    assert await scene.dump() == before


@pytest.mark.parametrize("ended", ["commit", "abandon", "never begun"])
async def test_a_park_for_something_that_is_over_stays(scene: Scene, ended: str) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "later#0")
    if ended == "commit":
        await scene.commit(owner, "step#0")
    elif ended == "abandon":
        await scene.abandon(owner, "step#0")
    assert await scene.park(owner, "later#0", "step#0") == b"STAY"
    await audit(scene)


async def test_a_parked_run_is_woken_by_the_first_of_its_waits_and_once(scene: Scene) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "late#0", delay=3600)
    await scene.attempt(owner, "soon#0", delay=2)
    await scene.attempt(owner, "later#0", delay=60)
    assert await scene.park(owner, "late#0", "soon#0", "later#0") == b"PARKED"
    count, left = await scene.store.timers.fire()
    assert count == 0, "never early"
    assert left is not None
    assert left <= 2
    async with asyncio.timeout(TIMEOUT):
        while not count:
            count, left = await scene.store.timers.fire()
    assert (count, left) == (1, None)
    assert await scene.store.timers.fire() == (0, None)
    assert await scene.entries() == [owner.run_id]
    await audit(scene)


async def test_a_park_tells_the_housekeepers_when_it_is_the_first_to_be_due(scene: Scene) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    await scene.store.inbox.subscribe("timers", told.put_nowait)
    worker = await scene.register()
    await scene.parked(worker, delay=60)
    await scene.parked(worker, delay=3600)
    await scene.parked(worker, delay=30)
    async with asyncio.timeout(TIMEOUT):
        hints = [int(await told.get()), int(await told.get())]
    assert 45_000 < hints[0] <= 60_000
    assert 15_000 < hints[1] <= 30_000
    assert told.empty()


async def test_timers_that_fire_in_two_processes_at_once_fire_once(scene: Scene) -> None:
    worker = await scene.register()
    for _ in range(5):
        await scene.parked(worker)
    await scene.fall_due()
    fired = await asyncio.gather(*(scene.store.timers.fire() for _ in range(3)))
    assert sum(count for count, _ in fired) == 5
    assert len(await scene.entries()) == 5
    await audit(scene)


# Cancel


@pytest.mark.parametrize("order", ["cancel first", "park first"])
async def test_a_cancel_and_a_park_that_cross_leave_a_run_that_wants_a_worker(
    scene: Scene, order: str
) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "step#0")
    if order == "cancel first":
        assert await scene.cancel(owner.run_id) is Status.RUNNING
        assert await scene.park(owner, "step#0") == b"STAY"
    else:
        assert await scene.park(owner, "step#0") == b"PARKED"
        assert await scene.cancel(owner.run_id) is Status.QUEUED
        owner = (await scene.take(await scene.register())).ownership
    assert await scene.commit(owner, "other#0") == 1, "every reply says that a cancel is wanted"
    await audit(scene)


async def test_a_run_that_is_to_be_paused_is_handed_back_and_not_parked(scene: Scene) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "step#0")
    await scene.store.control.pause(owner.run_id, timeout=TIMEOUT)
    assert await scene.park(owner, "step#0", seen=1) == b"STAY"
    await scene.store.runs.release(owner.run_id, owner.epoch, owner.incarnation)
    assert await scene.status(owner.run_id) is Status.PAUSED
    await audit(scene)


async def test_a_run_whose_cancel_was_delivered_may_park_to_clean_up(scene: Scene) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.attempt(owner, "clean-up#0")
    await scene.cancel(owner.run_id)
    assert await scene.abandon(owner, "point#0", deliver_cancel=True) == 1
    assert await scene.abandon(owner, "elsewhere#0", deliver_cancel=True) == 1
    assert await scene.park(owner, "clean-up#0") == b"PARKED"
    assert await scene.cancel(owner.run_id) is Status.AWAITING_RETRY
    await scene.fall_due()
    await scene.store.timers.fire()
    claimed = await scene.take(worker)
    assert (claimed.cancel, claimed.cancel_at) == ("no longer wanted", "point#0")
    assert await scene.finish(claimed.ownership, Status.CANCELLED) == b"OK"
    assert (await scene.record(owner.run_id))["failure"] == "no longer wanted"
    await audit(scene)


@pytest.mark.parametrize("order", ["cancel first", "finish first"])
async def test_a_run_that_ends_without_having_seen_its_cancel_has_completed(
    scene: Scene, order: str
) -> None:
    owner = await scene.running()
    if order == "cancel first":
        assert await scene.cancel(owner.run_id) is Status.RUNNING
        assert await scene.finish(owner) == b"OK"
    else:
        assert await scene.finish(owner) == b"OK"
        assert await scene.cancel(owner.run_id) is Status.COMPLETED
    assert await scene.status(owner.run_id) is Status.COMPLETED
    await audit(scene)


async def test_the_owner_hears_of_a_cancel_by_message_and_until_it_confirms_by_each_beat(
    scene: Scene,
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    worker = await scene.register()
    await scene.store.inbox.subscribe(f"worker:{worker}", told.put_nowait)
    owner = await scene.running(worker)

    async def beat(*confirmed: str) -> list[bytes]:
        word, *notices = await scene.script(
            "beat", scene.store.store_id, worker, "60000", *confirmed
        )
        assert word == b"OK"
        return list(notices[0])

    await scene.cancel(owner.run_id)
    async with asyncio.timeout(TIMEOUT):
        assert await told.get() == owner.run_id.encode()
    assert await beat() == [owner.run_id.encode()]
    assert await beat() == [owner.run_id.encode()]
    assert await beat(owner.run_id) == []
    # Whoever cancels again wants it heard, whatever became of the first notice.
    await scene.cancel(owner.run_id)
    assert await beat() == [owner.run_id.encode()]
    await scene.abandon(owner, "point#0", deliver_cancel=True)
    await beat(owner.run_id)
    await scene.cancel(owner.run_id)
    assert await beat() == [], "the handler has seen it"


async def test_a_cancel_that_is_wanted_when_its_run_stalls_ends_it(scene: Scene) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    inbox = await scene.store.inbox.subscribe("inbox", told.put_nowait)
    owner = await scene.running()
    await scene.store.runs.watch(owner.run_id, inbox)
    await scene.cancel(owner.run_id)
    assert await scene.store.runs.stall(owner, "the code does not fit") == b"OK"
    assert await scene.status(owner.run_id) is Status.CANCELLED
    assert (await scene.record(owner.run_id))["failure"] == "no longer wanted"
    async with asyncio.timeout(TIMEOUT):
        assert (await told.get()).split()[1] == b"cancelled"
    await audit(scene)


async def test_a_run_that_stalls_while_it_cleans_up_is_held_until_it_is_cancelled_again(
    scene: Scene,
) -> None:
    owner = await scene.running()
    await scene.cancel(owner.run_id)
    await scene.abandon(owner, "point#0", deliver_cancel=True)
    await scene.store.runs.stall(owner, "the code does not fit")
    assert await scene.status(owner.run_id) is Status.STALLED
    await audit(scene)
    assert await scene.cancel(owner.run_id) is Status.CANCELLED
    await audit(scene)


@pytest.mark.parametrize("where", ["queued", "parked"])
async def test_a_cancel_asked_for_again_ends_a_run_that_has_lost_its_last_worker_meanwhile(
    scene: Scene, where: str
) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.attempt(owner, "step#0")
    if where == "parked":
        await scene.park(owner, "step#0")
    else:
        await scene.store.runs.release(owner.run_id, owner.epoch, worker)
    assert await scene.cancel(owner.run_id) is Status.QUEUED, "there is a worker to clean up"
    await scene.kill(worker)
    assert await scene.cancel(owner.run_id) is Status.CANCELLED
    assert await scene.entries() == []
    await audit(scene)


async def test_a_consumer_without_a_lease_does_not_count_as_serving(scene: Scene) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.kill(worker)
    await scene.deliver(worker)  # a zombie that reads makes its consumer anew
    assert await scene.cancel(owner.run_id) is Status.CANCELLED
    await audit(scene)


async def test_a_cancelled_run_leaves_no_entry_behind_for_workers_that_may_never_come(
    scene: Scene,
) -> None:
    for _ in range(3):
        assert await scene.cancel(await scene.start_run()) is Status.CANCELLED
    assert await scene.entries() == []
    await audit(scene)


# Quarantine


async def quarantined(scene: Scene) -> str:
    run_id = await scene.start_run()
    for _ in range(2):
        victim = await scene.register()
        await scene.take(victim)
        await scene.kill(victim)
    assert await scene.entries(ALONE) == [run_id]
    return run_id


async def test_a_parked_run_keeps_nobody_waiting_in_quarantine(scene: Scene) -> None:
    run_id = await quarantined(scene)
    worker = await scene.register()
    assert await scene.store.workers.beat_supervisor("", 0) == (1, 0)
    owner = (await scene.take(worker, quarantine=True)).ownership
    await scene.attempt(owner, "step#0", delay=3600)
    assert await scene.park(owner, "step#0") == b"PARKED"
    assert await scene.store.workers.beat_supervisor("", 0) == (0, 0)
    await audit(scene)

    await scene.fall_due()
    await scene.store.timers.fire()
    assert await scene.entries() == []
    assert await scene.entries(ALONE) == [run_id]
    assert await scene.store.workers.beat_supervisor("", 0) == (1, 0)
    await audit(scene)


@pytest.mark.parametrize("end", ["finish", "stall", "cancel", "cancel while parked"])
async def test_a_run_leaves_the_quarantine_however_it_leaves(scene: Scene, end: str) -> None:
    run_id = await quarantined(scene)
    if end == "cancel":
        assert await scene.cancel(run_id) is Status.CANCELLED
    else:
        worker = await scene.register()
        owner = (await scene.take(worker, quarantine=True)).ownership
        await scene.attempt(owner, "step#0")
        if end == "finish":
            await scene.finish(owner)
        elif end == "stall":
            await scene.store.runs.stall(owner, "a reason")
        else:
            await scene.park(owner, "step#0")
            await scene.kill(worker, counted=False)
            assert await scene.cancel(run_id) is Status.CANCELLED
    assert await scene.store.workers.beat_supervisor("", 0) == (0, 0)
    await audit(scene)


async def test_a_run_handed_back_in_quarantine_stays_there(scene: Scene) -> None:
    run_id = await quarantined(scene)
    worker = await scene.register()
    owner = (await scene.take(worker, quarantine=True)).ownership
    await scene.store.runs.release(run_id, owner.epoch, worker)
    assert (await scene.entries(STREAM), await scene.entries(ALONE)) == ([], [run_id])
    assert await scene.store.workers.beat_supervisor("", 0) == (1, 0)
    await audit(scene)


async def test_supervisors_are_counted_until_they_fall_silent(scene: Scene) -> None:
    workers = scene.store.workers
    assert await workers.beat_supervisor("one", 60) == (0, 1)
    assert await workers.beat_supervisor("two", 60) == (0, 2)
    assert await workers.beat_supervisor("two", 0) == (0, 1)
    await workers.remove_supervisor("one")
    assert await workers.beat_supervisor("", 0) == (0, 0)
