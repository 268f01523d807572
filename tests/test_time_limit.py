"""Time limits where the task that waits was cancelled before: whoever cleans up is."""

import asyncio
import logging

import pytest

from aiki import Run, task, workflow
from aiki.time_limit import time_limit
from tests.support.app import App
from tests.support.waiting import after_a_cancel, eventually


async def limited(seconds: float | None, work: float = 60) -> str:
    async with time_limit(seconds):
        await asyncio.sleep(work)
    return "done"


async def test_a_limit_is_a_time_out_also_after_a_cancel() -> None:
    for waited in (limited(0.01), after_a_cancel(limited(0.01))):
        with pytest.raises(TimeoutError):
            await waited
    assert await after_a_cancel(limited(60, 0.01)) == "done"


async def test_a_cancel_within_a_limit_stays_a_cancel() -> None:
    waiting = asyncio.create_task(after_a_cancel(limited(60)))
    for _ in range(5):
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_is_raised_within_a_limit_is_raised() -> None:
    async def fails() -> None:
        async with time_limit(0.01):
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await after_a_cancel(fails())


async def test_a_worker_and_a_handle_keep_to_their_limits_after_a_cancel(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    async def endless() -> None:
        app.ledger.note("begun")
        await asyncio.Event().wait()

    wf = workflow("endless")

    @wf.v("1.0.0")
    async def v1(run: Run) -> None:
        await endless.start(run)

    worker = await app.serve(wf)
    handle = await v1.start(app.client)
    await eventually(app.ledger.lines, what="begun")
    with pytest.raises(TimeoutError, match=r"was not over within 0.05 s: it is running"):
        await after_a_cancel(handle.wait_for_completion(timeout=0.05))
    with caplog.at_level(logging.WARNING):
        await after_a_cancel(worker.stop(grace=0.05))
    assert "hands 1 runs back whose steps did not end within 0.05 s" in caplog.text
    assert (await handle.status()).status == "queued"
