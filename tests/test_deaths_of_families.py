"""Parents and children whose owners die at any of their writes, or do not hear of the last one."""

import asyncio
from typing import Any

import pytest

from aiki import Run, RunCancelled, RunFailed, Status, task, workflow
from tests.support.app import App
from tests.support.deaths import MortalRuns, let_die
from tests.support.waiting import eventually

DEADLINE = 60.0

family = workflow("family")


@task
async def add_one(number: int) -> int:
    return number + 1


@family.v("0.1.0")
async def child(run: Run, number: int) -> int:
    return await add_one.start(run, number)


@family.v("0.2.0")
async def bad_child(run: Run, number: int) -> int:
    raise ValueError(await add_one.start(run, number))


@family.v("1.0.0")
async def starts_and_waits(run: Run) -> list[Any]:
    first = await child.start_as_child(run, 1)
    started = await asyncio.gather(*(child.start_as_child(run, number) for number in (1, 5)))
    bad = await bad_child.start_as_child(run, 1)
    seen: list[Any] = await asyncio.gather(
        *(each.wait_for_completion() for each in (first, *started, first))
    )
    try:
        await bad.wait_for_completion()
    except RunFailed as error:
        seen.append(error.failure.message)
    slow = await child.with_options(delay=3600).start_as_child(run, 7)
    try:
        await slow.wait_for_completion(0.02)
    except TimeoutError:
        seen.append("late")
    await slow.cancel("enough")
    try:
        await slow.wait_for_completion()
    except RunCancelled as error:
        seen.append(error.reason)
    return seen


@family.v("2.0.0")
async def maps(run: Run) -> list[Any]:
    seen: list[Any] = [await run.map(child, range(5), max_parallel=2)]
    found = await asyncio.gather(run.map(child, [1, 1]), child.start_as_child(run, 9))
    seen += [found[0], await found[1].wait_for_completion()]
    try:
        await run.map(bad_child, [3, 3], max_parallel=1)
    except RunFailed as error:
        seen.append(error.failure.message)
    return seen


@family.v("3.0.0")
async def keeps_one_by_its_key(run: Run) -> list[Any]:
    keyed = child.with_options(idempotency_key="one", on_parent_close="wait")
    first, second = [await keyed.start_as_child(run, 1) for _ in range(2)]
    assert first.id == second.id
    return [await add_one.start(run, 0)]


STORIES = {
    "starts and waits": (starts_and_waits, [2, 2, 6, 2, "2", "late", "enough"], 5, 15),
    "maps": (maps, [[1, 2, 3, 4, 5], [2, 2], 10, "4"], None, 10),
    "keeps one by its key": (keeps_one_by_its_key, [1], 1, 3),
}


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("name", STORIES)
async def test_a_parent_may_die_at_each_of_its_writes(
    app: App, name: str, *, unheard: bool
) -> None:
    """Given a run for each number of writes after which its owner dies."""
    version, expected, children, deaths = STORIES[name]
    mortal = await app.connect()
    runs = let_die(mortal, unheard=unheard)
    handles = [await version.start(app.client) for _ in range(24)]
    for number, handle in enumerate(handles):
        runs.left[handle.id] = number + unheard
    victim = await app.serve(family, client=mortal)
    await eventually(
        lambda: all(handle.id in runs.dead | runs.over for handle in handles),
        DEADLINE,
        "the death of each owner, or the end of its run",
    )
    await app.end(victim)
    runs.forget()
    await app.serve(family)
    results = await asyncio.gather(*(handle.wait_for_completion(DEADLINE) for handle in handles))
    assert results == [expected] * len(handles)
    assert len(runs.dead) >= deaths, "the owners have died"
    counts = (await app.client.count_runs())[family.name]
    if children is not None:
        assert sum(counts.values()) == len(handles) * (1 + children), "each is started once"
    assert set(counts) <= {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("left", [0, 1])
async def test_a_child_may_die_at_its_end_and_its_parent_hears_of_it_once(
    app: App, left: int, *, unheard: bool
) -> None:
    parents, children = workflow("parents"), workflow("children")

    @children.v("1.0.0")
    async def of_parents(run: Run, number: int) -> int:
        return await add_one.start(run, number)

    @parents.v("1.0.0")
    async def parent(run: Run) -> list[Any]:
        started = await of_parents.start_as_child(run, 1)
        mapped = await run.map(of_parents, [1, 2, 3])
        return [await started.wait_for_completion(), *mapped]

    class FirstOwners(MortalRuns):
        async def write(self, owner: Any, send: Any) -> Any:
            self.left.setdefault(owner.run_id, left + unheard)
            return await super().write(owner, send)

    mortal = await app.connect()
    runs = let_die(mortal, unheard=unheard, kind=FirstOwners)
    await app.serve(parents)
    victim = await app.serve(children, client=mortal)
    handle = await parent.start(app.client)
    await eventually(lambda: len(runs.dead | runs.over) == 4, DEADLINE, "four deaths")
    await app.end(victim)
    runs.forget()
    await app.serve(children)
    assert await handle.wait_for_completion(DEADLINE) == [2, 2, 3, 4]
    assert len(runs.dead) == 4
