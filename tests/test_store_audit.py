"""The audit: it names what is wrong and writes nothing, or mends what the sweep would."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from aiki.states import Status
from aiki.store.audit import Finding
from tests.support.audit import audit
from tests.support.store import STREAM, WORKFLOW, Scene
from tests.test_sweep import DAMAGES

Damage = Callable[[Scene], Awaitable[str]]


async def found(scene: Scene) -> set[tuple[str, str]]:
    return {(each.what, each.problem) for each in (await scene.store.audit.audit()).found}


@pytest.mark.parametrize("words", DAMAGES)
async def test_it_finds_what_the_sweep_would_mend_and_mends_it_if_told(
    scene: Scene, words: str
) -> None:
    what = await DAMAGES[words](scene)
    before = await scene.dump()
    first = await scene.store.audit.audit()
    assert Finding(what, words, can_be_mended=True, is_mended=False) in first.found
    assert await scene.dump() == before, "who only looks writes nothing"

    second = await scene.store.audit.audit(mend=True)
    assert Finding(what, words, can_be_mended=True, is_mended=True) in second.found
    assert second.left == []
    await audit(scene)


async def unknown_key(scene: Scene) -> str:
    await scene.command("SET", scene.base + "something:else", "1")
    return "something:else: is no key of aiki's"


async def journal_of_nothing(scene: Scene) -> str:
    await scene.command("HSET", scene.base + "run:0-gone:journal", "a#0", "r 1:x 1 0 1 1 1 w\n{}")
    return "run:0-gone:journal: is of a run that does not exist"


async def key_of_another_run(scene: Scene) -> str:
    run_id = await scene.start_run()
    await scene.command("HSET", scene.base + f"idem:{WORKFLOW}:k", "run", run_id, "hash", "h")
    return f"idem:{WORKFLOW}:k: names the run {run_id}, which has another key or none"


async def damaged_record(scene: Scene) -> str:
    run_id = await scene.start_run()
    await scene.command("RENAME", f"{scene.base}run:{run_id}", scene.base + "run:aside")
    await scene.command("SET", f"{scene.base}run:{run_id}", "garbage")
    return (
        f"run:{run_id}: cannot be checked: WRONGTYPE Operation against a key holding the wrong "
        "kind of value"
    )


async def record_without_a_field(scene: Scene) -> str:
    run_id = await scene.start_run()
    await scene.command("HDEL", f"{scene.base}run:{run_id}", "pool")
    return f"{run_id}: has no pool"


async def status_that_is_none(scene: Scene) -> str:
    run_id = await scene.start_run()
    await scene.command("HSET", f"{scene.base}run:{run_id}", "status", "resting")
    return f"{run_id}: has a status that is none: resting"


async def owner_without_a_token(scene: Scene) -> str:
    owner = await scene.running()
    await scene.command("HSET", f"{scene.base}run:{owner.run_id}", "token", "")
    return f"{owner.run_id}: is running and has no token"


async def end_without_an_outcome(scene: Scene) -> str:
    owner = await scene.running()
    await scene.finish(owner)
    await scene.command("HDEL", f"{scene.base}run:{owner.run_id}", "result")
    return f"{owner.run_id}: is over and has not one outcome"


async def lost_chunks(scene: Scene) -> str:
    owner = await scene.running()
    await scene.command("HSET", f"{scene.base}run:{owner.run_id}", "streams", "2 2 9 out\n")
    return f"{owner.run_id}: has not as many chunks in its stream out as it noted"


async def garbage_in_a_journal(scene: Scene) -> str:
    owner = await scene.running()
    await scene.commit(owner, "a#0")
    await scene.command("HSET", f"{scene.base}run:{owner.run_id}:journal", "b#0", "garbage")
    return f"{owner.run_id}: has a journal entry that cannot be read: b#0"


async def second_offer(scene: Scene) -> str:
    run_id = await scene.start_run()
    await scene.command("XADD", scene.base + STREAM, "*", "run", run_id, "epoch", "0")
    return f"{run_id}: is offered twice, by {STREAM}"


async def second_owner(scene: Scene) -> str:
    owner, other = await scene.running(), await scene.register()
    await scene.command("SADD", f"{scene.base}worker:{other}:runs", owner.run_id)
    return f"{owner.run_id}: is among the runs of worker {other}, which does not own it"


async def silent_worker(scene: Scene) -> str:
    await scene.command("ZADD", scene.base + "workers", 9_999_999_999_999, "silent")
    return "worker silent: has a lease and has said nothing of itself"


OTHERS: list[Damage] = [
    unknown_key, journal_of_nothing, key_of_another_run, damaged_record, record_without_a_field,
    status_that_is_none, owner_without_a_token, end_without_an_outcome, lost_chunks,
    garbage_in_a_journal, second_offer, second_owner, silent_worker,
]  # fmt: skip


@pytest.mark.parametrize("damage", OTHERS)
async def test_it_names_what_nobody_can_mend_and_leaves_it(scene: Scene, damage: Damage) -> None:
    expected = await damage(scene)
    before = await scene.dump()
    findings = await scene.store.audit.audit()
    assert expected in [f"{each.what}: {each.problem}" for each in findings.found]
    assert await scene.dump() == before
    left = (await scene.store.audit.audit(mend=True)).left
    assert expected in [f"{each.what}: {each.problem}" for each in left]


async def test_it_looks_at_everything_also_where_there_is_much(scene: Scene) -> None:
    worker = await scene.register()
    for _ in range(10):
        await scene.finish(await scene.running(worker), Status.COMPLETED)
    for _ in range(700):
        await scene.start_run()
    lost = await DAMAGES["was queued without a ready entry"](scene)
    for number in range(500):
        key = f"{scene.base}index:failed/{WORKFLOW}"
        await scene.command("ZADD", key, number, f"0-stray{number}")
    findings = await scene.store.audit.audit()
    assert findings.runs >= 711
    assert findings.keys > findings.runs
    expected = {(f"0-stray{number}", "was listed as failed and is not") for number in range(500)}
    assert await found(scene) == expected | {(lost, "was queued without a ready entry")}
    assert (await scene.store.audit.audit(mend=True)).left == []
    await audit(scene)
