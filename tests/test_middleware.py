"""What is called around starts, attempts and runs, and what is told of a run's failure."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

import aiki
from aiki import (
    AikiError,
    Call,
    Client,
    ConfigError,
    CurrentStep,
    DefinitionError,
    Failure,
    Handle,
    Middleware,
    Run,
    RunFailed,
    TaskFailed,
    fixed,
    task,
    workflow,
)
from aiki.states import Status
from tests.support.app import App, becomes, outcomes
from tests.support.one_step import reporting
from tests.support.waiting import eventually

Next = Callable[[], Awaitable[Any]]


class Tracing(Middleware):
    """Notes what it is called around."""

    def __init__(self, note: Callable[[str], None], name: str = "") -> None:
        self._note = note
        self._name = name

    async def task(self, step: CurrentStep, call_next: Next, /) -> Any:
        assert aiki.current_step() is step
        self._note(f"{self._name}{step.task} {step.attempt} begins")
        try:
            return await call_next()
        except Exception as error:
            self._note(f"{self._name}{step.task} {step.attempt} raised {error!r}")
            raise

    async def run(self, run: Run, call_next: Next, /) -> Any:
        again = " again" if run.is_replaying else ""
        self._note(f"{self._name}run of {run.info.workflow} begins{again}")
        try:
            result = await call_next()
        except asyncio.CancelledError:
            self._note(f"{self._name}run leaves")
            raise
        self._note(f"{self._name}run ends with {result}")
        return result


@task(retry=fixed(2, 0))
def fragile() -> int:
    if aiki.current_step().attempt == 1:
        raise ValueError("once")
    return 7


@pytest.mark.parametrize("given", ["worker", "workflow"])
async def test_middleware_is_called_around_each_attempt_and_each_execution_of_a_run(
    app: App, mode: str, given: str
) -> None:
    tracing = Tracing(app.ledger.note)
    wf = workflow("traced", middleware=tracing if given == "workflow" else ())

    @wf.v("1.0.0")
    async def traced(run: Run) -> int:
        return await fragile.start(run)

    await app.serve(wf, middleware=[tracing] if given == "worker" else ())
    assert await app.result(traced.bind()) == 7
    left = ["run leaves", "run of traced begins again"] if mode == "suspend" else []
    assert app.ledger.lines() == [
        "run of traced begins",
        "fragile 1 begins",
        "fragile 1 raised ValueError('once')",
        "fragile 2 begins",
        *left,
        "run ends with 7",
    ]


async def test_the_first_middleware_is_the_outermost_and_a_workers_come_before_a_workflows(
    app: App,
) -> None:
    note = app.ledger.note

    @task
    async def step() -> int:
        return 1

    wf = workflow("traced", middleware=[Tracing(note, "c "), Tracing(note, "d ")])

    @wf.v("1.0.0")
    async def traced(run: Run) -> int:
        return await step.start(run)

    await app.serve(wf, middleware=[Tracing(note, "a "), Tracing(note, "b ")])
    await app.result(traced.bind())
    lines = app.ledger.lines()
    assert [line[0] for line in lines if "step 1 begins" in line] == list("abcd")
    assert [line[0] for line in lines if "run ends" in line] == list("dcba")


async def test_a_middleware_that_fails_is_a_failed_attempt_and_a_failed_run(app: App) -> None:
    class Refuses(Middleware):
        async def task(self, step: CurrentStep, call_next: Next, /) -> Any:
            if step.attempt == 1:
                raise PermissionError("not today")
            return await call_next()

    class Fails(Middleware):
        async def run(self, _run: Run, call_next: Next, /) -> Any:
            await call_next()
            raise PermissionError("not at all")

    @task(retry=fixed(2, 0))
    async def step() -> int:
        app.ledger.note("executed")
        return aiki.current_step().attempt

    async def handler(run: Run) -> int:
        return await step.start(run)

    refused = workflow("refused", middleware=Refuses()).v("1.0.0", exec=handler)
    failing = workflow("failing", middleware=Fails()).v("1.0.0", exec=handler)
    await app.serve(refused, failing)
    assert await app.result(refused.bind()) == 2
    assert app.ledger.lines() == ["executed"]
    with pytest.raises(RunFailed, match="PermissionError: not at all"):
        await app.result(failing.bind())


async def test_what_a_middleware_gives_in_place_of_a_result_is_recorded(app: App) -> None:
    class Doubles(Middleware):
        async def task(self, _step: CurrentStep, call_next: Next, /) -> Any:
            return 2 * await call_next()

    class Wraps(Middleware):
        async def run(self, _run: Run, call_next: Next, /) -> Any:
            return [await call_next()]

    @task
    def step() -> int:
        return 4

    async def handler(run: Run) -> Any:
        return await step.start(run)

    version = workflow("changed", middleware=[Doubles(), Wraps()]).v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == [8]
    (recorded,) = await handle.journal()
    assert recorded.result == 8


async def test_what_a_middleware_makes_of_a_result_must_fit_its_annotation(app: App) -> None:
    class Spoils(Middleware):
        async def task(self, _step: CurrentStep, _call_next: Next, /) -> Any:
            return "four"

    @task
    def step() -> int:
        return 4

    version = workflow("spoilt", middleware=Spoils()).v("1.0.0", exec=reporting(step.start))
    await app.serve(version)
    assert "step 1 aiki.errors.DataError" in await app.result(version.bind())


class Keyed(Middleware):
    """Gives each start a key, and refuses some."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    async def start(
        self, call: Call[Any], call_next: Callable[[Call[Any]], Awaitable[Handle[Any]]], /
    ) -> Handle[Any]:
        self._note(f"start {call.payload.decode()}")
        if b"refused" in call.payload:
            raise AikiError("not by us")
        if b"broken" in call.payload:
            raise LookupError("broken")
        handle = await call_next(
            replace(call, options=replace(call.options, idempotency_key="the same"))
        )
        self._note("started")
        return handle


async def echo(_run: Run, text: str) -> str:
    return text


echoes = workflow("echoes").v("1.0.0", exec=echo)


async def test_a_clients_middleware_is_called_around_each_start(app: App) -> None:
    async with Client(
        app.url, namespace=app.namespace, middleware=[Keyed(app.ledger.note), Middleware()]
    ) as client:
        handles = [await echoes.start(client, "a") for _ in range(2)]
        assert handles[0].id == handles[1].id
        with pytest.raises(AikiError, match="not by us"):
            await echoes.start(client, "refused")
        with pytest.raises(LookupError):
            await echoes.start(client, "broken")
        first, second = await aiki.start_many(client, [echoes.bind("refused"), echoes.bind("a")])
        assert isinstance(first, AikiError)
        assert isinstance(second, Handle)
        assert second.id == handles[0].id
    assert app.ledger.count()["started"] == 3


@pytest.mark.parametrize("given", [5, Middleware, [object()], None])
def test_what_is_no_middleware_is_refused_by_a_client(given: Any) -> None:
    with pytest.raises(ConfigError, match="a client's middleware has an `async def start`"):
        Client("redis://localhost", middleware=given)


async def test_a_method_that_is_no_coroutine_is_refused(app: App) -> None:
    class Plain(Middleware):
        def task(self, _step: CurrentStep, call_next: Next, /) -> Any:
            return call_next()

    with pytest.raises(DefinitionError, match=r"a worker: .*Plain\.task is no async def"):
        app.worker(echoes, middleware=Plain())


# The hook for failures


async def test_a_failing_run_is_told_by_a_last_step_and_fails_all_the_same(app: App) -> None:
    @task(retry=fixed(2, 0))
    async def notify(failure: Failure) -> None:
        app.ledger.note(f"{failure.type}: {failure.message} {aiki.current_step().attempt}")
        if aiki.current_step().attempt == 1:
            raise ConnectionError

    @task
    def breaks() -> None:
        raise ValueError("broken")

    wf = workflow("told")

    @wf.v("1.0.0", on_failure=notify)
    async def told(run: Run) -> None:
        await breaks.start(run)

    await app.serve(wf)
    handle = await told.start(app.client)
    with pytest.raises(RunFailed, match="'breaks' failed after 1 attempt: ValueError: broken"):
        await handle.wait_for_completion(60)
    assert await outcomes(handle) == [("breaks", "failed"), ("notify", "completed")]
    said = "aiki.errors.TaskFailed: task 'breaks' failed after 1 attempt: ValueError: broken"
    assert app.ledger.lines() == [f"{said} 1", f"{said} 2"]


async def test_a_run_that_does_not_fail_is_not_told(app: App) -> None:
    @task
    def notify(failure: Failure) -> None:
        app.ledger.note(failure.message)

    @task
    async def hangs() -> None:
        app.ledger.note("hangs")
        await asyncio.Event().wait()

    async def fine(_run: Run) -> int:
        return 1

    async def cancelled(run: Run) -> None:
        try:
            await hangs.start(run)
        finally:
            raise ValueError("on the way out")

    good = workflow("good").v("1.0.0", exec=fine, on_failure=notify)
    gone = workflow("gone").v("1.0.0", exec=cancelled, on_failure=notify)
    await app.serve(good, gone)
    assert await app.result(good.bind()) == 1
    handle = await gone.start(app.client)
    await eventually(app.ledger.lines)
    await handle.cancel()
    await becomes(handle, Status.CANCELLED)
    assert app.ledger.lines() == ["hangs"]


async def test_a_result_that_cannot_be_stored_and_a_failing_middleware_are_told(app: App) -> None:
    @task
    def notify(failure: Failure) -> None:
        app.ledger.note(failure.message)

    class Fails(Middleware):
        async def run(self, _run: Run, _call_next: Next, /) -> Any:
            raise PermissionError("not at all")

    async def spoils(_run: Run) -> int:
        wrong: list[Any] = ["one"]
        one: int = wrong[0]
        return one

    first = workflow("first").v("1.0.0", exec=spoils, on_failure=notify)
    second = workflow("second", middleware=Fails()).v("1.0.0", exec=spoils, on_failure=notify)
    await app.serve(first, second)
    for version in (first, second):
        with pytest.raises(RunFailed):
            await app.result(version.bind())
    assert len(app.ledger.lines()) == 2
    assert app.ledger.lines()[1] == "not at all"


async def test_a_failure_that_cannot_be_told_is_the_runs_failure_still(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    def notify(_failure: Failure) -> None:
        raise ConnectionError("no mail today")

    async def fails(_run: Run) -> None:
        raise ValueError("the first")

    version = workflow("mute").v("1.0.0", exec=fails, on_failure=notify)
    await app.serve(version)
    with pytest.raises(RunFailed, match="the first"):
        await app.result(version.bind())
    assert "its failure could not be told" in caplog.text


async def test_a_hook_may_catch_what_it_likes_and_the_handler_too(app: App) -> None:
    @task
    def notify(failure: Failure) -> None:
        app.ledger.note(failure.message)

    async def catches(run: Run) -> str:
        try:
            await fragile.with_options(retry=fixed(1, 0)).start(run)
        except TaskFailed:
            return "caught"
        return "?"

    version = workflow("catches").v("1.0.0", exec=catches, on_failure=notify)
    await app.serve(version)
    assert await app.result(version.bind()) == "caught"
    assert app.ledger.lines() == []


@task
def takes_nothing() -> None: ...


@task
def takes_a_number(number: int) -> None:
    print(number)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (print, "on_failure is a task, not builtin_function_or_method"),
        (echoes, "on_failure is a task, not WorkflowVersion"),
        (takes_nothing, r"task takes-nothing \(.*\) is told of failures, so it takes one"),
        (takes_a_number, r"task takes-a-number \(.*\) is told of failures, so it takes one"),
    ],
)
def test_what_cannot_be_told_of_a_failure_is_refused(given: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match=rf"^workflow shop 1\.0\.0: {reason}"):
        workflow("shop").v("1.0.0", exec=echo, on_failure=given)
