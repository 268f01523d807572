"""Tasks that fail, and are tried again or not."""

import asyncio
import socket
from typing import Any

import pytest

from aiki import (
    DataError,
    NonRetryable,
    RetryAfter,
    RetryPolicy,
    Run,
    RunFailed,
    TaskFailed,
    current_step,
    exponential,
    fixed,
    jittered,
    never,
    task,
    workflow,
)
from aiki.description import RecordedStep
from tests.support.app import App
from tests.support.one_step import reporting, told
from tests.support.waiting import eventually


def breaking(app: App, *errors: BaseException, retry: RetryPolicy) -> Any:
    """Make a task that raises these one after the other, then returns."""

    @task(retry=retry)
    async def breaks() -> str:
        step = current_step()
        app.ledger.note(str(step.attempt))
        if step.attempt <= len(errors):
            raise errors[step.attempt - 1]
        return "at last"

    return breaks


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (never(), 1),
        (fixed(3, 0.01), 3),
        (exponential(4, 0.001), 4),
        (jittered(3, 0.001), 3),
        (fixed(5, 0, retry_if=lambda error: "2" not in str(error)), 2),
        (fixed(5, 0.05, max_duration=0.01), 1),
    ],
)
async def test_each_policy_gives_up_when_it_says(
    app: App, retry: RetryPolicy, attempts: int
) -> None:
    breaks = breaking(app, *(ValueError(f"attempt {n}") for n in range(1, 9)), retry=retry)
    expected = f"breaks {attempts} ValueError attempt {attempts}"
    assert await told(app, breaks.start) == expected
    assert app.ledger.lines() == [str(n) for n in range(1, attempts + 1)]


async def test_the_journal_counts_the_attempts_and_shows_the_last_failure(app: App) -> None:
    breaks = breaking(app, ValueError("first"), ValueError("second"), retry=fixed(3, 0))
    version = workflow("counted").v("1.0.0", exec=reporting(breaks.start))
    handle = await version.start(app.client)
    await app.serve(version)
    assert await handle.wait_for_completion(60) == "'at last'"
    (step,) = await handle.journal()
    assert (step.outcome, step.attempts, step.failure) == ("completed", 3, None)


async def test_a_step_that_is_tried_again_says_why_and_when(app: App) -> None:
    breaks = breaking(app, ValueError("first"), retry=fixed(2, 3600))
    version = workflow("waiting").v("1.0.0", exec=reporting(breaks.start))
    handle = await version.start(app.client)
    await app.serve(version)

    async def retrying() -> RecordedStep | None:
        return next(iter(await handle.journal()), None)

    step = await eventually(retrying)
    assert step is not None
    assert step.failure is not None
    assert step.due is not None
    assert (step.outcome, step.attempts, step.failure.message) == ("retrying", 1, "first")
    assert 3590 < (step.due - step.recorded).total_seconds() < 3610


async def test_a_task_may_say_that_it_is_hopeless_or_when_to_try_again(app: App) -> None:
    breaks = breaking(app, RetryAfter(0.01), NonRetryable("hopeless"), retry=fixed(9, 3600))
    assert await told(app, breaks.start) == "breaks 2 aiki.errors.NonRetryable hopeless"


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3), asyncio.CancelledError("mine"), BaseException("bare"), StopIteration(),
        GeneratorExit(),
    ],
)  # fmt: skip
async def test_whatever_a_task_raises_is_a_failed_attempt(app: App, error: BaseException) -> None:
    @task(retry=fixed(2, 0))
    def in_thread() -> str:
        if current_step().attempt == 1:
            raise error
        return "well"

    breaks = breaking(app, error, retry=fixed(2, 0))

    async def both(run: Run) -> str:
        return f"{await breaks.start(run)}{await in_thread.start(run)}"

    if isinstance(error, StopIteration):
        assert await told(app, in_thread.start) == "'well'"
    else:
        assert await told(app, both) == "'at lastwell'"


@pytest.mark.parametrize(
    "error", [SystemExit(3), asyncio.CancelledError("mine"), BaseException("bare"), GeneratorExit()]
)
async def test_whatever_a_handler_raises_fails_its_run(app: App, error: BaseException) -> None:
    async def handler(_: Run) -> str:
        raise error

    with pytest.raises(RunFailed, match=type(error).__name__):
        await told(app, handler)


async def test_an_exception_that_cannot_be_described_is_recorded_all_the_same(app: App) -> None:
    class Broken(Exception):
        def __init__(self, *, needed: int) -> None:
            super().__init__(needed)

        def __str__(self) -> str:
            raise RuntimeError

    breaks = breaking(app, Broken(needed=1), retry=never())
    assert "Broken is broken)" in await told(app, breaks.start)


async def test_a_handler_sees_the_same_failure_the_first_time_and_on_each_replay(
    app: App,
) -> None:
    seen: list[tuple[str, str, str, int]] = []

    @task
    async def breaks() -> None:
        raise ValueError("outer") from KeyError("inner")

    @task
    async def follows() -> None:
        pass

    wf = workflow("failures")

    @wf.v("1.0.0")
    async def failing(run: Run) -> None:
        with pytest.raises(TaskFailed) as failed:
            await breaks.start(run)
        failure, attempts = failed.value.failure, failed.value.attempts
        assert failure.cause is not None
        assert failed.value.__cause__ is None
        seen.append((str(failed.value), failure.traceback, failure.cause.type, attempts))
        await follows.start(run)
        await follows.start(run)

    await app.serve(wf)
    await app.result(failing.bind())
    assert len(set(seen)) == 1
    text, traceback, cause, attempts = seen[0]
    assert text == "task 'breaks' failed after 1 attempt: ValueError: outer"
    assert 'raise ValueError("outer") from KeyError("inner")' in traceback
    assert (cause, attempts) == ("KeyError", 1)


async def test_an_uncaught_failure_fails_the_run_and_names_the_task(app: App) -> None:
    breaks = breaking(app, ValueError("broken"), retry=never())
    wf = workflow("uncaught")

    @wf.v("1.0.0")
    async def uncaught(run: Run) -> str:
        result: str = await breaks.start(run)
        return result

    await app.serve(wf)
    with pytest.raises(RunFailed, match="task 'breaks' failed after 1 attempt") as failed:
        await app.result(uncaught.bind())
    cause = failed.value.failure.cause
    assert cause is not None
    assert (cause.type, cause.message) == ("ValueError", "broken")


# What cannot be stored


@pytest.mark.parametrize("kind", ["socket", "coroutine", "generator", "float"])
async def test_a_result_that_cannot_be_stored_fails_the_step_and_is_not_tried_again(
    app: App, kind: str
) -> None:
    @task(retry=fixed(3, 0))
    async def unstorable() -> object:
        app.ledger.note("done")
        match kind:
            case "socket":
                with socket.socket() as unusable:
                    return unusable
            case "coroutine":
                coroutine = asyncio.sleep(0)
                coroutine.close()
                return coroutine
            case "generator":
                return (number for number in range(3))
            case _:
                return float("nan")

    assert (await told(app, unstorable.start)).startswith("unstorable 1 aiki.errors.DataError ")
    assert app.ledger.lines() == ["done"]


async def test_the_record_of_such_a_step_says_that_it_was_executed(app: App) -> None:
    @task
    async def wrong() -> int:
        return "no number"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    version = workflow("wrong").v("1.0.0", exec=reporting(wrong.start))
    await app.serve(version)
    handle = await version.start(app.client)
    assert "wrong 1 aiki.errors.DataError" in await handle.wait_for_completion(60)
    (step,) = await handle.journal()
    assert step.failure is not None
    assert "the task was executed, and is not executed again" in step.failure.message


async def test_a_run_whose_result_is_not_what_it_says_fails_after_its_steps(app: App) -> None:
    @task(retry=fixed(3, 0))
    async def works() -> None:
        app.ledger.note("done")

    wf = workflow("unstorable")

    @wf.v("1.0.0")
    async def unstorable(run: Run) -> int:
        await works.start(run)
        return "no number"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    await app.serve(wf)
    with pytest.raises(RunFailed, match="DataError"):
        await app.result(unstorable.bind())
    assert app.ledger.lines() == ["done"]


async def test_input_that_cannot_be_stored_is_refused_in_the_handler_and_nothing_runs(
    app: App,
) -> None:
    @task
    async def measure(value: float) -> None:
        app.ledger.note(str(value))

    wf = workflow("input")

    @wf.v("1.0.0")
    async def measuring(run: Run) -> str:
        try:
            await measure.start(run, float("inf"))
        except DataError as refused:
            return str(refused)
        return "accepted"

    await app.serve(wf)
    assert "value" in await app.result(measuring.bind())
    assert app.ledger.lines() == []


async def test_endless_recursion_is_a_failure_like_any_other(app: App) -> None:
    def deeper(level: int) -> int:
        return deeper(level + 1) + 1

    @task
    def recursive() -> int:
        return deeper(0)

    wf = workflow("recursive")

    @wf.v("1.0.0")
    async def handler(run: Run, *, in_task: bool) -> int:
        return await recursive.start(run) if in_task else deeper(0)

    await app.serve(wf)
    for in_task in (True, False):
        with pytest.raises(RunFailed, match="RecursionError"):
            await app.result(handler.bind(in_task=in_task))
