"""The sweep: a backstop that mends from the records whatever damage there is, and finds none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from aiki.states import FINAL, WAITING, Status
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, WORKFLOW, Scene

Damage = Callable[[Scene], Awaitable[str]]
DAMAGES: dict[str, Damage] = {}


def mended_as(words: str) -> Callable[[Damage], Damage]:
    """Note a damage; it returns the run or key that the sweep is to name."""

    def note(damage: Damage) -> Damage:
        DAMAGES[words] = damage
        return damage

    return note


@mended_as("was queued without a ready entry")
async def lost_entry(scene: Scene) -> str:
    run_id = await scene.start_run()
    entry = (await scene.record(run_id))["entry"]
    await scene.command("XDEL", scene.base + STREAM, entry)
    return run_id


@mended_as("was running without an owner")
async def lost_lease(scene: Scene) -> str:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.command("ZREM", scene.base + "workers", worker)
    for part in ("runs", "streams"):
        await scene.command("DEL", f"{scene.base}worker:{worker}:{part}")
    return owner.run_id


@mended_as("was of a worker that is gone")
async def litter(scene: Scene) -> str:
    await scene.command("SADD", scene.base + "worker:gone:notices", "0-run")
    return "worker:gone:notices"


@mended_as("was missing from the runs of its owner")
async def lost_ownership(scene: Scene) -> str:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.command("SREM", f"{scene.base}worker:{worker}:runs", owner.run_id)
    return owner.run_id


@mended_as("was waiting without a timer")
async def lost_timer(scene: Scene) -> str:
    owner = await scene.parked()
    await scene.command("ZREM", scene.base + "timers", owner.run_id)
    return owner.run_id


@mended_as("was not listed as completed")
async def lost_listing(scene: Scene) -> str:
    owner = await scene.running()
    await scene.finish(owner)
    await scene.command("ZREM", f"{scene.base}index:completed/{WORKFLOW}", owner.run_id)
    return owner.run_id


@mended_as("was listed as failed and is not")
async def stray_listing(scene: Scene) -> str:
    owner = await scene.running()
    await scene.command("ZADD", f"{scene.base}index:failed/{WORKFLOW}", 1, owner.run_id)
    return owner.run_id


@mended_as("was listed as stalled and is not")
async def listing_of_nothing(scene: Scene) -> str:
    await scene.command("ZADD", f"{scene.base}index:stalled/{WORKFLOW}", 1, "0-gone")
    return "0-gone"


@mended_as("had a timer and waits for none")
async def stray_timer(scene: Scene) -> str:
    owner = await scene.running()
    await scene.command("ZADD", scene.base + "timers", 9_999_999_999_999, owner.run_id)
    return owner.run_id


@mended_as("was not listed by its tag customer:7")
async def lost_tag(scene: Scene) -> str:
    run_id = await scene.start_run(more="tag customer:7\ntag red")
    await scene.command("ZREM", scene.base + "tag:customer:7", run_id)
    return run_id


@mended_as("was listed by the tag customer:7")
async def stray_tag(scene: Scene) -> str:
    run_id = await scene.start_run(more="tag red")
    await scene.command("ZADD", scene.base + "tag:customer:7", 1, run_id)
    return run_id


@mended_as("had no timer for its deadline")
async def lost_deadline(scene: Scene) -> str:
    run_id = await scene.start_run(more="at +60000\nstart +60000\nfinish +60000")
    await scene.command("ZREM", scene.base + "timers", f"{run_id}!start")
    return run_id


@mended_as("had a deadline that is none")
async def stray_deadline(scene: Scene) -> str:
    run_id = await scene.start_run(more="start +60000")
    await scene.command("ZADD", scene.base + "timers", 9_999_999_999_999, f"{run_id}!finish")
    return run_id


@mended_as("was missing from the quarantine")
async def lost_from_quarantine(scene: Scene) -> str:
    run_id = await quarantined(scene)
    await scene.command("ZREM", scene.base + "quarantine", run_id)
    return run_id


@mended_as("was counted in the quarantine")
async def stray_in_quarantine(scene: Scene) -> str:
    owner = await scene.running()
    await scene.command("ZADD", scene.base + "quarantine", 1, owner.run_id)
    return owner.run_id


@mended_as("was not listed by when it is due")
async def lost_schedule(scene: Scene) -> str:
    await scene.schedule()
    await scene.command("ZREM", scene.base + "schedules", "a schedule")
    return "schedule a schedule"


@mended_as("was listed and does not exist")
async def stray_schedule(scene: Scene) -> str:
    await scene.command("ZADD", scene.base + "schedules", 9_999_999_999_999, "gone")
    return "schedule gone"


@mended_as("was a string")
async def no_index(scene: Scene) -> str:
    await scene.parked()
    await scene.command("SET", scene.base + "timers", "garbage")
    return "timers"


async def quarantined(scene: Scene) -> str:
    run_id = await scene.start_run()
    for _ in range(2):
        victim = await scene.register()
        await scene.take(victim)
        await scene.kill(victim)
    return run_id


@pytest.mark.parametrize("words", DAMAGES)
async def test_the_sweep_mends_and_names_what_it_finds(scene: Scene, words: str) -> None:
    await audit(scene)
    what = await DAMAGES[words](scene)
    mended = await scene.walk()
    assert (what, words) in mended
    if words == "was a string":
        mended += await scene.walk()
        assert len(mended) == 2, "the run that lost its timer by it is mended as well"
    else:
        assert mended == [(what, words)]
    await audit(scene)


async def test_a_run_that_lost_its_owner_cannot_be_written_by_it_any_more(scene: Scene) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    await scene.command("ZREM", scene.base + "workers", worker)
    for part in ("runs", "streams"):
        await scene.command("DEL", f"{scene.base}worker:{worker}:{part}")
    await scene.walk()
    assert await scene.commit(owner, "step#0") == b"FENCED"
    heir = (await scene.take(await scene.register())).ownership
    assert int(heir.epoch) > int(owner.epoch) + 1


async def test_the_sweep_finds_nothing_in_a_healthy_store(scene: Scene) -> None:
    """Given runs in every status, delivered, quarantined and in the middle of a recovery."""
    worker, dying = await scene.register(), await scene.register()
    await quarantined(scene)
    await scene.deliver(worker, ALONE)
    for status in FINAL:
        await scene.finish(await scene.running(worker), status)
    await scene.store.runs.stall(await scene.running(worker), "a reason")
    rests = await scene.parked(worker)
    await scene.store.control.pause(rests.run_id, timeout=60)
    gone = await scene.running(worker)
    await scene.finish(gone)
    await scene.store.control.delete(gone.run_id, timeout=60)
    for status in WAITING:
        await scene.parked(worker, status=status)
    await scene.cancel((await scene.running(worker)).run_id)
    await scene.finish(await scene.running(worker, more="start +60000\nfinish +60000\ntag red"))
    released = await scene.running(worker)
    await scene.store.runs.release(released.run_id, released.epoch, worker)
    await scene.start_run(more="at +60000\nstart +60000\nfinish +60000\ntag red")
    for _ in range(120):
        await scene.start_run()
    for entry in (await scene.deliver(dying))[:110]:
        await scene.claim(entry, dying)
    half = await scene.script("recover_worker", dying, "0", "x", "0", "", "2", "5", "100")
    assert half[0] == b"MORE"
    statuses = {
        await scene.status(key.removeprefix("run:"))
        for key in await scene.keys()
        if key.startswith("run:") and key.count(":") == 1 and key != f"run:{gone.run_id}"
    }
    assert statuses == set(Status)
    await audit(scene)


async def test_the_sweep_takes_its_time_and_all_housekeepers_walk_together(scene: Scene) -> None:
    for _ in range(300):
        await scene.cancel(await scene.start_run())
    lost = await lost_entry(scene)
    timers = scene.store.timers
    assert await timers.sweep() in ([], [(lost, "was queued without a ready entry")])
    position = await scene.command("HGETALL", scene.base + "sweep")
    for _ in range(5):
        assert await timers.sweep() == [], "it is not time yet"
    assert await scene.command("HGETALL", scene.base + "sweep") == position
