"""Parents and children in the store: who is told of what, once, and what the sweep makes up for."""

from __future__ import annotations

import asyncio

import pytest

from aiki.operation import Operation, Operations, State
from aiki.records import EntryKind, Ownership
from aiki.states import Status
from aiki.store.children import NewChild
from tests.support.audit import audit, audit_indexes
from tests.support.store import POOL, STREAM, VERSION, WORKFLOW, Scene, entry_of

REST = b"1 0 0 a label\n"
PARENT, CHILD = "0-parent", "0-child"


async def with_child(scene: Scene, policy: str = "cancel") -> tuple[Ownership, Ownership]:
    """Give the owners of a parent and of its child."""
    parent = await scene.running(await scene.register(name="w"), run_id=PARENT)
    entry = entry_of(parent, EntryKind.RESULT, b'"0-child"')
    new = NewChild(WORKFLOW, VERSION, POOL, "", policy)
    reply = await scene.store.children.start_child(parent, "child/x#0", entry, CHILD, new, b"{}")
    assert reply == 0
    return parent, (await scene.take("w")).ownership


async def with_map(
    scene: Scene, count: int, wake_at: int, *, strict: bool = False
) -> tuple[Ownership, list[Ownership]]:
    """Give the owners of a parent and of the children of its map."""
    parent = await scene.running(await scene.register(name="w"), run_id=PARENT)
    await start_some(scene, parent, range(count), wake_at, strict=strict)
    claimed = [await scene.claim(entry, "w") for entry in await scene.deliver("w")]
    return parent, [each.ownership for each in claimed]


async def start_some(
    scene: Scene, parent: Ownership, numbers: range, wake_at: int, *, strict: bool = False
) -> int | bytes:
    new = NewChild(WORKFLOW, VERSION, POOL, "", "cancel")
    some = [(number, f"0-m{number}", b"{}") for number in numbers]
    return await scene.store.children.start_children(
        parent, "map/x#0", REST, new, some, strict=strict, wake_at=wake_at
    )


async def park(scene: Scene, parent: Ownership, wait: str, *, seen: int = 0) -> bytes:
    return await scene.store.runs.park(parent, Status.AWAITING_CHILD, seen, [wait], [])


async def mailbox(scene: Scene, run_id: str = PARENT) -> list[bytes]:
    flat: list[bytes] = await scene.command("HGETALL", f"{scene.base}run:{run_id}:mailbox")
    return flat[1::2]


async def test_the_end_of_a_child_wakes_its_parent_and_is_held_until_it_is_taken(
    scene: Scene,
) -> None:
    parent, child = await with_child(scene)
    assert await park(scene, parent, f"end/{CHILD}#0") == b"PARKED"
    await audit(scene)
    await scene.finish(child)
    assert await scene.status(PARENT) is Status.QUEUED
    assert await mailbox(scene) == [b"end/0-child\ncompleted"]
    await audit(scene)
    owner = (await scene.take("w")).ownership
    assert await scene.script("remove_run", "0", "100", WORKFLOW) == 1
    assert await scene.status(CHILD) is Status.COMPLETED, "held: looked at, and put off"
    end = await scene.store.children.consume_end(
        owner, f"end/{CHILD}#0", 1, REST, CHILD, number=1, room=1000
    )
    assert end == [2, b"completed", b"the outcome"]
    assert await mailbox(scene) == []
    assert (await scene.record(PARENT))["ends"] == "0"
    await audit(scene)


async def test_an_end_is_not_told_to_a_parent_that_is_over(scene: Scene) -> None:
    parent, child = await with_child(scene, "abandon")
    await scene.finish(parent)
    await scene.store.children.cascade()
    await scene.finish(child)
    assert await mailbox(scene) == []
    assert "held" not in await scene.record(CHILD)
    assert await scene.script("remove_run", "0", "100", WORKFLOW) == 2
    assert {key for key in await scene.keys() if key.startswith("run:")} == set()


async def test_the_parent_of_a_map_is_woken_when_as_many_have_ended_as_it_said(
    scene: Scene,
) -> None:
    parent, children = await with_map(scene, 5, wake_at=3)
    assert await park(scene, parent, "map/x#0") == b"PARKED"
    for number, child in enumerate(children):
        assert (await scene.status(PARENT) is Status.QUEUED) == (number >= 3)
        await scene.finish(child)
        await audit(scene)
    assert (await scene.record(PARENT))["news"] == "1"
    owner = (await scene.take("w")).ownership
    state = await scene.store.children.read_map(PARENT, "map/x#0")
    assert (state.started, state.ended, state.first_failed) == (5, 5, None)
    assert await start_some(scene, owner, range(0), 5) == 4, "all have ended before it said so"
    assert await start_some(scene, owner, range(0), 5) == 4, "and it is told that once"


async def test_a_late_copy_of_what_a_parent_wanted_before_says_nothing(scene: Scene) -> None:
    parent, children = await with_map(scene, 4, wake_at=1)
    await scene.finish(children[0])
    await start_some(scene, parent, range(0), 4)
    before = await scene.dump()
    await start_some(scene, parent, range(4), 1)
    assert await scene.dump() == before


async def test_only_the_first_failure_of_a_strict_map_wakes_its_parent(scene: Scene) -> None:
    parent, children = await with_map(scene, 4, wake_at=4, strict=True)
    for child, status in zip(
        children, (Status.COMPLETED, Status.CANCELLED, Status.FAILED), strict=False
    ):
        await scene.finish(child, status)
    assert (await scene.record(PARENT))["news"] == "1"
    state = await scene.store.children.read_map(PARENT, "map/x#0")
    assert (state.ended, state.first_failed) == (3, 1)
    assert await scene.store.children.still_mapped(PARENT, "map/x#0") == [3]
    assert parent.run_id == PARENT


async def test_children_of_a_map_are_started_once_whoever_sends_it_again(scene: Scene) -> None:
    parent, _ = await with_map(scene, 3, wake_at=3)
    await start_some(scene, parent, range(3), 3)
    await scene.kill("w")
    await audit(scene)
    heir = await scene.register()
    ids = [entry.run_id for entry in await scene.deliver(heir)]
    assert sorted(ids) == ["0-m0", "0-m1", "0-m2", PARENT]


@pytest.mark.parametrize("policy", ["cancel", "abandon", "wait"])
async def test_a_cascade_does_to_each_child_what_was_said(scene: Scene, policy: str) -> None:
    parent, _ = await with_child(scene, policy)
    await scene.finish(parent)
    await audit(scene)
    assert await scene.store.children.cascade() == 0
    assert ("cancel" in await scene.record(CHILD)) == (policy == "cancel")
    assert await scene.keys() & {"cascades", f"run:{PARENT}:children"} == set()
    await audit(scene)


async def test_a_cascade_over_many_children_ends_however_few_it_takes_at_once(
    scene: Scene,
) -> None:
    parent, _ = await with_map(scene, 3, wake_at=3)
    for first in range(3, 900, 30):
        await start_some(scene, parent, range(first, first + 30), 903)
    await scene.finish(parent)
    looks = 0
    while await scene.script("cascade", "100"):
        looks += 1
    assert looks >= 8
    cancelled = await scene.command("ZCARD", f"{scene.base}index:cancelled/{WORKFLOW}")
    assert cancelled == 900, "three have an owner, who is told"


async def test_a_parent_without_children_left_is_no_work_for_the_cascade(scene: Scene) -> None:
    parent, child = await with_child(scene)
    await scene.finish(child)
    await scene.finish(parent)
    assert "cascades" not in await scene.keys()
    assert await scene.store.children.cascade() == 0


# What the sweep makes up for


@pytest.mark.parametrize("kind", ["child", "map"])
async def test_the_sweep_tells_a_parent_that_could_not_be_told(scene: Scene, kind: str) -> None:
    if kind == "child":
        parent, child = await with_child(scene)
        assert await park(scene, parent, f"end/{CHILD}#0") == b"PARKED"
    else:
        parent, (child,) = await with_map(scene, 1, wake_at=1)
        assert await park(scene, parent, "map/x#0") == b"PARKED"
    # Its stream is damaged, so it cannot be queued.
    await scene.command("RENAME", scene.base + STREAM, f"aside:{scene.base}")
    await scene.command("SET", scene.base + STREAM, "garbage")
    assert await scene.finish(child) == b"OK"
    assert await scene.status(PARENT) is Status.AWAITING_CHILD
    await scene.command("RENAME", f"aside:{scene.base}", scene.base + STREAM)
    words = dict(await scene.walk())
    assert words in (
        {child.run_id: "had not told its parent that it is over"},
        {PARENT: f"was not told of the end of its child {CHILD}"},
    )
    assert await scene.status(PARENT) is Status.QUEUED
    await audit_indexes(scene)
    assert (await scene.record(child.run_id))["held"] == "1"
    assert len(await mailbox(scene)) == (kind == "child")


async def test_the_sweep_tells_a_parent_whose_child_was_removed_by_hand(scene: Scene) -> None:
    parent, child = await with_child(scene)
    await park(scene, parent, f"end/{CHILD}#0")
    await scene.command("DEL", f"{scene.base}run:{CHILD}", f"{scene.base}worker:w:runs")
    await scene.command("ZREM", f"{scene.base}index:active/{WORKFLOW}", CHILD)
    assert (PARENT, f"was not told of the end of its child {CHILD}") in await scene.walk()
    owner = (await scene.take("w")).ownership
    answer = await scene.store.children.consume_end(
        owner, f"end/{CHILD}#0", 1, REST, CHILD, number=1, room=1000
    )
    assert answer == [b"GONE"]
    assert child.run_id == CHILD


async def test_the_sweep_finds_children_that_nobody_would_look_after(scene: Scene) -> None:
    parent, _ = await with_child(scene)
    await scene.command("SET", scene.base + "cascades", "garbage")
    await scene.finish(parent)
    await scene.walk()
    words = dict(await scene.walk())
    assert words.get(PARENT, "had children that nobody would look after")
    assert await scene.store.children.cascade() == 0
    assert "cancel" in await scene.record(CHILD)
    await audit(scene)


# What a park must not overlook


async def test_a_wait_for_which_something_has_come_is_over_before_its_task_hears_of_it() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    operations, operation = Operations(), Operation("end/x#0", None, task)
    operations.add(operation)
    operation.state, operation.until = State.WAITING, float("inf")
    operation.coming = loop.create_future()
    assert operations.all_wait_beyond(loop.time() + 1)
    operation.coming.set_result(None)
    assert not operations.all_wait_beyond(loop.time() + 1)
