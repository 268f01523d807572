"""What a handler is told at once: the time, UUIDs, random numbers, and whether it is patched."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from aiki import DefinitionError, Run, Status, event, task, workflow
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.waiting import eventually

never = event("never", str)


@task
async def work(label: str) -> str:
    return label


async def test_they_are_the_same_in_each_life_of_a_run(app: App) -> None:
    lives: list[list[object]] = []
    wf = workflow("told")

    @wf.v("1.0.0")
    async def told(run: Run) -> int:
        lives.append(seen := [])
        for number in range(4):
            seen += [run.now(), run.uuid(), run.random(), run.patched(f"p{number}")]
            await work.start(run, f"{seen[-4:]}")
        return len(seen)

    handles = [await told.start(app.client) for _ in range(12)]
    writes = {handle.id: number // 2 for number, handle in enumerate(handles)}
    await one_life(app, [wf], handles[::2], writes, unheard=False)
    await one_life(app, [wf], handles[1::2], writes, unheard=True)
    await app.serve(wf)
    for handle in handles:
        assert await handle.wait_for_completion(60) == 16
        # Had one been another one in a later life, its step would have another address
        steps = [each for each in await handle.journal() if each.task == "work"]
        assert len(steps) == 4
        told_in = [
            life for life in lives if life[1] == UUID(steps[0].result.split("UUID('")[1][:36])
        ]
        longest = max(told_in, key=len)
        assert len(longest) == 16
        for life in told_in:
            first = [each for each, _ in zip(longest, life, strict=False)]
            # Only what was told last may have gone unrecorded with its owner
            assert life[:-4] == first[:-4]


async def test_what_they_are(app: App) -> None:
    wf = workflow("what")

    @wf.v("1.0.0")
    async def what(run: Run) -> list[Any]:
        times = [run.now() for _ in range(3)]
        assert times == sorted(times)
        assert all(each.tzinfo is UTC for each in times)
        uuids = [run.uuid() for _ in range(100)]
        assert {each.version for each in uuids} == {4}
        numbers = [run.random() for _ in range(1000)]
        assert all(0 <= each < 1 for each in numbers)
        assert 0.4 < sum(numbers) / 1000 < 0.6
        assert len(set(uuids)) == 100
        assert len(set(numbers)) == 1000
        return [times[0].isoformat(), str(uuids[0])]

    await app.serve(wf)
    begun = datetime.now(UTC)
    first, second = [await app.result(what.bind()) for _ in range(2)]
    assert abs(datetime.fromisoformat(first[0]) - begun) < timedelta(seconds=30)
    assert first[1] != second[1], "no two runs are told the same"


async def test_a_time_is_recorded_before_anything_starts_that_comes_after_it(app: App) -> None:
    gate = asyncio.Event()
    wf = workflow("noted")

    @task
    async def hangs() -> None:
        app.ledger.note("begun")
        await gate.wait()

    @wf.v("1.0.0")
    async def noted(run: Run) -> list[datetime]:
        times = [run.now(), run.now()]
        await hangs.start(run)
        return times

    worker = await app.serve(wf)
    handle = await noted.start(app.client)
    await eventually(app.ledger.lines)
    assert await outcomes(handle) == [("now", "noted"), ("now", "noted")]
    recorded = [step.recorded for step in await handle.journal()]
    await app.end(worker)
    gate.set()
    await app.serve(wf)
    times = await handle.wait_for_completion(60)
    assert all(told <= at for told, at in zip(times, recorded, strict=True))


@pytest.mark.parametrize("what", ["sleep", "event"])
async def test_a_time_is_recorded_before_a_wait_that_it_may_decide(app: App, what: str) -> None:
    from_now = workflow("from-now")

    @from_now.v("1.0.0")
    async def handler(run: Run) -> float:
        begun = run.now()
        if what == "sleep":
            await run.sleep("a", 0.3)
        else:
            await never.wait(run, timeout=0.3)
        return (run.now() - begun).total_seconds()

    await app.serve(from_now, inline_wait=0.05)
    assert await app.result(handler.bind()) >= 0.3


def patched(run: Run) -> bool:
    return run.patched("x")


@pytest.mark.parametrize("call", [Run.now, Run.uuid, Run.random, patched])
@pytest.mark.plain_only("nothing is recorded")
async def test_they_are_refused_outside_of_the_handler(
    app: App, call: Callable[[Run], object]
) -> None:
    runs: list[Run] = []

    @task
    async def asks() -> str:
        try:
            call(runs[-1])
        except DefinitionError as refused:
            return str(refused)
        return "told"

    async def handler(run: Run) -> str:
        runs.append(run)
        return await asks.start(run)

    version = workflow("asks").v("1.0.0", exec=handler)
    await app.serve(version)
    assert "inside a task" in await app.result(version.bind())
    with pytest.raises(DefinitionError, match="outside that run's handler"):
        call(runs[-1])


# Patches: code that was changed while runs are under way


class Site:
    """A run that is executed by old code, up to some point, and then by new code."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.gate = asyncio.Event()
        gate = self.gate

        @task
        async def hangs(label: str) -> str:
            app.ledger.note(f"hangs {label}")
            await gate.wait()
            return label

        self.hangs = hangs

    async def change(self, old: Any, new: Any, until: Callable[[Handle[Any]], Any]) -> Any:
        """Execute a run by the old code until something, then to its end by the new."""
        before = workflow("patched").v("1.0.0", exec=old)
        after = workflow("patched").v("1.0.0", exec=new)
        worker = await self.app.serve(before, inline_wait=0.05)
        handle = await before.start(self.app.client)
        await eventually(lambda: until(handle), what="the old code's part")
        await self.app.end(worker)
        self.gate.set()
        await self.app.serve(after, inline_wait=0.05)
        return await handle.wait_for_completion(60)


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_a_new_run_takes_the_new_way_and_always_will(app: App) -> None:
    told: list[bool] = []

    async def handler(run: Run) -> list[bool]:
        told.append(run.patched("faster"))
        await work.start(run, "a")
        return [told[-1], run.patched("faster"), run.patched("faster too")]

    version = workflow("new").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == [True, True, True]
    assert set(told) == {True}
    assert ("patch/faster", "noted") in await outcomes(handle)


async def test_a_run_that_has_passed_takes_the_old_way(site: Site) -> None:
    async def old(run: Run) -> str:
        await work.start(run, "before")
        return await work.start(run, "old") + await site.hangs.start(run, "end")

    async def new(run: Run) -> str:
        await work.start(run, "before")
        way = "new" if run.patched("way") else "old"
        return await work.start(run, way) + await site.hangs.start(run, "end")

    assert await site.change(old, new, lambda _: site.app.ledger.lines()) == "oldend"


async def test_a_run_that_has_not_come_so_far_takes_the_new_way(site: Site) -> None:
    async def old(run: Run) -> str:
        await site.hangs.start(run, "before")
        return await work.start(run, "old")

    async def new(run: Run) -> str:
        await site.hangs.start(run, "before")
        return await work.start(run, "new" if run.patched("way") else "old")

    assert await site.change(old, new, lambda _: site.app.ledger.lines()) == "new"


@pytest.mark.parametrize("clock", [False, True], ids=["alone", "behind a new note"])
async def test_a_run_that_sleeps_behind_the_place_takes_the_old_way(
    site: Site, *, clock: bool
) -> None:
    """What a run waits for is recorded too, and the new code may well ask for the time before."""

    async def old(run: Run) -> str:
        await work.start(run, "before")
        await run.sleep("old", 1.0)
        return "old"

    async def new(run: Run) -> str:
        await work.start(run, "before")
        if clock:
            run.now()
        if run.patched("way"):
            return "new"
        await run.sleep("old", 1.0)
        return "old"

    assert await site.change(old, new, is_asleep) == "old"


async def is_asleep(handle: Handle[Any]) -> bool:
    return (await handle.status()).status is Status.SLEEPING


async def test_a_loop_is_patched_as_a_whole_or_not_at_all(site: Site) -> None:
    async def old(run: Run) -> list[str]:
        return [
            await site.hangs.start(run, f"old {n}") if n == 2 else await work.start(run, f"old {n}")
            for n in range(4)
        ]

    async def new(run: Run) -> list[str]:
        found: list[str] = []
        for number in range(4):
            way = "new" if run.patched("loop") else "old"
            which = site.hangs if number == 2 else work
            found.append(await which.start(run, f"{way} {number}"))
        return found

    found = await site.change(old, new, lambda _: site.app.ledger.lines())
    assert found == [f"old {number}" for number in range(4)]


async def test_a_run_that_waits_for_an_event_may_get_a_time_out_and_lose_it(app: App) -> None:
    timeout: list[float | None] = [None]

    async def handler(run: Run) -> str:
        limit = timeout[0]
        found = await (never.wait(run) if limit is None else never.wait(run, timeout=limit))
        return repr(found)

    version = workflow("timed").v("1.0.0", exec=handler)
    worker = await app.serve(version, inline_wait=0.05)
    handle = await version.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)

    async def has_limit() -> bool:
        status = await handle.status()
        has_timer = ", or " in status.reason
        return status.status is Status.AWAITING_EVENT and has_timer is (timeout[0] is not None)

    for limit in (3600.0, None):
        timeout[0] = limit
        await app.end(worker)
        worker = await app.serve(version, inline_wait=0.05)
        await handle.wake_up()
        await eventually(has_limit, what=f"a limit of {limit}")
    timeout[0] = 0.1
    await handle.wake_up()
    assert await handle.wait_for_completion(60) == "aiki.TIMEOUT"


@pytest.mark.parametrize("name", ["", "a:b", "a/b", 5])
@pytest.mark.plain_only("nothing is recorded")
async def test_the_name_of_a_patch_is_a_name(app: App, name: Any) -> None:
    async def handler(run: Run) -> str:
        with pytest.raises(DefinitionError, match="patch: "):
            run.patched(name)
        return "refused"

    version = workflow("names").v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "refused"
