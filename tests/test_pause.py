"""Runs that rest until they are resumed, and those that are ended without being asked."""

import asyncio

import pytest

from aiki import InvalidTransition, NotFound, Run, RunCancelled, Status, event, workflow
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.cancels import Site
from tests.support.waiting import eventually

paid = event("paid", int)


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_a_running_run_rests_once_its_step_is_recorded_and_goes_on_after_it(
    site: Site,
) -> None:
    async def handler(run: Run) -> list[str]:
        return [
            await site.work.start(run, "a"),
            await site.holds_thread.start(run, "b"),
            *[await site.work.start(run, label) for label in "cd"],
        ]

    handle = await site.begin(handler, "b")
    assert await handle.pause() is Status.RUNNING
    assert await handle.pause() is Status.RUNNING, "twice is fine"
    await eventually(lambda: site.app.told_owner(handle), what="the notice")
    site.let_go.set()
    await becomes(handle, Status.PAUSED)
    assert (await handle.status()).reason == "rests until it is resumed"
    assert await handle.pause() is Status.PAUSED
    assert site.app.ledger.lines() == ["a", "b"]
    assert [outcome for _, outcome in await outcomes(handle)] == ["completed"] * 2

    assert await handle.resume() is Status.QUEUED
    assert await handle.wait_for_completion(60) == ["a", "b", "c", "d"]
    assert site.app.ledger.lines() == ["a", "b", "c", "d"]


async def test_a_pause_that_is_taken_back_before_the_run_rests_is_none(site: Site) -> None:
    async def handler(run: Run) -> list[str]:
        return [await site.holds_thread.start(run, "a"), await site.work.start(run, "b")]

    handle = await site.begin(handler, "a")
    await handle.pause()
    await handle.resume()
    site.let_go.set()
    assert await handle.wait_for_completion(60) == ["a", "b"]


async def test_what_is_sent_to_a_run_that_rests_is_there_when_it_goes_on(site: Site) -> None:
    async def handler(run: Run) -> list[int]:
        await site.work.start(run, "begun")
        return [await paid.wait(run), await paid.wait(run)]

    handle = await site.begin(handler, "begun")
    await becomes(handle, Status.AWAITING_EVENT)
    assert await handle.pause() is Status.PAUSED
    await paid.send(handle, 1)
    await paid.send(handle, 2)
    assert (await handle.status()).status is Status.PAUSED
    await handle.resume()
    assert await handle.wait_for_completion(60) == [1, 2]


async def test_the_sleep_of_a_run_that_rests_goes_on(site: Site) -> None:
    async def handler(run: Run) -> bool:
        await site.work.start(run, "begun")
        return await run.sleep("a while", 2)

    handle = await site.begin(handler, "begun", inline_wait=0.01)
    await becomes(handle, Status.SLEEPING)
    await handle.pause()
    await asyncio.sleep(2.1)
    assert (await handle.status()).status is Status.PAUSED
    await handle.resume()
    assert await handle.wait_for_completion(60) is False


async def test_a_run_that_nobody_has_begun_rests_and_is_then_begun(site: Site) -> None:
    async def handler(run: Run) -> str:
        return await site.work.start(run, "a")

    version = workflow("unbegun").v("1.0.0", exec=handler)
    handle = await version.start(site.app.client)
    assert await handle.pause() is Status.PAUSED
    await site.app.serve(version)
    other = await version.start(site.app.client)
    await other.wait_for_completion(60)
    assert (await handle.status()).status is Status.PAUSED
    await handle.resume()
    assert await handle.wait_for_completion(60) == "a"


async def test_a_cancel_wakes_a_run_that_rests_so_that_it_can_clean_up(site: Site) -> None:
    async def handler(run: Run) -> None:
        try:
            await site.retries.start(run, "a")
        finally:
            await site.work.start(run, "cleanup")

    handle = await site.begin(handler, "a", inline_wait=0.01)
    await becomes(handle, Status.AWAITING_RETRY)
    await handle.pause()
    assert await handle.cancel("enough") is Status.QUEUED
    assert [outcome for _, outcome in await site.ends(handle)] == ["abandoned", "completed"]
    assert site.app.ledger.lines() == ["a", "cleanup"]


async def test_a_run_whose_owner_dies_while_it_is_to_rest_rests(site: Site) -> None:
    async def handler(run: Run) -> None:
        await site.hangs.start(run, "a")

    version = workflow("dying").v("1.0.0", exec=handler)
    worker = await site.app.serve(version, heartbeat=30, lease=100)
    handle = await version.start(site.app.client)
    await eventually(site.app.ledger.lines, what="the step")
    assert await handle.pause() is Status.RUNNING
    await site.app.give_up(worker, handle, counted=True)
    assert (await handle.status()).status is Status.PAUSED


async def test_only_what_is_under_way_can_rest(site: Site) -> None:
    async def handler(run: Run) -> None:
        await site.work.start(run, "a")

    handle = await site.begin(handler, "a")
    await handle.wait_for_completion(60)
    with pytest.raises(InvalidTransition, match="from completed to paused"):
        await handle.pause()
    with pytest.raises(InvalidTransition, match="from completed to queued"):
        await handle.resume()
    unknown: Handle[object] = site.app.client.handle("0-unknown")
    for act in (unknown.pause, unknown.resume, unknown.terminate):
        with pytest.raises(NotFound):
            await act()


async def test_a_run_that_is_asked_to_end_cannot_be_paused(site: Site) -> None:
    async def handler(run: Run) -> None:
        try:
            await site.hangs.start(run, "a")
        finally:
            await site.holds_thread.start(run, "cleanup")

    handle = await site.begin(handler, "a")
    await handle.cancel("enough")
    await eventually(lambda: "cleanup" in site.app.ledger.lines(), what="the cleanup")
    with pytest.raises(InvalidTransition, match="asked to end"):
        await handle.pause()
    site.let_go.set()
    await site.ends(handle)


async def test_a_stalled_run_goes_on_with_repaired_code(site: Site) -> None:
    wf = workflow("repaired")

    @wf.v("1.0.0")
    async def first(run: Run) -> str:
        await site.work.start(run, "a")
        return await site.hangs.start(run, "b")

    worker = await site.app.serve(wf)
    handle = await first.start(site.app.client)
    await eventually(lambda: "b" in site.app.ledger.lines(), what="b")
    await site.app.end(worker)

    async def handler(run: Run) -> str:
        return await site.work.start(run, "c")

    broken = workflow("repaired").v("1.0.0", exec=handler)
    worker = await site.app.serve(broken, divergence_after=0.1)
    await becomes(handle, Status.STALLED)
    await site.app.end(worker)

    async def repaired(run: Run) -> str:
        await site.work.start(run, "a")
        return await site.work.start(run, "c")

    await site.app.serve(workflow("repaired").v("1.0.0", exec=repaired))
    assert await handle.resume() is Status.QUEUED
    assert await handle.wait_for_completion(60) == "c"
    assert site.app.ledger.lines() == ["a", "b", "c"]


async def test_a_run_that_is_terminated_ends_at_once_and_its_owner_stops(site: Site) -> None:
    ended = asyncio.Event()

    async def handler(run: Run) -> None:
        try:
            await site.hangs.start(run, "a")
        finally:
            ended.set()
            await site.work.start(run, "cleanup")

    handle = await site.begin(handler, "a", heartbeat=0.05)
    assert await handle.terminate("no more") is Status.CANCELLED
    with pytest.raises(RunCancelled, match="no more"):
        await handle.wait_for_completion(60)
    await ended.wait()
    assert await handle.terminate("again") is Status.CANCELLED
    assert site.app.ledger.lines() == ["a"], "it was not asked"
