"""Runs that are under way when the code of their workflow changes."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from aiki import Run, RunCancelled, Status, Task, TaskFailed, task, workflow
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually

Handler = Callable[..., Coroutine[Any, Any, str]]


@dataclass(frozen=True)
class Price:
    amount: int


@dataclass(frozen=True)
class PriceNow:
    amount: int
    currency: str


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait tenths of a second for what may never come, not seconds."""
    monkeypatch.setattr("aiki.rounds.PATIENCE", 0.1)
    monkeypatch.setattr("aiki.replay.WATCH_EVERY", 0.05)


class Site:
    """A run whose code is exchanged while its step `gate` is executing."""

    def __init__(self, app: App) -> None:
        self.app = app

        @task
        async def work(label: str) -> str:
            app.ledger.note(label)
            return label

        @task
        async def breaks(label: str) -> str:
            app.ledger.note(label)
            raise ValueError(label)

        @task
        async def gate() -> str:
            app.ledger.note("gate")
            if app.ledger.count()["gate"] == 1:
                await asyncio.Event().wait()
            return "gate"

        self.work: Task[[str], str, Coroutine[Any, Any, str]] = work
        self.breaks: Task[[str], str, Coroutine[Any, Any, str]] = breaks
        self.gate: Task[[], str, Coroutine[Any, Any, str]] = gate

    async def begin(self, handler: Handler, *arguments: Any) -> Handle[str]:
        """Execute a run until it stands at the gate, and hand it back there."""
        version = workflow("changing").v("1.0.0", exec=handler)
        worker = await self.app.serve(version)
        handle: Handle[str] = await version.start(self.app.client, *arguments)
        await eventually(lambda: "gate" in self.app.ledger.lines(), what="the gate")
        await self.app.end(worker)
        return handle

    async def go_on(self, handler: Handler, *, divergence_after: float = 0.3) -> None:
        """Serve the run by other code."""
        version = workflow("changing").v("1.0.0", exec=handler)
        await self.app.serve(version, divergence_after=divergence_after)

    async def stalls(self, handle: Handle[str]) -> str:
        """Wait until the run is stalled, and give the reason."""
        await becomes(handle, Status.STALLED)
        return (await handle.status()).reason


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


def three_steps(site: Site) -> Handler:
    async def handler(run: Run) -> str:
        done = [await site.work.start(run, "a"), await site.work.start(run, "b")]
        return "".join([*done, await site.gate.start(run)])

    return handler


# What is safe


async def test_recorded_steps_may_change_places(site: Site) -> None:
    async def reordered(run: Run) -> str:
        done = [await site.work.start(run, "b"), await site.work.start(run, "a")]
        return "".join([await site.gate.start(run), *done])

    handle = await site.begin(three_steps(site))
    await site.go_on(reordered)
    assert await handle.wait_for_completion(60) == "gateba"
    assert site.app.ledger.lines() == ["a", "b", "gate", "gate"]


async def test_recorded_steps_may_come_to_stand_side_by_side(site: Site) -> None:
    async def parallel(run: Run) -> str:
        done = await asyncio.gather(*(site.work.start(run, label) for label in "ba"))
        return "".join([*done, await site.gate.start(run)])

    handle = await site.begin(three_steps(site))
    await site.go_on(parallel)
    assert await handle.wait_for_completion(60) == "bagate"
    assert site.app.ledger.lines() == ["a", "b", "gate", "gate"]


async def test_what_comes_after_all_recorded_steps_may_be_any_other(site: Site) -> None:
    async def appended(run: Run) -> str:
        for label in "abcd":
            await site.work.start(run, label)
        return "appended"

    handle = await site.begin(three_steps(site))
    await site.go_on(appended)
    assert await handle.wait_for_completion(60) == "appended"
    assert site.app.ledger.lines() == ["a", "b", "gate", "c", "d"]


async def test_recorded_steps_may_go_where_nothing_new_comes_after(site: Site) -> None:
    async def shortened(run: Run) -> str:
        return await site.work.start(run, "b")

    handle = await site.begin(three_steps(site))
    await site.go_on(shortened)
    assert await handle.wait_for_completion(60) == "b"
    assert site.app.ledger.lines() == ["a", "b", "gate"]


async def test_a_new_step_waits_while_another_branch_may_take_what_is_recorded(site: Site) -> None:
    async def slower(run: Run) -> str:
        async def slow() -> None:
            for label in "ab":
                await asyncio.sleep(0.1)
                site.app.ledger.note(f"asking for {label}")
                await site.work.start(run, label)

        await asyncio.gather(site.work.start(run, "new"), slow())
        return "both"

    handle = await site.begin(three_steps(site))
    await site.go_on(slower, divergence_after=5)
    assert await handle.wait_for_completion(60) == "both"
    assert site.app.ledger.lines()[3:6] == ["asking for a", "asking for b", "new"]


async def test_a_loop_that_stood_still_does_not_make_the_code_another(site: Site) -> None:
    async def blocking(run: Run) -> str:
        new = asyncio.create_task(site.work.start(run, "new"))
        await asyncio.sleep(0.1)
        time.sleep(1)  # noqa: ASYNC251 - that is the point
        for label in "ab":
            await site.work.start(run, label)
        return await new

    handle = await site.begin(three_steps(site))
    await site.go_on(blocking)
    assert await handle.wait_for_completion(60) == "new"


async def test_a_run_whose_cancel_was_delivered_is_cancelled_whatever_the_code_does_now(
    site: Site,
) -> None:
    async def before(run: Run) -> str:
        try:
            await site.gate.start(run)
        finally:
            await site.work.start(run, "refund")
            await site.gate.start(run)
        return "unreachable"

    async def after(_: Run) -> str:
        return "well"

    version = workflow("changing").v("1.0.0", exec=before)
    worker = await site.app.serve(version)
    handle = await version.start(site.app.client)
    await eventually(lambda: "gate" in site.app.ledger.lines(), what="the gate")
    await handle.cancel("enough")
    await eventually(lambda: site.app.ledger.lines().count("gate") == 2, what="the cleanup")
    await site.app.end(worker)
    await site.go_on(after)
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(60)
    assert (await outcomes(handle))[:2] == [("gate", "abandoned"), ("work", "completed")]


# What is not


async def test_a_new_step_in_place_of_a_recorded_one_stalls_the_run_before_it_runs(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def changed(run: Run) -> str:
        done = [await site.work.start(run, "a"), await site.work.start(run, "other")]
        return "".join([*done, await site.gate.start(run)])

    handle = await site.begin(three_steps(site))
    recorded = [step.key for step in await handle.journal()]
    with caplog.at_level(logging.ERROR):
        await site.go_on(changed)
        reason = await site.stalls(handle)
    assert f"Recorded and not asked for: {recorded[1]}\n" in reason
    asked = reason.partition("Asked for and not recorded: ")[2].split("\n")[0]
    assert asked.startswith("work:")
    assert asked not in recorded
    assert site.app.ledger.lines() == ["a", "b", "gate"]
    assert await outcomes(handle) == [("work", "completed"), ("work", "completed")]
    assert handle.id in caplog.text


async def test_a_removed_step_before_a_new_one_stalls_the_run_before_it_runs(site: Site) -> None:
    async def removed(run: Run) -> str:
        await site.work.start(run, "b")
        return await site.work.start(run, "new")

    handle = await site.begin(three_steps(site))
    await site.go_on(removed)
    reason = await site.stalls(handle)
    assert reason.count("work:") == 2
    assert site.app.ledger.lines() == ["a", "b", "gate"]


async def test_a_stalled_run_says_so_and_can_be_cancelled(site: Site) -> None:
    async def changed(run: Run) -> str:
        return await site.work.start(run, "other")

    handle = await site.begin(three_steps(site))
    await site.go_on(changed)
    reason = await site.stalls(handle)
    assert reason.startswith("The code does not match what is recorded of this run")
    assert await handle.cancel("beyond repair") is Status.CANCELLED
    with pytest.raises(RunCancelled, match="beyond repair"):
        await handle.wait_for_completion(60)


async def test_an_abandoned_step_that_is_waited_for_longer_than_before_stalls_the_run(
    site: Site,
) -> None:
    @task
    async def hangs() -> None:
        site.app.ledger.note("hangs")
        await asyncio.Event().wait()

    async def with_a_time_out(run: Run) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await hangs.start(run)
        return await site.gate.start(run)

    async def without(run: Run) -> str:
        await hangs.start(run)
        return await site.gate.start(run)

    handle = await site.begin(with_a_time_out)
    await site.go_on(without)
    reason = await site.stalls(handle)
    assert "Abandoned before and waited for again: hangs:" in reason
    assert site.app.ledger.lines() == ["hangs", "gate"], "it ran nothing"


async def test_an_abandoned_step_is_waited_for_as_long_as_before_and_then_it_goes_on(
    site: Site,
) -> None:
    @task
    async def hangs() -> None:
        site.app.ledger.note("hangs")
        await asyncio.Event().wait()

    async def timed(run: Run) -> str:
        try:
            async with asyncio.timeout(0.4):  # longer than the limit of the divergence
                await hangs.start(run)
        except TimeoutError:
            site.app.ledger.note("late")
        return await site.gate.start(run)

    handle = await site.begin(timed)
    await site.go_on(timed)
    assert await handle.wait_for_completion(60) == "gate"
    assert site.app.ledger.lines()[:5] == ["hangs", "late", "gate", "late", "gate"]
    assert site.app.ledger.count()["hangs"] == 1


# Recorded data that no longer fits


async def test_a_recorded_result_that_no_longer_fits_stalls_the_run_with_the_path(
    site: Site,
) -> None:
    @task(name="price")
    async def price() -> list[Price]:
        return [Price(5)]

    @task(name="price")
    async def price_now() -> list[PriceNow]:
        raise AssertionError

    async def before(run: Run) -> str:
        await price.start(run)
        return await site.gate.start(run)

    async def after(run: Run) -> str:
        found = await price_now.start(run)
        return found[0].currency

    handle = await site.begin(before)
    await site.go_on(after)
    reason = await site.stalls(handle)
    assert "price:" in reason
    assert "$[0].currency" in reason


async def test_an_input_that_no_longer_fits_stalls_the_run_with_the_path(site: Site) -> None:
    async def before(run: Run, price: Price) -> str:
        return await site.gate.start(run) + str(price)

    async def after(run: Run, price: PriceNow) -> str:
        return run.id + price.currency

    handle = await site.begin(before, Price(5))
    await site.go_on(after)
    assert "$.price.currency" in await site.stalls(handle)


async def test_a_recorded_failure_that_cannot_be_read_stalls_the_run(site: Site) -> None:
    async def failing(run: Run) -> str:
        with suppress(TaskFailed):
            await site.breaks.start(run, "a")
        return await site.gate.start(run)

    handle = await site.begin(failing)
    (step,) = await handle.journal()
    link = site.app.link_of(handle.id)
    journal = f"{site.app.base_of(handle.id)}run:{handle.id}:journal"
    entry = await link.send(("HGET", journal, step.key))
    damaged = entry.partition(b"\n")[0] + b"\n{"
    await link.send(("HSET", journal, step.key, damaged))
    await site.go_on(failing)
    reason = await site.stalls(handle)
    assert step.key in reason
    assert site.app.ledger.lines() == ["a", "gate"]
