"""From the start of a run to its removal, and of a store to its loss."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from aiki.errors import Conflict, NotFound, StoreRefused
from aiki.states import FINAL, Status
from aiki.store import Store
from aiki.store.connection import Address
from aiki.store.keys import new_run_id, new_token, partition_of
from aiki.store.runs import NewRun
from aiki.store.timers import BATCH
from aiki.store.workers import AboutWorker
from tests.support.audit import audit
from tests.support.store import LEASE, STREAM, TIMEOUT, WORKFLOW, Scene

ABOUT = AboutWorker("a label", "a host", 1, 1.0)

# Start


async def test_a_start_sent_again_starts_nothing_more_whatever_became_of_the_run(
    scene: Scene,
) -> None:
    run_id = new_run_id(0)
    worker = await scene.register()

    async def start_again() -> None:
        before = await scene.dump()
        assert await scene.start_run(run_id=run_id) == run_id
        assert await scene.dump() == before

    assert await scene.start_run(run_id=run_id) == run_id
    await start_again()
    owner = (await scene.take(worker)).ownership
    await start_again()
    await scene.finish(owner)
    await start_again()
    await audit(scene)


async def test_of_many_starts_with_one_key_one_run_comes(scene: Scene) -> None:
    found = await asyncio.gather(*(scene.start_run(key="order 7") for _ in range(50)))
    assert len(set(found)) == 1
    assert await scene.entries() == [found[0]]
    await audit(scene)


async def test_of_two_starts_with_one_key_and_two_inputs_the_later_is_a_conflict(
    scene: Scene,
) -> None:
    run_id = await scene.start_run(key="order 7")
    before = await scene.dump()
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            await scene.start_run(key="order 7", digest="another")
        assert caught.value.run_id == run_id
    assert await scene.dump() == before


async def test_each_start_of_a_batch_gets_the_answer_it_would_get_alone(scene: Scene) -> None:
    def new(key: str = "", digest: str = "hash") -> NewRun:
        return NewRun(new_run_id(0), WORKFLOW, "1.0.0", "default", b"{}", key, digest)

    plain, keyed, damaged, last = new(), new("order 7"), new("order 8"), new()
    bytes_, others = new("order 9"), [new("order 7"), new("order 7", "another")]
    await scene.command("SET", f"{scene.base}idem:{WORKFLOW}:order 8", "garbage")
    await scene.command(
        "HSET", f"{scene.base}idem:{WORKFLOW}:order 9", "run", b"\xff", "hash", "hash"
    )
    batch = [plain, keyed, damaged, bytes_, *others, plain, last]
    first, winner, refused, no_id, same, conflict, again, also = await scene.store.runs.start(
        batch, timeout=TIMEOUT
    )
    assert isinstance(no_id, StoreRefused)
    assert "damaged" in str(no_id)
    assert (first, winner, same, again, also) == (
        plain.id, keyed.id, keyed.id, plain.id, last.id,
    )  # fmt: skip
    assert isinstance(refused, StoreRefused)
    assert "WRONGTYPE" in str(refused)
    assert isinstance(conflict, Conflict)
    assert conflict.run_id == keyed.id
    assert await scene.entries() == [plain.id, keyed.id, last.id]

    before = await scene.dump()
    await scene.store.runs.start(batch, timeout=TIMEOUT)
    assert await scene.dump() == before
    for number in (8, 9):
        await scene.command("DEL", f"{scene.base}idem:{WORKFLOW}:order {number}")
    await audit(scene)


async def test_a_start_whose_first_copy_lost_the_race_for_its_key_gives_the_winner(
    scene: Scene,
) -> None:
    late = new_run_id(0)
    winner = await scene.start_run(key="order 7")
    for _ in range(2):
        assert await scene.start_run(key="order 7", run_id=late) == winner
    with pytest.raises(NotFound):
        await scene.store.runs.snapshot(late, timeout=TIMEOUT)


async def test_a_key_is_kept_as_long_as_its_run_and_no_longer(scene: Scene) -> None:
    owner = await scene.running(key="order 7")
    await scene.finish(owner)
    assert await scene.start_run(key="order 7") == owner.run_id
    await remove_all(scene)
    new = await scene.start_run(key="order 7")
    assert new != owner.run_id
    await audit(scene)


def test_run_ids_name_their_partition_and_sort_by_age() -> None:
    ids = [new_run_id(3) for _ in range(100)]
    assert len(set(ids)) == 100
    assert {partition_of(run_id) for run_id in ids} == {3}
    assert partition_of("nonsense") is None
    assert partition_of("x-1") is None


# Removal


async def remove_all(scene: Scene) -> int:
    return await scene.store.timers.remove_finished(0, await scene.store.catalog.workflows())


async def test_nothing_of_a_run_is_left_when_its_retention_ends(scene: Scene) -> None:
    worker = await scene.register()
    before = await scene.keys()
    for end in (*sorted(FINAL), "stalled and cancelled"):
        owner = await scene.running(worker, key=end)
        await scene.attempt(owner, "retried#0")
        await scene.park(owner, "retried#0")
        await scene.fall_due()
        await scene.store.timers.fire()
        owner = (await scene.take(worker)).ownership
        await scene.commit(owner, "step#0")
        await scene.store.runs.watch(owner.run_id, scene.base + "inbox:x")
        await scene.cancel(owner.run_id)
        if end in FINAL:
            await scene.finish(owner, Status(end))
        else:
            await scene.store.runs.stall(owner, "a reason")
        await scene.script("beat", scene.store.store_id, worker, "60000", owner.run_id)
    unclaimed = await scene.start_run(key="never claimed")
    await scene.cancel(unclaimed)
    await audit(scene)

    assert await remove_all(scene) == len(FINAL) + 2
    assert await scene.keys() - before == {"sweep"}
    await audit(scene)


async def test_a_run_is_kept_for_its_retention(scene: Scene) -> None:
    owner = await scene.running()
    await scene.finish(owner)
    workflows = await scene.store.catalog.workflows()
    assert workflows == [WORKFLOW]
    assert await scene.store.timers.remove_finished(3600, workflows) == 0
    assert await scene.status(owner.run_id) is Status.COMPLETED


async def test_removal_goes_in_bounded_pieces(scene: Scene) -> None:
    for _ in range(BATCH + 1):
        await scene.cancel(await scene.start_run())
    assert await remove_all(scene) == BATCH
    assert await remove_all(scene) == 1
    assert await remove_all(scene) == 0


async def test_a_run_that_is_not_over_is_never_removed_whatever_the_listings_say(
    scene: Scene,
) -> None:
    owner = await scene.running()
    for status in FINAL:
        index = f"{scene.base}index:{status.value}/{WORKFLOW}"
        await scene.command("ZADD", index, 1, owner.run_id)
    await remove_all(scene)
    assert await scene.commit(owner, "step#0") == 0
    await audit(scene)


async def test_what_is_removed_is_not_found(scene: Scene) -> None:
    owner = await scene.running()
    await scene.finish(owner)
    await remove_all(scene)
    runs = scene.store.runs
    with pytest.raises(NotFound):
        await runs.watch(owner.run_id, "an inbox")
    with pytest.raises(NotFound):
        await scene.cancel(owner.run_id)
    assert await runs.snapshots([owner.run_id], timeout=TIMEOUT) == []
    assert await runs.journal(owner.run_id, timeout=TIMEOUT) == {}
    assert await scene.commit(owner, "step#0") == b"FENCED"
    assert await scene.finish(owner) == b"FENCED"


# Listing


async def test_runs_are_listed_by_status_and_newest_first(scene: Scene) -> None:
    worker = await scene.register()
    over = await scene.running(worker)
    await scene.finish(over)
    parked = await scene.parked(worker)
    running = await scene.running(worker)
    queued = await scene.start_run()
    everything = {over.run_id, parked.run_id, running.run_id, queued}
    assert set(await scene.listed()) == everything
    assert await scene.listed(statuses=[Status.COMPLETED]) == [over.run_id]
    assert await scene.listed(statuses=[Status.RUNNING]) == [running.run_id]
    assert set(await scene.listed(statuses=[Status.QUEUED])) == {running.run_id, queued}
    assert len(await scene.listed(2)) == 2
    assert await scene.listed(workflow="unknown") == []
    assert await scene.store.workers.owned_runs(worker) == {running.run_id: "1"}


# The store itself


async def test_a_store_that_was_flushed_is_known_for_another_one(store_url: str) -> None:
    store = Store(Address(store_url), secrets.token_hex(6))
    await store.open()
    scene = Scene(store)
    worker = await scene.register()
    owner = await scene.running(worker)
    run_id = await scene.start_run()
    entry = await scene.deliver_one(worker)
    await scene.command("FLUSHDB")
    for reopened in (False, True):
        if reopened:
            other = Store(store.address, store.namespace)
            await other.open()
            assert other.store_id != store.store_id
            await other.close()
        with pytest.raises(StoreRefused, match="flushed, restored or replaced"):
            await scene.start_run()
        assert await scene.store.workers.register(new_token(), LEASE, ABOUT, [STREAM]) == "STORE"
        assert await scene.script("beat", store.store_id, worker, "60000") == [b"STORE"]
        assert await scene.try_claim(entry, worker) == b"STALE"
        assert await scene.commit(owner, "step#0") == b"FENCED"
        with pytest.raises(NotFound):
            await scene.cancel(run_id)
    assert await scene.keys() == {"meta"}
    await store.close()


async def test_two_that_open_a_new_store_at_once_agree_on_its_identity(
    store_url: str,
) -> None:
    stores = [Store(Address(store_url), namespace) for namespace in 5 * ["shared"]]
    await asyncio.gather(*(store.open() for store in stores))
    assert len({store.store_id for store in stores}) == 1
    for store in stores:
        await store.close()


async def test_data_of_another_schema_is_refused(scene: Scene) -> None:
    await scene.command("HSET", scene.base + "meta", "schema", "999")
    later = Store(scene.store.address, scene.store.namespace)
    with pytest.raises(StoreRefused, match="schema 999"):
        await later.open()
    await later.close()


async def test_a_full_store_admits_nothing_and_lets_everything_drain(
    store_url: str,
) -> None:
    store = Store(Address(store_url), secrets.token_hex(6))
    await store.open()
    scene = Scene(store)
    parked, waiting = await scene.parked(), await scene.start_run()
    await scene.fall_due()
    try:
        await scene.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreRefused, match="OOM"):
            await scene.start_run(key="refused")
        # A worker that comes now, from its connection on, must be able to help.
        newcomer = Store(Address(store_url), store.namespace)
        await newcomer.open()
        helper = Scene(newcomer)
        await helper.store.timers.fire()
        worker = await helper.register()
        entries = await helper.deliver(worker)
        assert {entry.run_id for entry in entries} == {parked.run_id, waiting}
        for entry in entries:
            owner = (await helper.claim(entry, worker)).ownership
            await helper.attempt(owner, "other#0")
            await helper.commit(owner, "step#0")
            await helper.abandon(owner, "third#0")
            assert await helper.finish(owner) == b"OK"
        await helper.kill(worker)
        await audit(helper)
        assert await remove_all(helper) == 2
        await newcomer.close()
    finally:
        await scene.command("CONFIG", "SET", "maxmemory", "0")
        await store.close()
