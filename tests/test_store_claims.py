"""Each interleaving of deliveries and claims that the protocol closes: one owner at a time."""

from __future__ import annotations

import asyncio

import pytest

from aiki.errors import StoreRefused
from aiki.records import ClaimedRun
from aiki.states import Status
from aiki.store.connection import Command
from aiki.store.keys import new_token
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, Scene


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


async def test_each_entry_of_a_batch_gets_the_answer_it_would_get_alone(scene: Scene) -> None:
    worker, token = await scene.register(), new_token()
    names = ("well", "gone", "alone", "damaged", "last")
    runs = {name: await scene.start_run() for name in names}
    await scene.cancel(runs["gone"])
    await scene.command("HSET", f"{scene.base}run:{runs['alone']}", "quarantine", "1")
    await scene.command("ZADD", scene.base + "quarantine", 1, runs["alone"])
    for name in ("gone", "well"):
        await scene.command("XADD", scene.base + STREAM, "*", "run", runs[name], "epoch", "0")
    entries = await scene.deliver(worker)
    found = {run_id: name for name, run_id in runs.items()}
    offered = [found[entry.run_id] for entry in entries]
    assert offered == ["well", "alone", "damaged", "last", "gone", "well"]
    damaged = f"{scene.base}run:{runs['damaged']}"
    await scene.command("RENAME", damaged, scene.base + "aside")
    await scene.command("SET", damaged, "garbage")

    answers = await scene.try_claims(entries, worker, token)
    well, alone, refused, last, gone, doubled = answers
    assert isinstance(well, ClaimedRun)
    assert isinstance(last, ClaimedRun)
    assert [well.ownership.run_id, last.ownership.run_id] == [runs["well"], runs["last"]]
    assert "WRONGTYPE" in str(refused)
    assert (alone, gone, doubled) == (b"ALONE", b"STALE", b"STALE")
    assert await scene.entries() == [runs["damaged"]]
    assert await scene.entries(ALONE) == [runs["alone"]]

    before = await scene.dump()
    again = await scene.try_claims(entries[:-1], worker, token)
    assert [type(answer) for answer in again] == [type(answer) for answer in answers[:-1]]
    assert await scene.dump() == before
    await scene.command("DEL", damaged)
    await scene.command("RENAME", scene.base + "aside", damaged)
    await audit(scene)


async def test_a_run_that_cannot_go_to_the_quarantine_takes_no_other_with_it(scene: Scene) -> None:
    worker = await scene.register(STREAM)  # alone: the stream of the quarantine is not there yet
    well, alone = await scene.start_run(), await scene.start_run()
    await scene.command("HSET", f"{scene.base}run:{alone}", "quarantine", "1")
    entries = await scene.deliver(worker)
    await scene.command("RENAME", scene.base + "streams", scene.base + "aside")
    await scene.command("SET", scene.base + "streams", "garbage")
    with pytest.raises(StoreRefused, match="WRONGTYPE"):
        await scene.try_claims(entries, worker)
    assert (await scene.record(well))["owner"] == worker


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
