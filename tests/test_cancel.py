"""A person's cancel, as the handler of a run meets it."""

import asyncio

import pytest

from aiki import Run, RunCancelled, Status, TaskFailed, current_step, fixed, task, workflow
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.cancels import Site
from tests.support.deaths import let_die
from tests.support.waiting import eventually

both_kinds = pytest.mark.parametrize("kind", ["on the loop", "in a thread"])


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


@both_kinds
async def test_a_handler_meets_it_where_it_waits_and_its_cleanup_is_recorded(
    site: Site, kind: str
) -> None:
    holds = site.hangs if kind == "on the loop" else site.holds_thread

    async def handler(run: Run) -> None:
        await site.work.start(run, "a")
        try:
            await holds.start(run, "b")
        finally:
            await site.work.start(run, "cleanup")
            await site.work.start(run, "more cleanup")

    handle = await site.begin(handler, "b")
    assert await handle.cancel("enough") is Status.RUNNING
    recorded = await site.ends(handle)
    site.let_go.set()
    assert [outcome for _, outcome in recorded] == ["completed", "abandoned", *["completed"] * 2]
    done = site.app.ledger.lines()
    assert (done[0], done[-2:]) == ("a", ["cleanup", "more cleanup"])


async def test_no_step_starts_after_it_was_seen_but_those_that_clean_up(site: Site) -> None:
    at_the_gate, gate = asyncio.Event(), asyncio.Event()

    async def handler(run: Run) -> None:
        await site.work.start(run, "a")
        at_the_gate.set()
        await gate.wait()  # the handler's own waiting is not disturbed
        try:
            await site.work.start(run, "b")
        except asyncio.CancelledError:
            await site.work.start(run, "cleanup")
            raise

    handle = await site.begin(handler, "a", heartbeat=0.05)
    await at_the_gate.wait()
    await handle.cancel("enough")
    await eventually(lambda: site.app.told_owner(handle), what="the notice")
    gate.set()
    recorded = await site.ends(handle)
    assert [outcome for _, outcome in recorded] == ["completed", "abandoned", "completed"]
    assert site.app.ledger.lines() == ["a", "cleanup"]


async def test_a_step_that_waits_to_be_tried_again_is_where_it_is_met(site: Site) -> None:
    async def handler(run: Run) -> None:
        try:
            await site.retries.start(run, "a")
        finally:
            await site.work.start(run, "cleanup")

    handle = await site.begin(handler, "a", inline_wait=7200)
    await eventually(handle.journal, what="the recorded attempt")
    await handle.cancel("enough")
    assert await site.ends(handle) == [("retries", "abandoned"), ("work", "completed")]
    assert site.app.ledger.lines() == ["a", "cleanup"]


async def test_a_parked_run_is_woken_and_meets_it_at_its_wait(site: Site) -> None:
    async def handler(run: Run) -> None:
        await site.work.start(run, "a")
        try:
            await site.retries.start(run, "b")
        finally:
            await site.work.start(run, "cleanup")

    handle = await site.begin(handler, "b")
    await becomes(handle, Status.AWAITING_RETRY)
    assert await handle.cancel("enough") is Status.QUEUED
    assert [outcome for _, outcome in await site.ends(handle)] == [
        "completed",
        "abandoned",
        "completed",
    ]
    assert site.app.ledger.lines() == ["a", "b", "cleanup"]


async def test_a_run_whose_version_nobody_serves_any_more_ends_at_once(site: Site) -> None:
    async def handler(run: Run) -> None:
        await site.hangs.start(run, "a")

    version = workflow("abandoned").v("1.0.0", exec=handler)
    worker = await site.app.serve(version)
    handle = await version.start(site.app.client)
    await eventually(site.app.ledger.lines)
    await site.app.end(worker)
    assert await handle.cancel("enough") is Status.CANCELLED
    assert await site.ends(handle) == []


@pytest.mark.parametrize("death", range(6))
async def test_a_replay_meets_it_at_the_same_point(site: Site, death: int) -> None:
    """The owner dies after so many writes: before, at and after the point, and in the cleanup."""
    seen: list[list[str]] = []

    async def handler(run: Run) -> None:
        life: list[str] = []
        seen.append(life)
        await site.work.start(run, "a")
        try:
            async with asyncio.TaskGroup() as group:
                for label in "bc":
                    group.create_task(site.hangs.start(run, label))
        except asyncio.CancelledError:
            life.append("cancelled")
            for label in "xy":
                await site.work.start(run, label)
                life.append(label)
            raise

    client = await site.app.connect()
    runs = let_die(client)
    version = workflow("replayed").v("1.0.0", exec=handler)
    handle = await version.start(site.app.client)
    victim = await site.app.serve(version, client=client)
    await eventually(lambda: {"b", "c"} <= set(site.app.ledger.lines()), what="both members")
    runs.left[handle.id] = death
    await handle.cancel("enough")
    await eventually(
        lambda: handle.id in runs.dead | runs.over, what="the end of the run or of its owner"
    )
    await site.app.end(victim)
    runs.forget()
    recorded = await handle.journal()
    done = site.app.ledger.count()
    await site.app.serve(version)
    await site.ends(handle)
    assert seen[-1] == ["cancelled", "x", "y"]
    assert site.app.ledger.count()["a"] == 1
    for step in recorded:
        if step.task == "work":
            assert site.app.ledger.count()[step.result] == done[step.result]
    if death > 0:
        assert "b" not in site.app.ledger.lines()[sum(done.values()) :], "it was recorded as met"


async def test_a_gather_and_a_group_pass_it_on_to_all_their_members(site: Site) -> None:
    async def member(run: Run, label: str) -> None:
        try:
            await site.hangs.start(run, label)
        finally:
            await site.work.start(run, f"cleanup {label}")

    async def group(run: Run) -> None:
        async with asyncio.TaskGroup() as members:
            for label in "cd":
                members.create_task(member(run, label))

    async def handler(run: Run) -> None:
        members = member(run, "a"), member(run, "b"), group(run)
        await asyncio.gather(*members, return_exceptions=True)  # without, it waits for no cleanup

    handle = await site.begin(handler, "d")
    await handle.cancel("enough")
    recorded = await site.ends(handle)
    assert sorted(recorded) == [*[("hangs", "abandoned")] * 4, *[("work", "completed")] * 4]
    done = site.app.ledger.count()
    assert {line: done[line] for line in done if "cleanup" in line} == {
        f"cleanup {label}": 1 for label in "abcd"
    }


async def test_a_cleanup_in_a_group_that_is_failing_already_meets_it_too(site: Site) -> None:
    """Such a group waits for its members, and passes no cancellation on to them."""

    async def member(run: Run) -> None:
        try:
            await site.hangs.start(run, "a")
        finally:
            await site.hangs.start(run, "cleanup")

    async def failing(run: Run) -> None:
        await site.work.start(run, "b")
        raise ValueError

    async def handler(run: Run) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(member(run))
            group.create_task(failing(run))

    handle = await site.begin(handler, "cleanup")
    await handle.cancel("enough")
    assert await site.ends(handle) == [
        ("work", "completed"),
        ("hangs", "abandoned"),
        ("hangs", "abandoned"),
    ]


async def test_a_cleanup_may_fail_and_be_tried_again_while_the_run_is_parked(site: Site) -> None:
    @task(retry=fixed(3, 0.05))
    async def refund() -> None:
        site.app.ledger.note(f"refund {current_step().attempt}")
        if current_step().attempt < 3:
            raise ConnectionError

    async def handler(run: Run) -> None:
        try:
            await site.hangs.start(run, "a")
        finally:
            await refund.start(run)

    handle = await site.begin(handler, "a", inline_wait=0.01, grace=0.02)
    await handle.cancel("enough")
    assert await site.ends(handle) == [("hangs", "abandoned"), ("refund", "completed")]
    assert site.app.ledger.lines()[-3:] == ["refund 1", "refund 2", "refund 3"]


async def test_a_cleanup_that_fails_for_good_leaves_the_run_cancelled(site: Site) -> None:
    @task
    async def refund() -> None:
        raise ConnectionError

    async def handler(run: Run) -> None:
        try:
            await site.hangs.start(run, "a")
        except asyncio.CancelledError:
            with pytest.raises(TaskFailed):
                await refund.start(run)
            raise RuntimeError("the cleanup failed") from None

    handle = await site.begin(handler, "a")
    await handle.cancel("enough")
    assert await site.ends(handle) == [("hangs", "abandoned"), ("refund", "failed")]


async def test_a_run_that_ends_before_it_has_seen_it_completes(site: Site) -> None:
    """Either order of a cancel and an end gives one end, and a cancel that was too late none."""
    ended, gate = asyncio.Event(), asyncio.Event()

    async def handler(run: Run) -> str:
        result = await site.work.start(run, "a")
        ended.set()
        await gate.wait()
        return result

    handle = await site.begin(handler, "a")
    await ended.wait()
    assert await handle.cancel("enough") is Status.RUNNING
    gate.set()
    assert await handle.wait_for_completion(60) == "a"
    assert await handle.cancel("again") is Status.COMPLETED


async def test_a_cancel_beside_the_end_of_many_runs_has_one_of_two_ends(site: Site) -> None:
    async def handler(run: Run) -> str:
        for label in "abc":
            await site.work.start(run, label)
        return "done"

    version = workflow("racing").v("1.0.0", exec=handler)
    await site.app.serve(version)
    handles = [await version.start(site.app.client) for _ in range(40)]

    async def cancel(handle: Handle[str], turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await handle.cancel("enough")

    await asyncio.gather(*(cancel(handle, 2 * n) for n, handle in enumerate(handles)))
    for handle in handles:
        try:
            assert await handle.wait_for_completion(60) == "done"
            expected = Status.COMPLETED
        except RunCancelled:
            expected = Status.CANCELLED
        assert (await handle.status()).status is expected
        marks = [outcome for _, outcome in await outcomes(handle) if outcome == "abandoned"]
        assert len(marks) <= (expected is Status.CANCELLED)
