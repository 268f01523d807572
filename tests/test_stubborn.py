"""Handlers and tasks that do not obey a cancel."""

import asyncio
from contextlib import suppress

import pytest

from aiki import Run, task, workflow
from tests.support.app import App
from tests.support.cancels import Site
from tests.support.waiting import eventually


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_a_handler_that_catches_it_and_hangs_is_ended_after_the_grace(site: Site) -> None:
    refused: list[int] = []  # how often, in each life

    async def handler(run: Run) -> str:
        refused.append(0)
        while True:
            try:
                if refused[-1]:
                    await asyncio.sleep(3600)
                await site.hangs.start(run, "a")
            except asyncio.CancelledError:
                refused[-1] += 1
                if refused[-1] > 50:
                    raise

    handle = await site.begin(handler, "a", grace=0.1)
    await handle.cancel("enough")
    assert await site.ends(handle) == [("hangs", "abandoned")]
    await eventually(lambda: refused[-1] > 50, what="the end of the handler")


async def test_a_handler_that_never_ends_has_its_worker_replaced(site: Site) -> None:
    is_over = asyncio.Event()

    async def handler(run: Run) -> str:
        while not is_over.is_set():
            try:
                await site.hangs.start(run, "a")
            except asyncio.CancelledError:
                continue
        return "over"

    version = workflow("endless").v("1.0.0", exec=handler)
    worker = await site.app.serve(version, grace=0.05)
    handle = await version.start(site.app.client)
    await eventually(site.app.ledger.lines)
    await site.app.end(worker)
    assert worker.needs_recycling.is_set()
    assert handle.id in worker.recycle_reason
    is_over.set()


async def test_a_handler_that_swallows_it_is_cancelled_all_the_same(site: Site) -> None:
    async def handler(run: Run) -> str:
        with suppress(asyncio.CancelledError):
            await site.hangs.start(run, "a")
        return await site.work.start(run, "went on")

    handle = await site.begin(handler, "a")
    await handle.cancel("enough")
    assert await site.ends(handle) == [("hangs", "abandoned"), ("work", "completed")]


async def test_a_task_that_swallows_it_does_not_keep_it_from_the_handler(site: Site) -> None:
    @task
    async def stubborn() -> str:
        site.app.ledger.note("a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            site.app.ledger.note("swallowed")
        return "went on"

    async def handler(run: Run) -> None:
        try:
            await stubborn.start(run)
        finally:
            await site.work.start(run, "cleanup")

    handle = await site.begin(handler, "a")
    await handle.cancel("enough")
    assert await site.ends(handle) == [("stubborn", "abandoned"), ("work", "completed")]


async def test_what_a_handler_leaves_behind_ends_by_itself_when_the_run_is_left(site: Site) -> None:
    left: list[asyncio.Task[None]] = []

    async def handler(run: Run) -> str:
        async def behind() -> None:
            await asyncio.gather(site.hangs.start(run, "b"), return_exceptions=True)
            try:
                await site.work.start(run, "c")
            finally:
                await site.work.start(run, "cleanup")

        left.append(asyncio.create_task(behind()))
        return await site.hangs.start(run, "a")

    version = workflow("left").v("1.0.0", exec=handler)
    worker = await site.app.serve(version, grace=0.05)
    await version.start(site.app.client)
    await eventually(lambda: len(site.app.ledger.lines()) == 2, what="both steps")
    await site.app.end(worker)
    await eventually(left[0].done, what="its end")
