"""Each interleaving between owners of a run that the protocol closes: nothing lost or doubled."""

from __future__ import annotations

import asyncio

import pytest

from aiki.journal import Journal
from aiki.records import EntryKind
from aiki.states import Status
from aiki.store.connection import Command
from aiki.store.keys import new_token
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, TIMEOUT, Scene

# Deliveries and claims


async def test_a_doubled_delivery_gives_a_run_to_one_worker_only(scene: Scene) -> None:
    first, second = await scene.register(), await scene.register()
    run_id = await scene.start_run()
    entry = await scene.deliver_one(first)
    double = await scene.command(
        "XADD", scene.base + STREAM, "*", "run", run_id, "epoch", entry.epoch
    )
    again = await scene.deliver_one(second)
    assert again.entry == double.decode()

    await scene.claim(entry, first)
    assert await scene.try_claim(again, second) == b"STALE"
    assert await scene.entries() == []
    assert (await scene.record(run_id))["owner"] == first
    await audit(scene)


async def test_a_delivery_that_comes_after_the_run_has_parked_and_woken_is_stale(
    scene: Scene,
) -> None:
    slow, quick = await scene.register(), await scene.register()
    run_id = await scene.start_run()
    old = await scene.deliver_one(slow)
    assert await scene.script("requeue_idle", 0, 100) == 1
    owner = (await scene.take(quick)).ownership
    await scene.attempt(owner, "step#0")
    await scene.park(owner, "step#0")
    await scene.fall_due()
    await scene.store.timers.fire()

    assert await scene.try_claim(old, slow) == b"STALE"
    assert await scene.status(run_id) is Status.QUEUED
    assert (await scene.take(slow)).ownership.run_id == run_id
    await audit(scene)


async def test_a_claim_whose_reply_was_lost_is_answered_the_same_again(scene: Scene) -> None:
    worker, token = await scene.register(), new_token()
    await scene.start_run()
    entry = await scene.deliver_one(worker)
    claimed = await scene.claim(entry, worker, token)
    before = await scene.dump()
    again = await scene.claim(entry, worker, token)
    assert (again.ownership, again.input) == (claimed.ownership, claimed.input)
    assert await scene.dump() == before


async def test_a_claim_that_is_answered_again_after_commits_brings_them(scene: Scene) -> None:
    worker, token = await scene.register(), new_token()
    await scene.start_run()
    entry = await scene.deliver_one(worker)
    owner = (await scene.claim(entry, worker, token)).ownership
    await scene.commit(owner, "step#0")
    again = await scene.claim(entry, worker, token)
    assert again.ownership == owner
    assert list(again.journal) == ["step#0"]


async def test_a_claim_sent_again_after_the_run_went_to_another_takes_nothing(scene: Scene) -> None:
    lost, token = await scene.register(), new_token()
    await scene.start_run()
    entry = await scene.deliver_one(lost)
    await scene.claim(entry, lost, token)
    await scene.kill(lost)
    owner = (await scene.take(await scene.register())).ownership

    assert await scene.try_claim(entry, lost, token) == b"STALE"
    assert await scene.commit(owner, "step#0") == 0
    await audit(scene)


async def test_a_recovered_worker_that_wakes_before_its_claim_gets_nothing(scene: Scene) -> None:
    frozen = await scene.register()
    run_id = await scene.start_run()
    entry = await scene.deliver_one(frozen)
    await scene.kill(frozen)
    assert await scene.entries() == [run_id]

    for _ in range(2):
        assert await scene.try_claim(entry, frozen, "its token") == b"DEAD"
    assert await scene.entries() == [run_id]
    assert (await scene.take(await scene.register())).ownership.run_id == run_id
    await audit(scene)


async def test_a_dead_worker_that_reads_once_more_gives_the_entry_back_once(scene: Scene) -> None:
    zombie = await scene.register()
    await scene.kill(zombie)
    run_id = await scene.start_run()
    entry = await scene.deliver_one(zombie)  # this makes its consumer anew

    for _ in range(3):
        assert await scene.try_claim(entry, zombie, "its token") == b"DEAD"
    assert await scene.entries() == [run_id]
    assert await scene.status(run_id) is Status.QUEUED
    await audit(scene)


async def test_a_worker_whose_recovery_is_under_way_claims_nothing_more(scene: Scene) -> None:
    dying = await scene.register()
    run_id = await scene.start_run()
    entry = await scene.deliver_one(dying)
    await scene.command("ZADD", scene.base + "workers", 0, dying)  # what recovery does first
    assert await scene.try_claim(entry, dying) == b"DEAD"
    assert await scene.entries() == [run_id]
    await audit(scene)


async def test_a_quarantined_run_offered_to_the_wrong_worker_goes_to_its_stream_once(
    scene: Scene,
) -> None:
    wrong, right = await scene.register(), await scene.register()
    run_id = await scene.start_run()
    entry = await scene.deliver_one(wrong)
    key = f"{scene.base}run:{run_id}"
    await scene.command("HSET", key, "quarantine", "1")
    await scene.command("ZADD", scene.base + "quarantine", 1, run_id)

    for _ in range(2):
        assert await scene.try_claim(entry, wrong, "its token") == b"ALONE"
    assert await scene.entries() == []
    assert await scene.entries(ALONE) == [run_id]
    assert (await scene.take(right, quarantine=True)).ownership.run_id == run_id
    await audit(scene)


async def test_a_slow_worker_and_the_one_its_entry_was_given_to_share_nothing(scene: Scene) -> None:
    slow, other = await scene.register(), await scene.register()
    first_id, second_id = await scene.start_run(), await scene.start_run()
    first, second = await scene.deliver(slow)
    assert await scene.script("requeue_idle", 0, 100) == 2
    first_again, second_again = await scene.deliver(other)

    await scene.claim(first, slow)  # the slow one is first after all
    await scene.claim(second_again, other)
    assert await scene.try_claim(first_again, other) == b"STALE"
    assert await scene.try_claim(second, slow) == b"STALE"
    assert (await scene.record(first_id))["owner"] == slow
    assert (await scene.record(second_id))["owner"] == other
    assert await scene.entries() == []
    await audit(scene)


async def test_a_reader_is_never_given_more_than_it_has_slots_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = STREAM.replace("1.0.0", "2.0.0")
    worker, neighbour = await scene.register(STREAM, other), await scene.register(STREAM, other)
    reader = scene.store.workers.ready_reader(scene.store.address, worker)
    send = reader._link.send

    async def start_two_first(command: Command) -> object:
        await scene.start_run()
        await scene.start_run(version="2.0.0")
        return await send(command)

    def send_late(command: Command) -> asyncio.Future[object]:
        # Between the look that finds nothing and the wait for whatever comes, two runs come.
        if command[0] == "XREADGROUP":
            return asyncio.ensure_future(start_two_first(command))
        return send(command)

    monkeypatch.setattr(reader._link, "send", send_late)
    found = await reader.read([STREAM, other], 1)
    await reader.close()
    left = [*await scene.deliver(neighbour), *await scene.deliver(neighbour, other)]
    assert (len(found), len(left)) == (1, 1)
    assert found[0].run_id != left[0].run_id
    await audit(scene)


# Commits


async def test_of_two_equal_steps_the_second_may_commit_first(scene: Scene) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    first_life = Journal({}, None)
    assert [first_life.take("step")[0] for _ in range(2)] == ["step#0", "step#1"]
    await scene.commit(owner, "step#1", b"the second")
    await scene.kill(worker)

    claimed = await scene.take(await scene.register())
    second_life = Journal(claimed.journal, None)
    taken = dict(second_life.take("step") for _ in range(3))
    assert {key: entry and entry.payload for key, entry in taken.items()} == {
        "step#0": None,
        "step#1": b"the second",
        "step#2": None,
    }
    for key in ("step#0", "step#2"):
        assert await scene.commit(claimed.ownership, key) == 0
    await audit(scene)


@pytest.mark.parametrize("left_by", ["release", "recovery", "park"])
async def test_nothing_that_comes_late_with_the_token_of_an_owner_that_left_changes_anything(
    scene: Scene, left_by: str
) -> None:
    worker = await scene.register()
    old = await scene.running(worker)
    await scene.attempt(old, "waits#0")
    if left_by == "release":
        assert await scene.store.runs.release(old.run_id, old.epoch, worker) == b"OK"
    elif left_by == "recovery":
        await scene.kill(worker)
    else:
        assert await scene.park(old, "waits#0") == b"PARKED"
    for taken_again in (False, True):
        if taken_again:
            await scene.fall_due()
            await scene.store.timers.fire()
            await scene.take(await scene.register())
        before = await scene.dump()
        late = [
            await scene.commit(old, "step#0"),
            await scene.attempt(old, "step#0"),
            await scene.abandon(old, "step#0", deliver_cancel=True),
            await scene.park(old, "waits#0"),
            await scene.finish(old),
            await scene.store.runs.stall(old, "a reason"),
        ]
        assert late == [b"FENCED"] * 6
        assert await scene.store.runs.release(old.run_id, old.epoch, worker) == b"STALE"
        assert await scene.dump() == before
    await audit(scene)


async def test_a_release_by_its_old_epoch_does_not_take_a_run_from_the_same_worker(
    scene: Scene,
) -> None:
    worker = await scene.register()
    old = await scene.running(worker)
    assert await scene.store.runs.release(old.run_id, old.epoch, worker) == b"OK"
    new = (await scene.take(worker)).ownership
    assert await scene.store.runs.release(old.run_id, old.epoch, worker) == b"STALE"
    assert await scene.commit(new, "step#0") == 0
    await audit(scene)


async def test_an_abandoned_step_stays_abandoned_whenever_its_result_comes(scene: Scene) -> None:
    owner = await scene.running()
    await scene.commit(owner, "early#0")
    assert await scene.abandon(owner, "early#0") == 0  # replaces its own result
    assert await scene.abandon(owner, "late#0") == 0
    before = await scene.dump()
    assert await scene.commit(owner, "late#0") == b"ABANDONED"
    assert await scene.attempt(owner, "late#0") == b"ABANDONED"
    assert await scene.commit(owner, "early#0") == b"ABANDONED"
    assert await scene.dump() == before
    journal = await scene.store.runs.journal(owner.run_id, timeout=TIMEOUT)
    assert {entry.kind for entry in journal.values()} == {EntryKind.ABANDONED}


async def test_an_attempt_sent_again_does_not_move_its_due_time(scene: Scene) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "step#0", delay=60)
    before = await scene.dump()
    assert await scene.attempt(owner, "step#0", delay=90) == 0
    assert await scene.dump() == before


async def test_a_late_copy_of_an_attempt_does_not_take_back_the_next_one(scene: Scene) -> None:
    owner = await scene.running()
    await scene.attempt(owner, "step#0", number=1)
    await scene.attempt(owner, "step#0", number=2)
    assert await scene.attempt(owner, "step#0", number=1) == 0
    await scene.commit(owner, "other#0")
    assert await scene.attempt(owner, "other#0", number=1) == 0
    journal = await scene.store.runs.journal(owner.run_id, timeout=TIMEOUT)
    assert journal["step#0"].attempts == 2
    assert journal["other#0"].kind is EntryKind.RESULT


async def test_a_step_that_another_owner_closed_is_not_written_over(scene: Scene) -> None:
    worker = await scene.register()
    old = await scene.running(worker)
    await scene.commit(old, "closed#0", b"the old one's")
    await scene.attempt(old, "open#0")
    await scene.abandon(old, "abandoned#0")
    await scene.kill(worker)
    new = (await scene.take(await scene.register())).ownership
    before = await scene.dump()
    for key in ("closed#0", "abandoned#0"):
        assert await scene.commit(new, key, b"the new one's") == b"DIVERGED"
        assert await scene.attempt(new, key) == b"DIVERGED"
        assert await scene.abandon(new, key) == b"DIVERGED"
    assert await scene.dump() == before
    assert await scene.attempt(new, "open#0", number=2) == 0  # an open one is everybody's
    assert await scene.commit(new, "open#0") == 0
    await audit(scene)


# Ends


async def test_a_finish_sent_again_is_answered_the_same_and_ends_nothing_twice(
    scene: Scene,
) -> None:
    owner = await scene.running()
    assert await scene.finish(owner) == b"OK"
    before = await scene.dump()
    assert await scene.finish(owner) == b"OK"
    assert await scene.commit(owner, "step#0") == b"FENCED"
    assert await scene.dump() == before
    await audit(scene)


async def test_a_finish_after_the_run_went_to_another_is_fenced(scene: Scene) -> None:
    worker = await scene.register()
    old = await scene.running(worker)
    await scene.kill(worker)
    new = (await scene.take(await scene.register())).ownership
    assert await scene.finish(old, Status.FAILED) == b"FENCED"
    assert await scene.finish(new) == b"OK"
    assert await scene.finish(old, Status.FAILED) == b"FENCED"
    assert await scene.status(new.run_id) is Status.COMPLETED
    await audit(scene)


async def test_steps_that_are_pending_at_the_end_are_abandoned_by_it(scene: Scene) -> None:
    owner = await scene.running()
    pending = [("step#0", b"a 1:t 1 0 1 0 0 w\n"), ("step#1", b"a 1:t 1 0 2 0 0 w\n")]
    word = await scene.store.runs.finish(owner, Status.COMPLETED, b"1", pending)
    assert word == b"OK"
    journal = await scene.store.runs.journal(owner.run_id, timeout=TIMEOUT)
    assert {key: entry.kind for key, entry in journal.items()} == {
        "step#0": EntryKind.ABANDONED,
        "step#1": EntryKind.ABANDONED,
    }
    await audit(scene)


async def test_a_watcher_is_told_of_the_end_even_where_its_name_is_awkward(scene: Scene) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    inbox = await scene.store.inbox.subscribe("inbox:a client", told.put_nowait)
    owner = await scene.running()
    for _ in range(2):
        assert await scene.store.runs.watch(owner.run_id, inbox) is None
    await scene.finish(owner)
    async with asyncio.timeout(TIMEOUT):
        message = await told.get()
    assert message == f"{owner.run_id} completed the outcome".encode()
    assert await scene.store.runs.watch(owner.run_id, inbox) == (Status.COMPLETED, b"the outcome")
    assert told.empty()


async def test_a_run_remembers_a_bounded_number_of_watchers_and_the_latest_of_them(
    scene: Scene,
) -> None:
    owner = await scene.running()
    told: asyncio.Queue[bytes] = asyncio.Queue()
    for number in range(400):
        await scene.store.runs.watch(owner.run_id, f"{scene.base}inbox:{number:016}")
    last = await scene.store.inbox.subscribe("inbox:the last", told.put_nowait)
    await scene.store.runs.watch(owner.run_id, last)
    watchers = (await scene.record(owner.run_id))["watchers"]
    assert len(watchers) < 9000
    assert all(line.startswith(scene.base) for line in watchers.splitlines())
    await scene.finish(owner)
    async with asyncio.timeout(TIMEOUT):
        await told.get()
