"""How far a run is, by its own account."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aiki
from aiki import Run, task, workflow
from aiki.errors import DataError, InvalidTransition, NotFound
from tests.support.app import TIMEOUT, App
from tests.support.waiting import eventually


@task
async def nothing(number: int) -> int:
    return number


async def test_the_last_word_on_progress_counts(app: App) -> None:
    gate = asyncio.Event()
    wf = workflow("progressing")

    @task
    async def work() -> None:
        for number in range(1000):
            aiki.current_step().progress(number, 1000)
        await gate.wait()
        aiki.current_step().progress(1000, 1000)

    @wf.v("1.0.0")
    async def progressing(run: Run) -> None:
        run.progress(0)
        await nothing.start(run, 1)
        await work.start(run)

    await app.serve(wf)
    handle = await progressing.start(app.client)

    async def is_at(done: float) -> bool:
        progress = await handle.progress()
        return progress is not None and (progress.done, progress.total) == (done, 1000)

    await eventually(lambda: is_at(999), TIMEOUT, "the last of many words")
    gate.set()
    await handle.wait_for_completion(TIMEOUT)
    assert await is_at(1000)


async def test_a_run_that_says_nothing_has_no_progress(app: App) -> None:
    wf = workflow("silent")

    @wf.v("1.0.0")
    async def silent(run: Run) -> None:
        await nothing.start(run, 1)

    assert await (await silent.start(app.client)).progress() is None


async def test_progress_is_told_in_numbers_by_what_runs(app: App) -> None:
    wf = workflow("unfit")
    kept: list[aiki.CurrentStep] = []

    @task
    async def keep() -> None:
        kept.append(aiki.current_step())

    @wf.v("1.0.0")
    async def unfit(run: Run) -> None:
        for wrong in (-1, float("nan"), "half", True):
            number: Any = wrong
            with pytest.raises(DataError, match="numbers from 0"):
                run.progress(number)
        await keep.start(run)

    await app.serve(wf)
    handle = await unfit.start(app.client)
    await handle.wait_for_completion(TIMEOUT)
    assert await handle.progress() is None
    with pytest.raises(InvalidTransition, match="is over"):
        kept[0].progress(1)
    with pytest.raises(NotFound):
        await app.client.handle("0-nobody").progress()
