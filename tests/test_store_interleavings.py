"""Each interleaving of commits and ends that the protocol closes: nothing lost or doubled."""

from __future__ import annotations

import asyncio

import pytest

from aiki.journal import Journal
from aiki.records import EntryKind
from aiki.states import Status
from tests.support.audit import audit
from tests.support.store import TIMEOUT, Scene

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


async def test_a_copy_of_a_question_that_comes_after_its_refusal_is_not_taken_again(
    scene: Scene,
) -> None:
    owner = await scene.running(await scene.register())
    key, question = "answer/add:1#0", b"update/add\nid\n{}"

    async def ask(request: str) -> object:
        about = (request, 60_000, question, 1_000, 100_000, key)
        return await scene.script("ask_run", owner.run_id, *about)

    assert await ask("first") == [b"OK"]
    refusal = (owner.run_id, owner.token, 1, key, b"id\njno")
    await scene.script("answer_unrecorded", *refusal)
    assert await ask("first") == [b"OK"]
    mailbox = f"{scene.base}run:{owner.run_id}:mailbox"
    assert await scene.store.link.send(("HLEN", mailbox)) == 0
    assert await ask("again") == [b"OK"]
    assert await scene.store.link.send(("HLEN", mailbox)) == 1
    await audit(scene)
