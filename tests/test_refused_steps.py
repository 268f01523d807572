"""Where a step cannot run, and how many of them."""

import asyncio

import pytest

from aiki import (
    DefinitionError,
    LimitExceeded,
    Run,
    RunFailed,
    TaskFailed,
    current_step,
    fixed,
    task,
    workflow,
)
from tests.support.app import App


@task
def nothing() -> None:
    return None


async def test_two_different_tasks_of_one_name_in_one_run_are_refused_with_both_places(
    app: App,
) -> None:
    @task(name="same")
    async def one() -> int:
        return 1

    @task(name="same")
    async def other() -> int:
        return 2

    wf = workflow("names")

    @wf.v("1.0.0")
    async def names(run: Run) -> int:
        return await one.start(run) + await other.start(run)

    await app.serve(wf)
    with pytest.raises(
        RunFailed, match=r"named 'same': .*test_refused_steps\.py:\d+ and .*\.py:\d+"
    ):
        await app.result(names.bind())


async def test_a_task_cannot_start_another_task(app: App) -> None:
    @task
    async def outer() -> None:
        await nothing.start(stolen[0])

    stolen: list[Run] = []
    wf = workflow("nested")

    @wf.v("1.0.0")
    async def nested(run: Run) -> str:
        stolen.append(run)
        with pytest.raises(TaskFailed) as failed:
            await outer.start(run)
        return failed.value.failure.message

    await app.serve(wf)
    assert "a task is one step" in await app.result(nested.bind())


async def test_a_step_is_refused_outside_of_its_run_in_another_run_and_in_another_thread(
    app: App,
) -> None:
    kept: list[Run] = []

    async def in_a_loop_of_its_own(run: Run) -> None:
        await nothing.start(run)

    wf = workflow("elsewhere")

    @wf.v("1.0.0")
    async def elsewhere(run: Run) -> str:
        kept.append(run)
        if len(kept) == 2:
            with pytest.raises(DefinitionError, match="outside that run's handler"):
                await nothing.start(kept[0])
        with pytest.raises(DefinitionError, match="outside that run's handler"):
            await asyncio.to_thread(asyncio.run, in_a_loop_of_its_own(run))
        return "refused"

    await app.serve(wf)
    assert await app.result(elsewhere.bind()) == "refused"
    assert await app.result(elsewhere.bind()) == "refused"
    with pytest.raises(DefinitionError, match="outside that run's handler"):
        await nothing.start(kept[0])
    with pytest.raises(DefinitionError, match="inside a task"):
        current_step()


async def test_a_run_of_too_many_steps_is_told_so_and_can_still_end(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.journal.MAX_ENTRIES", 5)
    wf = workflow("many")

    @wf.v("1.0.0")
    async def many(run: Run) -> int:
        count = 0
        with pytest.raises(LimitExceeded, match="split"):  # noqa: PT012 - by the sixth
            for _ in range(100):
                await nothing.start(run)
                count += 1
        return count

    await app.serve(wf)
    assert await app.result(many.bind()) == 5


async def test_steps_under_way_at_once_and_abandoned_ones_count_as_well(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.journal.MAX_ENTRIES", 5)
    wf = workflow("wide")

    @task
    async def endless() -> None:
        await asyncio.Event().wait()

    @wf.v("1.0.0")
    async def wide(run: Run) -> list[str]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await endless.start(run)
        steps = (nothing.start(run) for _ in range(7))
        found = await asyncio.gather(*steps, return_exceptions=True)
        return [type(each).__name__ for each in found]

    await app.serve(wf)
    assert await app.result(wide.bind()) == ["NoneType"] * 4 + ["LimitExceeded"] * 3


async def test_a_run_whose_results_are_too_large_fails_at_the_step_that_was_too_much(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.commits.MAX_RUN_BYTES", 10_000)

    @task(retry=fixed(3, 0))
    async def page(number: int) -> str:
        app.ledger.note(str(number))
        return "x" * 4_000

    wf = workflow("large")

    @wf.v("1.0.0")
    async def large(run: Run) -> int:
        count = 0
        with pytest.raises(TaskFailed, match="MiB of results"):  # noqa: PT012 - by the third
            for number in range(100):
                await page.start(run, number)
                count += 1
        return count

    await app.serve(wf)
    assert await app.result(large.bind()) == 2
    assert app.ledger.lines() == ["0", "1", "2"], "not tried again"
