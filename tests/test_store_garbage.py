"""Keys that are not what they should be: a script checks first and writes after.

Lua is not rolled back. So a script that meets a damaged key has changed nothing when it fails.
What only follows from the records (listings, sets, notices) does not stop a change; the sweep
mends it. And what is damaged of one run or stream holds up no other.
"""

from __future__ import annotations

import re

import pytest

from aiki.errors import DataError, StoreRefused
from aiki.records import DamagedRun
from aiki.states import Status
from aiki.store.scripts import SCRIPTS
from tests.support.audit import audit, audit_indexes
from tests.support.calls import ANY, RUN, WORKER
from tests.support.schedule_calls import CALLS
from tests.support.store import ALONE, STREAM, TIMEOUT, NewScene, Scene

# Made anew from the records by the sweep.
DERIVED = re.compile(r"index:.*|worker:[^:]+:(runs|notices)|timers|schedules|quarantine")

# What is said of a call that failed, and by one that looks after many runs, of each.
REFUSED = b"REFUSED"
OF_MANY = ("claim_runs", "start_runs")

# These pass over whatever is damaged.
PASS_OVER = ("read_ready", "sweep", "audit", "try_commands", "delete_schedule")


async def damage(scene: Scene, key: str) -> None:
    """Put something else in place of a key, and the key aside."""
    if await scene.command("EXISTS", scene.base + key):
        await scene.command("RENAME", scene.base + key, f"aside:{scene.base}{key}")
    await scene.command("SET", scene.base + key, "garbage")


async def repair(scene: Scene, key: str) -> None:
    """Put a damaged key back as it was, if nobody has removed it meanwhile."""
    if await scene.command("TYPE", scene.base + key) == b"string":
        await scene.command("DEL", scene.base + key)
        if await scene.command("EXISTS", f"aside:{scene.base}{key}"):
            await scene.command("RENAME", f"aside:{scene.base}{key}", scene.base + key)


async def settle(scene: Scene, key: str) -> None:
    """Let happen what time brings: the sweep's walk, and workers that read what is ready."""
    if not DERIVED.fullmatch(key):
        await repair(scene, key)
    for _ in range(3):
        await scene.walk()
        worker = await scene.register()
        for stream, alone in ((STREAM, False), (ALONE, True)):
            for entry in await scene.deliver(worker, stream):
                await scene.try_claim(entry, worker, quarantine=alone)
        await scene.script("requeue_idle", 0, 1000)


async def keys_around(name: str, scene: Scene) -> list[str]:
    """Name every key that is there when a script begins or when it is done."""
    call = CALLS[name]
    arguments = await call.arrange(scene)
    before = await scene.keys()
    await scene.script(call.script, *arguments)
    return sorted(before | await scene.keys())


@pytest.mark.parametrize("name", CALLS)
async def test_a_script_that_meets_a_damaged_key_does_nothing_or_all(
    new_scene: NewScene, name: str
) -> None:
    call = CALLS[name]
    failed = 0
    for key in await keys_around(name, await new_scene()):
        scene = await new_scene()
        arguments = await call.arrange(scene)
        await damage(scene, key)
        before = await scene.dump()
        try:
            reply = await scene.script(call.script, *arguments)
        except StoreRefused:
            reply = REFUSED
        if reply == REFUSED or (call.script in OF_MANY and reply[0][0] == REFUSED):
            failed += 1
            assert await scene.dump() == before, f"half done with a damaged {key}"
        else:
            if DERIVED.fullmatch(key) and call.reply is not ANY:
                assert reply == call.reply
            await settle(scene, key)
            await audit(scene)
    assert failed or call.script in PASS_OVER


@pytest.mark.parametrize("key", [f"run:{RUN}", f"run:{RUN}:journal", STREAM])
@pytest.mark.parametrize("script", ["recover_worker", "fire_timers", "requeue_idle", "sweep"])
async def test_what_is_damaged_holds_up_nobody_else(scene: Scene, script: str, key: str) -> None:
    """Given one damaged run or stream and one healthy one, when all are looked after."""
    healthy_stream = STREAM.replace("1.0.0", "2.0.0")
    await scene.register(STREAM, healthy_stream, name=WORKER)
    damaged = await scene.running(WORKER, run_id=RUN)
    healthy_id = await scene.start_run(version="2.0.0")
    healthy = (await scene.claim(await scene.deliver_one(WORKER, healthy_stream), WORKER)).ownership
    if script == "fire_timers":
        for owner in (damaged, healthy):
            await scene.attempt(owner, "step#0")
            await scene.park(owner, "step#0")
        await scene.fall_due()
    elif script in ("requeue_idle", "sweep"):
        for owner in (damaged, healthy):
            await scene.store.runs.release(owner.run_id, owner.epoch, WORKER)
        if script == "sweep":
            await scene.command("DEL", scene.base + healthy_stream)
            await scene.command(
                "XGROUP", "CREATE", scene.base + healthy_stream, "workers", "0", "MKSTREAM"
            )
        else:
            await scene.deliver(WORKER)
            await scene.deliver(WORKER, healthy_stream)
    await damage(scene, key)

    arguments = {
        "recover_worker": [WORKER, "0", "it died", "1", "", "2", "5", "100"],
        "fire_timers": ["100"],
        "requeue_idle": ["0", "100"],
    }
    for _ in range(2):
        if script == "sweep":  # of a server that all tests of this process share
            await scene.walk()
        else:
            await scene.script(script, *arguments[script])

    assert await scene.status(healthy_id) is Status.QUEUED
    assert await scene.entries(healthy_stream) == [healthy_id]
    # The damaged one is looked after as soon as it is whole again.
    await repair(scene, key)
    await scene.fall_due()
    await scene.store.timers.fire()
    await settle(scene, key)
    await audit(scene)


async def test_a_damaged_run_does_not_make_the_timers_be_looked_at_without_pause(
    scene: Scene,
) -> None:
    owner = await scene.parked()
    await scene.fall_due()
    await damage(scene, f"run:{owner.run_id}")
    count, left = await scene.store.timers.fire()
    assert count == 0
    assert left is not None
    assert left > 5


@pytest.mark.parametrize("field", ["epoch", "workflow", "version", "pool", "since"])
async def test_a_record_without_one_of_its_fields_holds_up_nobody_else(
    scene: Scene, field: str
) -> None:
    victim = await scene.register()
    damaged, healthy = await scene.running(victim), await scene.running(victim)
    await scene.command("HDEL", f"{scene.base}run:{damaged.run_id}", field)
    assert healthy.run_id in await scene.kill(victim)
    await scene.walk()
    await scene.store.timers.remove_finished(0, ["orders"])
    assert await scene.status(healthy.run_id) is Status.QUEUED


async def test_entries_that_are_not_ours_are_not_given_to_a_worker(scene: Scene) -> None:
    worker = await scene.register()
    await scene.command("XADD", scene.base + STREAM, "*", "a stranger's", "entry")
    run_id = await scene.start_run()
    reader = scene.store.workers.ready_reader(scene.store.address, worker)
    assert [entry.run_id for entry in await reader.read([STREAM], 10)] == [run_id]
    assert [entry.run_id for entry in await reader.read_delivered([STREAM])] == [run_id]
    await reader.close()
    await scene.script("requeue_idle", 0, 100)
    assert await scene.entries() == [run_id], "what is of no run is dropped"
    await audit(scene)


async def test_a_damaged_journal_entry_is_told_as_what_it_is(scene: Scene) -> None:
    worker = await scene.register()
    owner = await scene.running(worker)
    journal = f"{scene.base}run:{owner.run_id}:journal"
    await scene.command("HSET", journal, "step#0", "garbage", "step#1", b"\xff\xff")
    with pytest.raises(DataError, match="damaged"):
        await scene.store.runs.journal(owner.run_id, timeout=TIMEOUT)
    # Nobody knows who wrote it: it is not written over.
    for key in ("step#0", "step#1"):
        assert await scene.commit(owner, key) == b"DIVERGED"
        assert await scene.attempt(owner, key) == b"DIVERGED"
        assert await scene.abandon(owner, key) == b"DIVERGED"
        assert await scene.park(owner, key) == b"STAY"
    # Whoever claims the run is told, and can hold it: it ends no worker.
    await scene.kill(worker)
    heir = await scene.register()
    claimed = await scene.try_claim(await scene.deliver_one(heir), heir)
    assert isinstance(claimed, DamagedRun)
    assert "damaged" in claimed.reason
    assert await scene.store.runs.stall(claimed.ownership, claimed.reason) == b"OK"
    await audit_indexes(scene)
    found = {finding.problem for finding in (await scene.store.audit.audit()).found}
    assert found == {f"has a journal entry that cannot be read: step#{n}" for n in (0, 1)}


def test_the_scripts_send_no_command_that_was_not_tried_before() -> None:
    """Given a user who may not run one of them, a script would stop at it half-way."""
    sent = re.compile(r"redis\.p?call\('(\w+)'(?:, '(CREATE|CREATECONSUMER|DELCONSUMER)')?")
    tried = re.compile(r"^  \{ '(\w+)'(?:, '(CREATE|CREATECONSUMER|DELCONSUMER)')?", re.MULTILINE)
    used = {
        match for script in SCRIPTS.values() for match in sent.findall(script.source) if match[0]
    }
    assert used == set(tried.findall(SCRIPTS["try_commands"].source))
