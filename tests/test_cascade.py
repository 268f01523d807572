"""What becomes of the children of a run that is over, however it has ended."""

import asyncio
from typing import Any, Literal

import pytest

import aiki
from aiki import Handle, Run, RunCancelled, RunFailed, Status, task, workflow
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

Policy = Literal["cancel", "abandon", "wait"]

DEADLINE = 60.0

go_on = aiki.event("go-on")
leaves = workflow("leaves")


@leaves.v("1.0.0")
async def waits(run: Run) -> str:
    await go_on.wait(run)
    return "went on"


@task
async def nothing() -> None:
    return None


@leaves.v("2.0.0")
async def works_first(run: Run) -> str:
    await nothing.start(run)
    await go_on.wait(run)
    return "went on"


async def all_of(app: App, name: str, count: int) -> list[Handle[Any]]:
    """Wait for so many runs of a workflow; of two made in one millisecond, either is first."""

    async def found() -> list[Any]:
        runs = [run async for run in app.client.runs(workflow=name)]
        return runs if len(runs) == count else []

    runs = await eventually(found, what=f"{count} runs of {name}")
    return [app.client.handle(run.id) for run in sorted(runs, key=lambda run: run.created)]


async def ends_with_its_parent(handle: Handle[Any], parent: str) -> None:
    with pytest.raises(RunCancelled) as cancelled:
        await handle.wait_for_completion(DEADLINE)
    assert cancelled.value.reason == f"its parent, run {parent}, is over"


@pytest.mark.parametrize("end", ["completes", "fails", "is cancelled"])
@pytest.mark.parametrize("policy", ["cancel", "abandon", "wait"])
async def test_each_policy_holds_however_the_parent_ends(
    app: App, end: str, policy: Policy
) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        await waits.with_options(on_parent_close=policy).start_as_child(run)
        await go_on.wait(run)
        if end == "fails":
            raise ValueError("no luck")
        return "done"

    await app.serve(parents, leaves)
    handle = await parent.start(app.client)
    (child,) = await all_of(app, leaves.name, 1)
    await becomes(handle, Status.AWAITING_EVENT)
    await becomes(child, Status.AWAITING_EVENT)
    if end == "is cancelled":
        await handle.cancel("enough")
    else:
        await go_on.send(handle, None)
    if policy == "wait":
        await becomes(handle, Status.AWAITING_CHILD)
        await go_on.send(child, None)
    match end:
        case "completes":
            assert await handle.wait_for_completion(DEADLINE) == "done"
        case "fails":
            with pytest.raises(RunFailed, match="no luck"):
                await handle.wait_for_completion(DEADLINE)
        case _:
            with pytest.raises(RunCancelled, match="enough"):
                await handle.wait_for_completion(DEADLINE)
    if policy == "cancel":
        await ends_with_its_parent(child, handle.id)
        return
    if policy == "abandon":
        assert not (await child.status()).status.is_final
        await go_on.send(child, None)
    else:
        assert (await child.status()).status is Status.COMPLETED, "its parent ends after it"
    assert await child.wait_for_completion(DEADLINE) == "went on"


async def test_a_parent_that_waits_at_its_end_ends_with_its_own_outcome(app: App) -> None:
    parents, bad = workflow("parents"), workflow("bad")

    @bad.v("1.0.0")
    async def fails(run: Run) -> None:
        await go_on.wait(run)
        raise ValueError("of the child")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        await fails.with_options(on_parent_close="wait").start_as_child(run)
        child = await waits.with_options(on_parent_close="wait").start_as_child(run)
        try:
            await child.wait_for_completion(0.05)  # in vain, so it is waited for at the end
        except TimeoutError:
            return "done"
        return "too early"

    await app.serve(parents, leaves, bad)
    handle = await parent.start(app.client)
    (first,) = await all_of(app, bad.name, 1)
    (second,) = await all_of(app, leaves.name, 1)

    async def is_late() -> bool:
        return "timed out" in [outcome for _, outcome in await outcomes(handle)]

    await eventually(is_late, what="the wait in vain")
    await becomes(handle, Status.AWAITING_CHILD)
    await go_on.send(first, None)
    with pytest.raises(RunFailed):
        await first.wait_for_completion(DEADLINE)
    await becomes(handle, Status.AWAITING_CHILD)
    await go_on.send(second, None)
    assert await handle.wait_for_completion(DEADLINE) == "done"


async def test_a_cancel_that_comes_while_a_parent_waits_at_its_end_does_not_end_that(
    app: App,
) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> str:
        for _ in range(2):
            await waits.with_options(on_parent_close="wait").start_as_child(run)
        return "done"

    await app.serve(parents, leaves)
    handle = await parent.start(app.client)
    first, second = await all_of(app, leaves.name, 2)
    await becomes(handle, Status.AWAITING_CHILD)
    await handle.cancel("enough")
    await go_on.send(first, None)
    assert await first.wait_for_completion(DEADLINE) == "went on"
    await becomes(handle, Status.AWAITING_CHILD)
    assert not (await second.status()).status.is_final
    await go_on.send(second, None)
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(DEADLINE)


async def test_a_cancel_reaches_every_depth(app: App) -> None:
    family = workflow("family")
    ids: dict[int, str] = {}

    @family.v("1.0.0")
    async def generation(run: Run, left: int) -> None:
        ids[left] = run.id
        if left == 0:
            await go_on.wait(run)
        else:
            child = await generation.start_as_child(run, left - 1)
            await child.wait_for_completion()

    await app.serve(family)
    handle = await generation.start(app.client, 5)
    await eventually(lambda: len(ids) == 6, what="six generations")
    members = [app.client.handle(ids[left]) for left in reversed(range(6))]
    await becomes(members[-1], Status.AWAITING_EVENT)
    await handle.cancel("enough")
    reasons: list[str] = []
    for member in members:
        with pytest.raises(RunCancelled) as cancelled:
            await member.wait_for_completion(DEADLINE)
        reasons.append(cancelled.value.reason)
    assert reasons[0] == "enough"
    assert reasons[1:] == [f"its parent, run {each.id}, is over" for each in members[:-1]]


async def test_a_cascade_stops_at_who_is_abandoned(app: App) -> None:
    family = workflow("family")
    ids: dict[int, str] = {}

    @family.v("1.0.0")
    async def generation(run: Run, left: int) -> str:
        ids[left] = run.id
        if left == 0:
            await go_on.wait(run)
            return "went on"
        policy: Policy = "abandon" if left == 2 else "cancel"
        child = await generation.with_options(on_parent_close=policy).start_as_child(run, left - 1)
        return await child.wait_for_completion()

    await app.serve(family)
    handle = await generation.start(app.client, 3)
    await eventually(lambda: len(ids) == 4, what="four generations")
    second, third, last = (app.client.handle(ids[left]) for left in (2, 1, 0))
    await becomes(last, Status.AWAITING_EVENT)
    await handle.cancel("enough")
    await ends_with_its_parent(second, handle.id)
    await go_on.send(last, None)
    assert await third.wait_for_completion(DEADLINE) == "went on"


async def test_a_parent_that_waits_for_a_child_meets_its_cancel_and_may_clean_up(app: App) -> None:
    parents = workflow("parents")

    @task
    async def clean_up(label: str) -> None:
        app.ledger.note(label)

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        child = await waits.start_as_child(run)
        try:
            await child.wait_for_completion()
        except asyncio.CancelledError:
            await clean_up.start(run, "cleaned")
            await child.cancel("the parent gives up")
            try:
                await child.wait_for_completion()
            except RunCancelled as error:
                await clean_up.start(run, error.reason)
            raise

    await app.serve(parents, leaves)
    handle = await parent.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    await handle.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(DEADLINE)
    assert app.ledger.lines() == ["cleaned", "the parent gives up"]


@pytest.mark.parametrize("how", ["unserved", "stalled"])
async def test_a_parent_that_is_ended_by_the_store_alone_takes_its_children_along(
    app: App, how: str
) -> None:
    parents = workflow("parents")
    divergent: list[bool] = []

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        if not divergent:
            await works_first.start_as_child(run)
        await go_on.wait(run)
        if divergent:
            await asyncio.Event().wait()

    worker = await app.serve(parents)
    await app.serve(leaves)
    handle = await parent.start(app.client)
    (child,) = await all_of(app, leaves.name, 1)
    await becomes(child, Status.AWAITING_EVENT)
    await becomes(handle, Status.AWAITING_EVENT)
    await app.end(worker)
    if how == "stalled":
        divergent.append(True)
        await app.serve(parents, divergence_after=0.5)
        await go_on.send(handle, None)
        await becomes(handle, Status.STALLED)
    assert await handle.cancel("enough") is Status.CANCELLED
    await ends_with_its_parent(child, handle.id)


async def test_a_child_that_nobody_has_claimed_ends_with_its_parent(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        await waits.start_as_child(run)
        await waits.with_options(delay=3600).start_as_child(run)
        await waits.with_options(pool="nowhere").start_as_child(run)

    await app.serve(parents)
    handle = await parent.start(app.client)
    await handle.wait_for_completion(DEADLINE)
    for child in await all_of(app, leaves.name, 3):
        await ends_with_its_parent(child, handle.id)


@pytest.mark.plain_only("what is handed back after each of its starts takes minutes")
async def test_two_thousand_children_are_cancelled_with_their_parent(app: App) -> None:
    """They are many more than one look takes, and than a scan would find again after deletions."""
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[str]:
        nowhere = numbered.with_options(pool="nowhere")
        return await run.map(nowhere, range(2_000), max_parallel=2_000)

    numbers = workflow("numbers")

    @numbers.v("1.0.0")
    async def numbered(run: Run, number: int) -> str:
        return f"{run.id} {number}"

    await app.serve(parents)
    handle = await parent.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    await handle.cancel("enough")

    async def all_are_cancelled() -> bool:
        counts = await app.client.count_runs(workflow=numbers.name)
        return counts[numbers.name] == {Status.CANCELLED: 2_000}

    await eventually(all_are_cancelled, DEADLINE, "the end of all children")
    base, link = app.base_of(handle.id), app.link_of(handle.id)
    assert await link.send(("EXISTS", f"{base}cascades", f"{base}run:{handle.id}:children")) == 0


async def test_parents_that_end_together_are_all_looked_after_at_once(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.housekeeping.CASCADES_EVERY", 3600.0)  # only when it is told
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        for _ in range(2):
            await waits.start_as_child(run)
        await go_on.wait(run)

    await app.serve(parents, leaves)
    handles = [await parent.start(app.client) for _ in range(5)]
    found = await all_of(app, leaves.name, 10)
    for handle in handles:
        await becomes(handle, Status.AWAITING_EVENT)
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(go_on.send(handle, None) for handle in handles))
        ends = await asyncio.gather(
            *(child.wait_for_completion() for child in found), return_exceptions=True
        )
    assert [type(end) for end in ends] == [RunCancelled] * 10


async def test_the_children_of_a_parent_that_is_deleted_at_once_end_too(app: App) -> None:
    parents = workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: Run) -> None:
        for _ in range(3):
            await waits.start_as_child(run)

    worker = await app.serve(parents, leaves, housekeeping=False)
    handle = await parent.start(app.client)
    await handle.wait_for_completion(DEADLINE)
    found = await all_of(app, leaves.name, 3)
    await handle.delete()
    await app.end(worker)
    await app.serve(leaves)
    for child in found:
        await ends_with_its_parent(child, handle.id)
    base, link = app.base_of(handle.id), app.link_of(handle.id)
    gone = (f"{base}cascades", f"{base}run:{handle.id}:children")

    async def is_gone() -> bool:
        return bool(await link.send(("EXISTS", *gone)) == 0)

    await eventually(is_gone, DEADLINE, "the list of children")
