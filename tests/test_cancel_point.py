"""A cancel and a time-out that meet at one step: every life of the run sees the same."""

import asyncio
from typing import Any

import pytest

from aiki import Run, RunCancelled, task, workflow
from aiki.store.runs import Runs
from tests.support.app import App, outcomes
from tests.support.waiting import eventually

LIMIT = 1.5  # seconds, in which a busy machine tells the handler of its cancel


async def test_a_time_out_while_the_point_of_a_cancel_is_written_changes_nothing(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time-out passes in the first life and not in the next, which ends at once."""
    begun, gate = asyncio.Event(), asyncio.Event()

    @task
    async def hangs() -> None:
        begun.set()
        await asyncio.Event().wait()

    @task
    async def late() -> None:
        app.ledger.note("late")

    @task
    async def cleanup() -> None:
        app.ledger.note("cleanup")
        await gate.wait()

    wf = workflow("met")

    @wf.v("1.0.0")
    async def met(run: Run) -> None:
        async def inner() -> None:
            try:
                async with asyncio.timeout(LIMIT):
                    await hangs.start(run)
            except TimeoutError:
                await late.start(run)

        try:
            await asyncio.shield(inner())
        except asyncio.CancelledError:
            await cleanup.start(run)
            raise

    abandon = Runs.abandon_step

    async def slow_abandon(self: Runs, *args: Any, deliver_cancel: bool = False) -> int | bytes:
        if deliver_cancel:
            await asyncio.sleep(2 * LIMIT)
        return await abandon(self, *args, deliver_cancel=deliver_cancel)

    monkeypatch.setattr(Runs, "abandon_step", slow_abandon)
    worker = await app.serve(wf)
    handle = await met.start(app.client)
    await begun.wait()
    await handle.cancel("enough")
    await eventually(lambda: "cleanup" in app.ledger.lines(), what="the cleanup")
    await app.end(worker)
    gate.set()
    await app.serve(wf)
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    assert await outcomes(handle) == [("hangs", "abandoned"), ("cleanup", "completed")]
    assert "late" not in app.ledger.lines()
