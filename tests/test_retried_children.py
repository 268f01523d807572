"""Children that failed and are retried while their parents have still to look, or failed too."""

import asyncio
from typing import Any

import pytest

from aiki import InvalidTransition, Run, RunCancelled, RunFailed, Status, task, workflow
from aiki.handle import Handle
from aiki.store.children import Children
from tests.support.app import App, becomes
from tests.support.waiting import eventually

FAILING: set[str] = set()
gates: dict[str, asyncio.Event] = {}
children = workflow("children")


@pytest.fixture(autouse=True)
def failing() -> None:
    FAILING.clear()
    FAILING.add("bad")
    gates.clear()


@task
async def gated(label: str) -> None:
    await gates.setdefault(label, asyncio.Event()).wait()


@children.v("1.0.0")
async def child(run: Run, label: str) -> str:
    await gated.start(run, f"before {label}")
    if label in FAILING:
        raise ValueError(label)
    await gated.start(run, f"after {label}")
    return label.upper()


def let(*labels: str) -> None:
    for label in labels:
        gates.setdefault(label, asyncio.Event()).set()


async def retried(app: App) -> Handle[Any]:
    """Retry the child that has failed, once it has."""

    async def found() -> str:
        runs = app.client.runs(workflow=children.name, status=Status.FAILED)
        return next(iter([run.id async for run in runs]), "")

    handle = app.client.handle(await eventually(found, what="a child that failed"))
    FAILING.clear()
    await handle.retry()
    return handle


async def test_a_map_that_failed_by_it_goes_on_once_its_parent_is_retried_too(app: App) -> None:
    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> list[str]:
        return await run.map(child, ["good", "bad"])

    await app.serve(parent, children)
    let("before good", "after good")
    handle = await parent.start(app.client)

    async def one_is_over() -> bool:
        runs = app.client.runs(workflow=children.name, status=Status.COMPLETED)
        return [run async for run in runs] != []

    await eventually(one_is_over, what="the good one")
    let("before bad", "after bad")
    with pytest.raises(RunFailed, match="bad"):
        await handle.wait_for_completion(60)
    one = await retried(app)
    assert await one.wait_for_completion(60) == "BAD"
    await handle.retry()
    assert await handle.wait_for_completion(60) == ["GOOD", "BAD"]


async def test_a_map_waits_for_its_new_end(app: App) -> None:
    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> list[str]:
        return [str(each) for each in await run.map(child, ["bad", "good"], on_error="return")]

    await app.serve(parent, children)
    handle = await parent.start(app.client)
    let("before bad")
    one = await retried(app)
    let("before good", "after good")
    await eventually(lambda: "after bad" in gates, what="the child, again")
    let("after bad")
    assert await one.wait_for_completion(60) == "BAD"
    assert await handle.wait_for_completion(60) == ["BAD", "GOOD"]


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_parent_that_was_told_and_did_not_look_waits_for_its_new_end(
    app: App, *, is_over: bool
) -> None:
    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> str:
        return await (await child.start_as_child(run, "bad")).wait_for_completion()

    await app.serve(parent, children)
    handle = await parent.start(app.client)
    await becomes(handle, Status.AWAITING_CHILD)
    await handle.pause()
    await becomes(handle, Status.PAUSED)
    let("before bad")
    one = await retried(app)
    if is_over:
        let("after bad")
        assert await one.wait_for_completion(60) == "BAD"
    await handle.resume()
    if not is_over:
        await becomes(handle, Status.AWAITING_CHILD)
        let("after bad")
    assert await handle.wait_for_completion(60) == "BAD"


async def test_a_retried_child_ends_with_its_parent_as_it_would_have(app: App) -> None:
    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> None:
        await child.start_as_child(run, "bad")
        await gated.start(run, "parent")

    await app.serve(parent, children)
    handle = await parent.start(app.client)
    let("before bad")
    one = await retried(app)
    await eventually(lambda: "after bad" in gates, what="the child, again")
    let("parent")
    await handle.wait_for_completion(60)
    with pytest.raises(RunCancelled, match="its parent"):
        await one.wait_for_completion(60)


async def test_what_is_among_the_results_of_a_map_is_not_retried_while_they_are_needed(
    app: App,
) -> None:
    """They are read from the children whenever the parent is repeated."""

    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> list[str]:
        results = await run.map(child, ["good", "bad"], on_error="return")
        await gated.start(run, "parent")
        return [str(result) for result in results]

    await app.serve(parent, children)
    let("before good", "after good", "before bad", "after bad")
    handle = await parent.start(app.client)
    await eventually(lambda: "parent" in gates, what="the parent")
    with pytest.raises(InvalidTransition, match=f"run {handle.id}, is at work: its failure"):
        await retried(app)
    let("parent")
    good, bad = await handle.wait_for_completion(60)
    assert good == "GOOD"
    assert bad.endswith("ValueError: bad")
    assert await (await retried(app)).wait_for_completion(60) == "BAD"


async def test_a_message_that_is_true_no_longer_is_waited_past(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner has read it already when the child is retried."""
    held, go_on = asyncio.Event(), asyncio.Event()

    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> str:
        return await (await child.start_as_child(run, "bad")).wait_for_completion()

    consume_end = Children.consume_end

    async def slow(*arguments: object, **options: object) -> object:
        held.set()
        await go_on.wait()
        return await consume_end(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Children, "consume_end", slow)
    await app.serve(parent, children)
    handle = await parent.start(app.client)
    let("before bad")
    await held.wait()
    await retried(app)
    await eventually(lambda: "after bad" in gates, what="the child, again")
    go_on.set()
    let("after bad")
    assert await handle.wait_for_completion(60) == "BAD"
