"""Runs that are ended at once, and what becomes of those that they belong to or that are theirs."""

from __future__ import annotations

from aiki.records import EntryKind, Ownership
from aiki.states import Status
from aiki.store.children import NewChild
from tests.support.audit import audit
from tests.support.store import POOL, TIMEOUT, VERSION, WORKFLOW, Scene, entry_of


async def parent_of(scene: Scene, owner: Ownership) -> str:
    """Have a run wait for a child, and name that."""
    new = NewChild(WORKFLOW, VERSION, POOL, "", "cancel")
    entry = entry_of(owner, EntryKind.RESULT, b'"0-child"')
    await scene.store.children.start_child(owner, "child/x#0", entry, "0-child", new, b"{}")
    await scene.store.runs.park(owner, Status.AWAITING_CHILD, 0, ["end/0-child#0"], [])
    return "0-child"


async def test_a_terminated_run_takes_its_family_and_its_timers_along(scene: Scene) -> None:
    """Given a run of a schedule that has a deadline, and waits for a child that has none."""
    worker = await scene.register()
    await scene.schedule(overlap="terminate_other", due_in=-1, more="finish +60000")
    await scene.trigger("0-before")
    child = await parent_of(scene, (await scene.take(worker)).ownership)
    assert await scene.trigger("0-next") == ("STARTED", [])
    assert await scene.status("0-before") is Status.CANCELLED
    assert await scene.members("timers") == ["0-next!finish"]
    await scene.store.children.cascade()
    assert await scene.status(child) is Status.CANCELLED
    await audit(scene)


async def test_the_parent_of_a_terminated_run_is_told(scene: Scene) -> None:
    parent = await scene.running(await scene.register())
    child = await parent_of(scene, parent)
    await scene.store.control.terminate(child, "at once", timeout=TIMEOUT)
    assert await scene.status(parent.run_id) is Status.QUEUED
    await audit(scene)
