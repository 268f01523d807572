"""What becomes of a worker that is gone, and of what it held."""

from __future__ import annotations

import asyncio

import pytest

from aiki.states import Status
from aiki.store.keys import new_token
from aiki.store.workers import AboutWorker
from tests.support.audit import audit
from tests.support.store import ALONE, LEASE, STREAM, Scene, without_clocks

ABOUT = AboutWorker("a label", "a host", 1, 1.0)


async def beat(scene: Scene, worker: str) -> bytes:
    reply = await scene.script("beat", scene.store.store_id, worker, "60000")
    word: bytes = reply[0]
    return word


async def recover_once(scene: Scene, worker: str, *, only_if_expired: bool = False) -> bytes:
    """Send one batch, as a supervisor does that dies after it."""
    reply = await scene.script(
        "recover_worker", worker, "1" if only_if_expired else "0", "it died", "1", "", "2", "5",
        "100",
    )  # fmt: skip
    word: bytes = reply[0]
    return word


async def find_expired(scene: Scene) -> list[str]:
    return await scene.store.workers.find_expired(LEASE)


# The life of a worker


async def test_a_beat_renews_a_lease_and_never_creates_one(scene: Scene) -> None:
    assert await beat(scene, "nobody") == b"DEAD"
    assert await scene.store.workers.list() == []
    worker = await scene.register()
    await scene.expire(worker)
    assert await beat(scene, worker) == b"OK"
    (record,) = await scene.store.workers.list()
    assert record.incarnation == worker
    assert 45 < record.expires_in <= 60


async def test_a_beat_after_an_outage_renews_a_lease_that_ran_out_meanwhile(scene: Scene) -> None:
    worker = await scene.register()
    await scene.expire(worker)
    assert await beat(scene, worker) == b"OK"
    assert await find_expired(scene) == []


async def test_a_worker_that_was_recovered_hears_it_from_its_beat_and_cannot_come_back(
    scene: Scene,
) -> None:
    worker = await scene.register()
    for _ in range(101):
        await scene.start_run()
    for entry in await scene.deliver(worker):
        await scene.claim(entry, worker)
    before_the_end = await recover_once(scene, worker)
    assert before_the_end == b"MORE"
    for _ in range(2):
        assert await beat(scene, worker) == b"DEAD"
        assert await scene.store.workers.register(worker, LEASE, ABOUT, [STREAM]) == "DEAD"
        await scene.kill(worker)
    assert await scene.store.workers.list() == []
    await audit(scene)


async def test_what_is_kept_of_a_dead_worker_goes_by_itself(scene: Scene) -> None:
    worker = await scene.register()
    await scene.cancel((await scene.running(worker)).run_id)
    await scene.kill(worker)
    left = {key for key in await scene.keys() if worker in key}
    assert left == {f"worker:{worker}"}
    assert 3400 < await scene.command("TTL", f"{scene.base}worker:{worker}") <= 3600


async def test_two_workers_may_bear_the_same_label(scene: Scene) -> None:
    first, second = await scene.register(), await scene.register()
    await scene.kill(first)
    assert await beat(scene, second) == b"OK"


# Recovery


async def test_a_recovery_that_is_interrupted_is_finished_by_another(scene: Scene) -> None:
    victim, heir = await scene.register(), await scene.register()
    started = [await scene.start_run() for _ in range(250)]
    for entry in await scene.deliver(victim):
        await scene.claim(entry, victim)
    assert await recover_once(scene, victim) == b"MORE"

    queued = await scene.entries()
    assert len(queued) == 100
    await audit(scene)
    heirs = [await scene.claim(entry, heir) for entry in await scene.deliver(heir)]
    # Whoever comes next is told, without waiting for a lease to run out.
    assert await find_expired(scene) == [victim]
    recovered = await scene.store.workers.recover(
        victim, cause="its lease ran out", only_if_expired=True
    )
    assert len(recovered.queued) == 150
    assert sorted(recovered.queued + queued) == sorted(started)
    assert sorted(await scene.entries()) == sorted(recovered.queued)
    assert {claimed.ownership.epoch for claimed in heirs} == {"3"}, "the first owner's was 1"
    assert {(await scene.record(run_id))["epoch"] for run_id in recovered.queued} == {"2"}
    assert await find_expired(scene) == []
    await audit(scene)


async def test_two_that_recover_a_worker_at_once_give_each_run_back_once(scene: Scene) -> None:
    victim = await scene.register()
    started = [await scene.start_run() for _ in range(120)]
    for entry in await scene.deliver(victim):
        await scene.claim(entry, victim)
    given_back = await asyncio.gather(scene.kill(victim), scene.kill(victim))
    assert sorted(given_back[0] + given_back[1]) == sorted(started)
    assert sorted(await scene.entries()) == sorted(started)
    await audit(scene)


async def test_recovery_offers_again_what_was_delivered_and_not_claimed(scene: Scene) -> None:
    victim, heir = await scene.register(), await scene.register()
    started = [await scene.start_run() for _ in range(230)]
    await scene.deliver(victim)
    await scene.kill(victim)
    offered = await scene.deliver(heir)
    assert sorted(entry.run_id for entry in offered) == sorted(started)
    consumers = await scene.command("XINFO", "CONSUMERS", scene.base + STREAM, "workers")
    assert [one[1].decode() for one in consumers] == [heir]
    await audit(scene)


async def test_what_a_worker_reads_after_it_was_given_up_is_offered_again_at_its_end(
    scene: Scene,
) -> None:
    victim, heir = await scene.register(), await scene.register()
    await scene.kill(victim)
    started = [await scene.start_run() for _ in range(130)]
    await scene.deliver(victim)  # its read had been waiting
    await scene.kill(victim)  # it hears that it was given up, and ends
    assert sorted(entry.run_id for entry in await scene.deliver(heir)) == sorted(started)
    assert await consumers(scene) == {heir}
    await audit(scene)


async def test_a_run_that_was_parked_or_taken_by_another_is_not_given_back(scene: Scene) -> None:
    victim, heir = await scene.register(), await scene.register()
    await scene.parked(victim)
    moved = await scene.running(victim)
    await scene.store.runs.release(moved.run_id, moved.epoch, victim)
    owner = (await scene.take(heir)).ownership
    await scene.command("SADD", f"{scene.base}worker:{victim}:runs", owner.run_id)
    assert await scene.kill(victim) == []
    assert await scene.commit(owner, "step#0") == 0
    await audit(scene)


async def test_consumers_of_workers_that_are_gone_do_not_gather(scene: Scene) -> None:
    worker, gone = await scene.register(), await scene.register()
    await scene.kill(gone)
    await scene.start_run()
    entry = await scene.deliver_one(gone)  # it reads once more, and its consumer is back
    await scene.script("requeue_idle", 3_600_000, 100)
    assert await consumers(scene) == {worker, gone}
    await scene.script("requeue_idle", 0, 100)
    assert await consumers(scene) == {worker}
    assert await scene.try_claim(entry, gone) == b"DEAD"
    assert (await scene.take(worker)).ownership.run_id == entry.run_id
    await audit(scene)


async def test_a_consumer_is_kept_as_long_as_something_is_pending_for_it(scene: Scene) -> None:
    worker = await scene.register()
    for _ in range(2):
        await scene.start_run()
    await scene.deliver("a zombie")
    await scene.script("requeue_idle", 0, 1)
    assert await consumers(scene) == {worker, "a zombie"}
    await scene.script("requeue_idle", 0, 1)
    assert await consumers(scene) == {worker}
    assert len(await scene.deliver(worker)) == 2


async def consumers(scene: Scene) -> set[str]:
    found = await scene.command("XINFO", "CONSUMERS", scene.base + STREAM, "workers")
    return {one[1].decode() for one in found}


# Leases


async def test_a_worker_whose_lease_ran_out_is_found_and_one_that_beats_is_not(
    scene: Scene,
) -> None:
    silent, alive = await scene.register(), await scene.register()
    assert await find_expired(scene) == []
    await scene.expire(silent)
    assert await find_expired(scene) == [silent]
    await scene.store.workers.recover(alive, cause="a mistake", only_if_expired=True)
    assert await beat(scene, alive) == b"OK"
    await scene.store.workers.recover(silent, cause="its lease ran out", only_if_expired=True)
    assert await beat(scene, silent) == b"DEAD"


async def test_after_a_time_in_which_nobody_looked_everybody_gets_a_lease_of_grace(
    scene: Scene,
) -> None:
    worker, dying = await scene.register(), await scene.register()
    owner = await scene.running(worker)
    await recover_once(scene, dying)
    again = await scene.register()
    await scene.command("ZADD", scene.base + "workers", 0, again)  # its recovery was begun
    assert await find_expired(scene) == [again]
    # The server was away for longer than half a lease; all leases have run out.
    looked = int(await scene.command("HGET", scene.base + "pulse", "at"))
    await scene.command("HSET", scene.base + "pulse", "at", looked - 31_000)
    await scene.expire(worker)

    assert await find_expired(scene) == [again]
    recovered = await scene.store.workers.recover(worker, cause="x", only_if_expired=True)
    assert recovered.queued == []
    assert await find_expired(scene) == [again], "the grace lasts"
    assert await beat(scene, worker) == b"OK"
    assert await scene.commit(owner, "step#0") == 0
    # Where it stays silent for that time as well, it is gone.
    await scene.expire(worker)
    await scene.command("HSET", scene.base + "pulse", "grace", looked)
    assert sorted(await find_expired(scene)) == sorted([again, worker])


async def test_a_server_clock_that_was_put_back_opens_the_grace_as_well(scene: Scene) -> None:
    worker = await scene.register()
    await find_expired(scene)
    looked = int(await scene.command("HGET", scene.base + "pulse", "at"))
    await scene.command("HSET", scene.base + "pulse", "at", looked + 31_000)
    await scene.expire(worker)
    assert await find_expired(scene) == []


# Runs that end their workers


async def test_a_run_that_keeps_ending_workers_is_set_apart_and_then_held(scene: Scene) -> None:
    run_id = await scene.start_run()
    for deaths in range(1, 6):
        victim = await scene.register()
        await scene.take(victim, quarantine=deaths > 2)
        await scene.kill(victim)
        apart = deaths >= 2
        held = deaths == 5
        expected = [] if held else [run_id]
        assert await scene.entries(ALONE if apart else STREAM) == expected
        assert await scene.entries(STREAM if apart else ALONE) == []
        assert (await scene.record(run_id))["deaths"] == str(deaths)
        await audit(scene)
    assert await scene.status(run_id) is Status.STALLED
    reason = (await scene.record(run_id))["reason"]
    assert reason.count("killed by signal 9") == 5


@pytest.mark.parametrize("progress", ["a step", "a retried step", "an attempt"])
async def test_a_death_after_progress_counts_from_the_start(scene: Scene, progress: str) -> None:
    run_id = await scene.start_run()
    victim = await scene.register()
    owner = (await scene.take(victim)).ownership
    await scene.attempt(owner, "retried#0")
    await scene.kill(victim)
    assert (await scene.record(run_id))["deaths"] == "1"

    victim = await scene.register()
    owner = (await scene.take(victim)).ownership
    if progress == "a step":
        await scene.commit(owner, "step#0")
    elif progress == "a retried step":
        await scene.commit(owner, "retried#0")
    else:
        await scene.attempt(owner, "other#0")
    await scene.kill(victim)
    assert (await scene.record(run_id))["deaths"] == "1"
    assert await scene.entries(STREAM) == [run_id]
    await audit(scene)


async def test_deaths_that_say_nothing_about_a_run_are_not_counted(scene: Scene) -> None:
    run_id = await scene.start_run()
    for _ in range(6):
        victim = await scene.register()
        await scene.take(victim)
        await scene.kill(victim, counted=False)
    assert (await scene.record(run_id))["deaths"] == "0"
    assert await scene.entries(STREAM) == [run_id]


async def test_of_many_deaths_at_once_those_of_runs_recovered_just_before_count(
    scene: Scene,
) -> None:
    repeater, victim = await scene.register(), await scene.register()
    suspect = await scene.start_run()
    await scene.take(repeater)
    await scene.kill(repeater, counted=False)
    await scene.take(victim)
    bystander = (await scene.running(victim)).run_id
    await scene.store.workers.recover(victim, cause="it died", suspects_after=60)
    assert (await scene.record(suspect))["deaths"] == "1"
    assert (await scene.record(bystander))["deaths"] == "0"


async def test_a_cancel_that_is_wanted_when_its_run_has_ended_too_many_workers_ends_it(
    scene: Scene,
) -> None:
    run_id = await scene.start_run()
    for deaths in range(4):
        victim = await scene.register()
        await scene.take(victim, quarantine=deaths >= 2)
        await scene.kill(victim)
    victim = await scene.register()
    await scene.take(victim, quarantine=True)
    await scene.cancel(run_id)
    recovered = await scene.store.workers.recover(victim, cause="it died", counted=True)
    assert (recovered.queued, recovered.stalled) == ([], [])
    assert await scene.status(run_id) is Status.CANCELLED
    await audit(scene)


# Begin


async def test_a_registration_sent_again_changes_nothing(scene: Scene) -> None:
    worker = new_token()
    streams = [STREAM, ALONE]
    assert await scene.store.workers.register(worker, LEASE, ABOUT, streams) == "OK"
    before = without_clocks(await scene.dump())
    assert await scene.store.workers.register(worker, LEASE, ABOUT, streams) == "OK"
    assert without_clocks(await scene.dump()) == before


async def test_a_worker_may_wait_for_a_version_before_its_first_run(scene: Scene) -> None:
    worker = await scene.register()
    assert await scene.deliver(worker) == []
    run_id = await scene.start_run()
    assert (await scene.take(worker)).ownership.run_id == run_id


async def test_a_run_may_wait_for_the_first_worker_of_its_version(scene: Scene) -> None:
    run_id = await scene.start_run()
    assert (await scene.take(await scene.register())).ownership.run_id == run_id
