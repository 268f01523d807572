"""Lifespans of workers and contexts of runs: when they are made, who gets them, when they end."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cloudpickle
import pytest

import aiki
from aiki import DefinitionError, Lifespan, Run, RunInfo, Worker, fixed, task, workflow
from aiki.states import Status
from tests.support.app import App, becomes
from tests.support.waiting import eventually


class Pool:
    """Something that cannot be stored."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_open = True


def pool_of(app: App, name: str = "pool") -> Lifespan[Pool]:
    @aiki.lifespan
    async def pool() -> AsyncIterator[Pool]:
        app.ledger.note(f"{name} opened")
        made = Pool(name)
        try:
            yield made
        finally:
            made.is_open = False
            app.ledger.note(f"{name} closed")

    return pool


async def stopped(app: App, worker: Worker) -> None:
    app._running.remove(worker)
    await worker.stop()


async def test_tasks_and_handlers_take_the_value_of_a_lifespan(app: App) -> None:
    pool = pool_of(app)

    @task
    def in_thread() -> str:
        return pool.get().name

    @task(retry=fixed(2, 0))
    async def on_loop() -> str:
        assert pool.get().is_open
        return pool.get().name

    wf = workflow("takes", lifespan=pool)

    @wf.v("1.0.0")
    async def takes(run: Run) -> list[str]:
        names = [pool.get().name, await in_thread.start(run), await on_loop.start(run)]
        async with asyncio.TaskGroup() as group:
            inside = group.create_task(on_loop.start(run))
        return [*names, inside.result(), pool.get().name]

    worker = await app.serve(wf)
    assert await app.result(takes.bind()) == ["pool"] * 5
    assert app.ledger.lines() == ["pool opened"]
    await stopped(app, worker)
    assert app.ledger.lines() == ["pool opened", "pool closed"]


async def test_each_worker_has_a_value_of_its_own(app: App) -> None:
    numbers = iter(range(10))

    @aiki.lifespan
    async def number() -> AsyncIterator[int]:
        yield next(numbers)

    @task
    async def tells() -> int:
        return number.get()

    wf = workflow("tells")

    @wf.v("1.0.0")
    async def tells_v1(run: Run, which: int) -> int:
        assert which == number.get()
        return await tells.start(run)

    for expected in range(2):
        worker = await app.serve(wf, lifespan=number)
        assert await app.result(tells_v1.bind(expected)) == expected
        await stopped(app, worker)


async def test_lifespans_are_entered_once_in_order_and_left_the_other_way_round(app: App) -> None:
    first, second = pool_of(app, "first"), pool_of(app, "second")

    @aiki.lifespan
    async def third() -> AsyncIterator[str]:
        yield second.get().name  # one may use those before it

    async def handler(_run: Run) -> str:
        return third.get()

    one = workflow("one", lifespan=[first, second, third]).v("1.0.0", exec=handler)
    two = workflow("two", lifespan=second).v("1.0.0", exec=handler)
    worker = await app.serve(one, two, lifespan=first)
    assert await app.result(one.bind()) == "second"
    await stopped(app, worker)
    assert app.ledger.lines() == ["first opened", "second opened", "second closed", "first closed"]


async def test_a_lifespan_is_left_after_the_drain_in_the_task_that_entered_it(app: App) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    @aiki.lifespan
    async def careful() -> AsyncIterator[None]:
        entered = asyncio.current_task()
        token = variable.set("set")
        yield
        variable.reset(token)  # raises in another context
        assert asyncio.current_task() is entered
        app.ledger.note("left")

    @task
    async def slow() -> str:
        app.ledger.note("slow begins")
        await asyncio.sleep(0.2)
        app.ledger.note("slow ends")
        return variable.get()

    wf = workflow("slow", lifespan=careful)

    @wf.v("1.0.0")
    async def slow_v1(run: Run) -> str:
        return await slow.start(run)

    worker = await app.serve(wf)
    await slow_v1.start(app.client)
    await eventually(app.ledger.lines)
    await asyncio.create_task(stopped(app, worker))
    assert app.ledger.lines() == ["slow begins", "slow ends", "left"]


async def test_what_gives_a_context_manager_is_a_lifespan_too(app: App) -> None:
    @asynccontextmanager
    async def make() -> AsyncGenerator[Pool]:
        yield Pool("managed")

    pool = aiki.lifespan(make)

    async def handler(_run: Run) -> str:
        return pool.get().name

    version = workflow("managed", lifespan=pool).v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "managed"


async def test_a_worker_whose_lifespan_fails_does_not_start_and_leaves_the_others(app: App) -> None:
    @aiki.lifespan
    async def broken() -> AsyncIterator[None]:
        if app.url:
            raise ConnectionError("no database")
        yield

    async def handler(run: Run) -> None: ...

    version = workflow("broken", lifespan=[pool_of(app), broken]).v("1.0.0", exec=handler)
    worker = app.worker(version)
    with pytest.raises(ConnectionError, match="no database"):
        await worker.start()
    assert app.ledger.lines() == ["pool opened", "pool closed"]
    assert worker.incarnation == ""


async def test_a_worker_that_was_prepared_and_never_started_leaves_its_lifespans(app: App) -> None:
    async def handler(_run: Run) -> None: ...

    worker = app.worker(workflow("idle").v("1.0.0", exec=handler), lifespan=pool_of(app))
    await worker.prepare()
    await worker.prepare()
    assert app.ledger.lines() == ["pool opened"]
    await worker.stop()
    assert app.ledger.lines() == ["pool opened", "pool closed"]


async def test_what_a_lifespan_raises_at_its_end_is_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @aiki.lifespan
    async def careless() -> AsyncIterator[None]:
        yield
        raise RuntimeError("already closed")

    async def handler(run: Run) -> None: ...

    version = workflow("careless", lifespan=careless).v("1.0.0", exec=handler)
    worker = await app.serve(version)
    await stopped(app, worker)
    assert "a lifespan of worker" in caplog.text
    assert "RuntimeError: already closed" in caplog.text


async def test_a_value_that_nobody_made_is_missed_by_name_and_can_be_given_in_a_test(
    app: App,
) -> None:
    pool = pool_of(app)

    @task
    def name() -> str:
        return pool.get().name

    with pytest.raises(
        DefinitionError, match=r"lifespan pool \(.*test_context\) has no value here"
    ):
        name()
    with pool.using(Pool("made up")) as given:
        assert name() == "made up"
        assert given is pool.get()
    with pytest.raises(DefinitionError):
        pool.get()


async def test_a_run_has_a_context_made_of_what_is_known_of_it_each_time_it_is_taken(
    app: App, mode: str
) -> None:
    pool = pool_of(app)
    seen: list[RunInfo] = []

    @aiki.run_context
    async def tenant(info: RunInfo) -> AsyncIterator[str]:
        seen.append(info)
        yield f"{info.input['name']} in {pool.get().name}"
        app.ledger.note("context left")

    @task
    async def greet(number: int) -> str:
        return f"{number} {tenant.get()}"

    wf = workflow("greets", lifespan=pool, context=tenant)

    @wf.v("1.0.0")
    async def greets(run: Run, name: str) -> list[str]:
        assert run.context.startswith(name)
        assert run.context == tenant.get()
        assert run.info == seen[-1]
        return [await greet.start(run, number) for number in range(2)]

    await app.serve(wf)
    handle = await greets.start(app.client, "ada")
    assert await handle.wait_for_completion(60) == ["0 ada in pool", "1 ada in pool"]
    takes = 3 if mode == "suspend" else 1
    assert [info.claims for info in seen] == list(range(1, takes + 1))
    assert {(i.id, i.workflow, i.version) for i in seen} == {(handle.id, "greets", "1.0.0")}
    await eventually(lambda: app.ledger.count()["context left"] == takes)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_context_may_be_what_a_function_returns(app: App, kind: str) -> None:
    def plain(info: RunInfo) -> str:
        return info.workflow

    async def awaited(info: RunInfo) -> str:
        return info.workflow

    context = aiki.run_context(plain) if kind == "def" else aiki.run_context(awaited)

    async def handler(_run: Run) -> str:
        return context.get()

    version = workflow("simple", context=context).v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "simple"


async def test_a_run_whose_context_cannot_be_made_is_stalled(app: App) -> None:
    @aiki.run_context
    def broken(info: RunInfo) -> None:
        raise LookupError(f"no tenant {info.input['name']}")

    async def handler(_run: Run, name: str) -> None:
        app.ledger.note(f"executed {name}")

    version = workflow("broken", context=broken).v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client, "x")
    await becomes(handle, Status.STALLED)
    reason = (await handle.status()).reason
    assert reason == "The run's context could not be made: LookupError('no tenant x')"
    assert app.ledger.lines() == []


async def test_what_a_context_raises_at_its_end_changes_no_outcome(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @aiki.run_context
    async def careless(info: RunInfo) -> AsyncIterator[str]:
        yield info.id
        raise RuntimeError("already closed")

    async def handler(_run: Run) -> str:
        return careless.get()

    version = workflow("careless", context=careless).v("1.0.0", exec=handler)
    worker = await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == handle.id
    await stopped(app, worker)
    assert "run context careless" in caplog.text
    assert "already closed" in caplog.text


async def returns() -> int:
    return 1


def generates() -> Any:
    yield 1


def needs_two(_one: object, _two: object) -> None: ...


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (5, "is made by a function, not by int"),
        (returns, "yields its value, and returns returns it"),
        (generates, "is no plain generator; make generates an `async def`"),
        (needs_two, "is called with nothing, but for needs_two: missing a required argument"),
    ],
)
def test_what_cannot_be_a_lifespan_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match=f"^a lifespan {reason}"):
        aiki.lifespan(make)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (None, "is made by a function, not by NoneType"),
        (generates, "is no plain generator"),
        (needs_two, "is called with the run's RunInfo, but for needs_two: missing"),
        (returns, "is called with the run's RunInfo, but for returns: too many"),
    ],
)
def test_what_cannot_be_a_run_context_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match=f"^a run context {reason}"):
        aiki.run_context(make)


async def test_what_gives_no_context_manager_is_refused_when_it_is_entered(app: App) -> None:
    make: Any = dict
    wrong: Lifespan[Any] = aiki.lifespan(make)

    async def handler(run: Run) -> None: ...

    version = workflow("wrong", lifespan=wrong).v("1.0.0", exec=handler)
    with pytest.raises(DefinitionError, match="gave dict, which is no async context manager"):
        await app.worker(version).start()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"lifespan": returns}, "lifespan is what aiki.lifespan makes, or a list of them, not fu"),
        ({"lifespan": [5]}, "lifespan is what aiki.lifespan makes, not int 5"),
        ({"context": returns}, "context is what aiki.run_context makes of a function, not func"),
        ({"middleware": object}, "middleware is an aiki.Middleware, or a list of them, not the cl"),
        ({"middleware": [aiki.Middleware]}, "middleware is an aiki.Middleware, not the class Mid"),
    ],
)
def test_bad_options_of_a_workflow_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match=f"^workflow shop: {reason}"):
        workflow("shop", **options)


@aiki.lifespan
async def importable() -> AsyncIterator[int]:
    yield 1


def test_a_lifespan_of_a_module_travels_by_name_and_stays_itself() -> None:
    assert cloudpickle.loads(cloudpickle.dumps([importable]))[0] is importable

    @aiki.lifespan
    async def local() -> AsyncIterator[int]:
        yield 1

    (first, second) = cloudpickle.loads(cloudpickle.dumps([local, local]))
    assert first is second is not local
