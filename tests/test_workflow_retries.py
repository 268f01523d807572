"""Handlers that fail and are called again: what is recorded stays, and attempts are counted."""

import asyncio
import json

import pytest

from aiki import (
    DefinitionError,
    InvalidTransition,
    NonRetryable,
    NotFound,
    RetryAfter,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    TaskFailed,
    fixed,
    task,
    workflow,
)
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.waiting import eventually


class Shop:
    """Steps that work, and steps that fail so many times."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.failing: dict[str, int] = {}

        @task
        async def work(label: str) -> str:
            app.ledger.note(label)
            return label

        @task
        async def shaky(label: str) -> str:
            app.ledger.note(label)
            if self.failing.get(label, 0) > 0:
                self.failing[label] -= 1
                raise ConnectionError(label)
            return label

        self.work = work
        self.shaky = shaky


@pytest.fixture
def shop(app: App) -> Shop:
    return Shop(app)


async def test_a_handler_that_fails_is_called_again_and_repeats_what_has_a_result(
    shop: Shop,
) -> None:
    shop.failing["b"] = 2
    wf = workflow("again")

    @wf.v("1.0.0", retry=fixed(3, 0.05))
    async def again(run: Run) -> list[object]:
        return [
            run.attempt,
            await shop.work.start(run, "a"),
            await shop.shaky.start(run, "b"),
            await shop.work.start(run, "c"),
        ]

    await shop.app.serve(wf)
    handle = await again.start(shop.app.client)
    assert await handle.wait_for_completion(60) == [3, "a", "b", "c"]
    assert shop.app.ledger.lines() == ["a", "b", "b", "b", "c"]
    assert (await handle.describe()).attempt == 3


async def test_between_two_attempts_the_run_waits_and_says_why(shop: Shop) -> None:
    shop.failing["b"] = 1
    wf = workflow("waiting")

    @wf.v("1.0.0", retry=fixed(2, 3600))
    async def waiting(run: Run) -> str:
        return await shop.shaky.start(run, "b")

    worker = await shop.app.serve(wf)
    handle = await waiting.start(shop.app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    reason = (await handle.status()).reason
    assert "attempt 1 failed: aiki.errors.TaskFailed" in reason
    assert "the next attempt is due at" in reason
    await eventually(lambda: worker.hosted == 0, what="the slot")
    await handle.pause()
    await handle.resume()
    assert await handle.wait_for_completion(60) == "b"


async def test_a_run_whose_attempts_are_used_up_fails_with_the_last_failure(shop: Shop) -> None:
    wf = workflow("hopeless")

    @wf.v("1.0.0", retry=fixed(3, 0.01))
    async def hopeless(run: Run) -> None:
        shop.app.ledger.note(f"attempt {run.attempt}")
        raise ValueError(f"attempt {run.attempt}")

    await shop.app.serve(wf)
    handle = await hopeless.start(shop.app.client)
    with pytest.raises(RunFailed, match="attempt 3"):
        await handle.wait_for_completion(60)
    assert shop.app.ledger.lines() == ["attempt 1", "attempt 2", "attempt 3"]


async def test_what_says_that_it_is_final_is_and_what_brings_its_delay_has_it(shop: Shop) -> None:
    @task
    async def final() -> None:
        raise NonRetryable("never")

    wf = workflow("deciding")

    @wf.v("1.0.0", retry=fixed(3, 3600, retry_if=lambda error: not isinstance(error, LookupError)))
    async def deciding(run: Run, what: str) -> int:
        match what:
            case "final":
                raise NonRetryable("never")
            case "final task":
                await final.start(run)
            case "not worth it":
                raise LookupError
            case _:
                if run.attempt == 1:
                    raise RetryAfter(0.01)
        return run.attempt

    await shop.app.serve(wf)
    for what in ("final", "final task", "not worth it"):
        handle = await deciding.start(shop.app.client, what)
        with pytest.raises(RunFailed):
            await handle.wait_for_completion(60)
    assert await shop.app.result(deciding.bind("later"), 60) == 2


async def test_a_failure_that_the_handler_caught_stays_one(shop: Shop) -> None:
    shop.failing.update({"first": 1, "second": 1})
    wf = workflow("caught")

    @wf.v("1.0.0", retry=fixed(2, 0.01))
    async def caught(run: Run) -> str:
        try:
            return await shop.shaky.start(run, "first")
        except TaskFailed:
            return await shop.shaky.start(run, "second")

    await shop.app.serve(wf)
    assert await shop.app.result(caught.bind(), 60) == "second"
    assert shop.app.ledger.lines() == ["first", "second", "second"]


async def test_what_the_aftermath_of_a_failure_recorded_holds_nothing_up(shop: Shop) -> None:
    """What `finally` or `except` did is asked for later in the next attempt, or not at all."""
    shop.failing["b"] = 1
    wf = workflow("aftermath")

    @wf.v("1.0.0", retry=fixed(2, 0.01))
    async def aftermath(run: Run) -> list[str]:
        seen = [await shop.work.start(run, "a")]
        try:
            seen.append(await shop.shaky.start(run, "b"))
        except TaskFailed:
            await shop.work.start(run, "sorry")
            raise
        finally:
            seen.append(await shop.work.start(run, "cleanup"))
        seen.append(await shop.work.start(run, "c"))
        return seen

    await shop.app.serve(wf, divergence_after=20)
    assert await shop.app.result(aftermath.bind(), 60) == ["a", "b", "cleanup", "c"]
    assert shop.app.ledger.lines() == ["a", "b", "sorry", "cleanup", "b", "c"]


async def test_siblings_keep_their_results_and_those_that_were_given_up_begin_again(
    shop: Shop,
) -> None:
    shop.failing["x"] = 1
    wf = workflow("siblings")
    hung = asyncio.Event()

    @task
    async def hangs_at_first() -> str:
        shop.app.ledger.note("hangs")
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return "hung"

    @task
    async def fails_then() -> str:
        await hung.wait()
        return await shop.shaky("x")

    @wf.v("1.0.0", retry=fixed(2, 0.01))
    async def siblings(run: Run) -> list[str]:
        async with asyncio.TaskGroup() as group:
            members = [
                group.create_task(shop.work.start(run, "a")),
                group.create_task(hangs_at_first.start(run)),
                group.create_task(fails_then.start(run)),
            ]
        return [member.result() for member in members]

    await shop.app.serve(wf, divergence_after=20)
    handle = await siblings.start(shop.app.client)
    assert await handle.wait_for_completion(60) == ["a", "hung", "x"]
    assert shop.app.ledger.count()["a"] == 1


async def test_a_cancel_between_two_attempts_is_met_by_the_next(shop: Shop) -> None:
    shop.failing["b"] = 1
    wf = workflow("cancelled-between")

    @wf.v("1.0.0", retry=fixed(2, 3600))
    async def between(run: Run) -> None:
        try:
            await shop.shaky.start(run, "b")
        except asyncio.CancelledError:
            await shop.work.start(run, "cleanup")
            raise

    await shop.app.serve(wf)
    handle = await between.start(shop.app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    await handle.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(60)
    assert shop.app.ledger.lines() == ["b", "cleanup"]


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("death", range(1, 6))
async def test_a_death_at_any_point_neither_charges_nor_resets_an_attempt(
    shop: Shop, death: int, *, unheard: bool
) -> None:
    shop.failing["b"] = 1
    wf = workflow("mortal")

    @wf.v("1.0.0", retry=fixed(3, 0))
    async def mortal(run: Run) -> int:
        await shop.work.start(run, "a")
        if run.attempt == 1:
            raise ConnectionError
        await shop.shaky.start(run, "b")
        return run.attempt

    handle = await mortal.start(shop.app.client)
    while (await handle.status()).status is not Status.COMPLETED:
        await one_life(shop.app, [wf], [handle], {handle.id: death}, unheard=unheard)
    # A step that failed and was not heard to may be executed again, as any.
    assert await handle.wait_for_completion(0) in (2, 3)
    assert (await handle.describe()).attempt == await handle.wait_for_completion(0)


# A person's retry


async def test_a_failed_run_goes_on_from_its_last_checkpoint(shop: Shop) -> None:
    shop.failing["b"] = 1
    wf = workflow("retried")

    @wf.v("1.0.0")
    async def retried(run: Run) -> list[str]:
        return [await shop.work.start(run, "a"), await shop.shaky.start(run, "b")]

    await shop.app.serve(wf)
    handle = await retried.start(shop.app.client)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    await handle.retry()
    assert await handle.wait_for_completion(60) == ["a", "b"]
    assert shop.app.ledger.lines() == ["a", "b", "b"]
    with pytest.raises(InvalidTransition, match="from completed to queued"):
        await handle.retry()
    with pytest.raises(NotFound):
        await shop.app.client.handle("0-unknown").retry()


async def test_a_run_that_failed_by_its_own_code_goes_on_with_repaired_code(shop: Shop) -> None:
    async def broken(run: Run) -> str:
        left = asyncio.create_task(shop.shaky.start(run, "left"))
        await shop.work.start(run, "a")
        raise ZeroDivisionError(str(left))

    async def repaired(run: Run) -> str:
        left = asyncio.create_task(shop.shaky.start(run, "left"))
        return await shop.work.start(run, "a") + await left

    worker = await shop.app.serve(workflow("bug").v("1.0.0", exec=broken))
    handle = await shop.app.client.start_call(workflow("bug").v("1.0.0", exec=broken).bind())
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    await shop.app.end(worker)
    await shop.app.serve(workflow("bug").v("1.0.0", exec=repaired), divergence_after=20)
    await handle.retry()
    assert json.loads(json.dumps(await handle.wait_for_completion(60))) == "aleft"
    assert shop.app.ledger.count()["a"] == 1


async def test_a_run_that_fails_again_is_retried_again(shop: Shop) -> None:
    shop.failing["b"] = 2
    wf = workflow("twice")

    @wf.v("1.0.0")
    async def twice(run: Run) -> str:
        return await shop.shaky.start(run, "b")

    await shop.app.serve(wf)
    handle = await twice.start(shop.app.client)
    for _ in range(2):
        with pytest.raises(RunFailed):
            await handle.wait_for_completion(60)
        await handle.retry()
    assert await handle.wait_for_completion(60) == "b"
    assert [outcome for _, outcome in await outcomes(handle)] == ["completed"]


def test_a_policy_belongs_to_a_definition() -> None:
    async def handler(run: Run) -> None:
        print(run)

    version = workflow("defined").v("1.0.0", exec=handler, retry=fixed(2, 1))
    assert version.with_options(pool="gpu").retry == fixed(2, 1)
    assert version.with_options(retry=fixed(3, 1)).retry == fixed(3, 1)
    with pytest.raises(DefinitionError, match="retry is a policy"):
        workflow("wrong").v("1.0.0", exec=handler, retry=3)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="one after the other"):
        version.with_options(retry=fixed(3, 1), delay=1)  # type: ignore[call-overload]
