"""What the next attempt of a handler that failed finds: news, children, streams, updates."""

import asyncio
from dataclasses import dataclass, field

import pytest

from aiki import AskFailed, Run, RunFailed, Status, TaskFailed, event, fixed, task, topic, workflow
from aiki.handle import Handle
from tests.support.app import App, becomes
from tests.support.waiting import eventually

words = topic("words", str)
said = event("said", str)
opened: dict[str, asyncio.Event] = {}
FAILING: set[str] = set()


@dataclass
class Account:
    paid: int = 0
    is_asked: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture(autouse=True)
def closed() -> None:
    opened.clear()
    FAILING.clear()


@task
async def shaky(label: str) -> str:
    if label in FAILING:
        raise ConnectionError(label)
    return label


@task
async def gated(label: str) -> str:
    await opened.setdefault(label, asyncio.Event()).wait()
    return label


children = workflow("children")


@children.v("1.0.0")
async def child(run: Run, label: str) -> str:
    return await gated.start(run, label)


async def retry(handle: Handle[str]) -> str:
    FAILING.clear()
    await handle.retry()
    return await handle.wait_for_completion(60)


async def fails(handle: Handle[str]) -> None:
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)


async def are_over(app: App, count: int) -> bool:
    ended = [run async for run in app.client.runs(workflow="children") if run.status.is_final]
    return len(ended) == count


async def test_it_hears_of_the_children_of_a_map_that_ended_between(app: App) -> None:
    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> str:
        part = run.map(child.with_options(on_parent_close="abandon"), ["x", "y", "z"])
        mapped, _ = await asyncio.gather(part, shaky.start(run, "late"))
        return "".join(mapped)

    FAILING.add("late")
    await app.serve(parent, children)
    handle = await parent.start(app.client)
    await eventually(lambda: len(opened) == 3, what="the children")
    await fails(handle)
    for each in opened.values():
        each.set()
    await eventually(lambda: are_over(app, 3), what="their ends")
    assert await retry(handle) == "xyz"


async def test_it_hears_of_a_child_that_ended_between_before_its_time_out(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.housekeeping.SWEEP_EVERY", 3600.0)  # which tells it later

    @workflow("parent").v("1.0.0")
    async def parent(run: Run) -> str:
        one = await child.with_options(on_parent_close="abandon").start_as_child(run, "x")
        await shaky.start(run, "before")
        return await one.wait_for_completion(timeout=5)

    FAILING.add("before")
    await app.serve(parent, children)
    handle = await parent.start(app.client)
    await eventually(lambda: "x" in opened, what="the child")
    await fails(handle)
    opened["x"].set()
    await eventually(lambda: are_over(app, 1), what="its end")
    assert await retry(handle) == "x"


async def test_news_does_not_call_it_before_its_time(app: App) -> None:
    calls: list[int] = []

    @workflow("parent").v("1.0.0", retry=fixed(3, 3600))
    async def parent(run: Run) -> str:
        calls.append(run.attempt)
        one = await child.start_as_child(run, "x")
        await shaky.start(run, "first")
        return await one.wait_for_completion() + await said.wait(run)

    FAILING.add("first")
    await app.serve(parent, children)
    handle = await parent.start(app.client)
    await becomes(handle, Status.AWAITING_RETRY)
    await eventually(lambda: "x" in opened, what="the child")
    opened["x"].set()
    await eventually(lambda: are_over(app, 1), what="its end")
    await said.send(handle, " said")
    assert (await handle.status()).status is Status.AWAITING_RETRY
    FAILING.clear()
    await handle.wake_up()
    assert await handle.wait_for_completion(60) == "x said"
    assert set(calls) == {1, 2}


@pytest.mark.parametrize("attempts", [1, 2])
async def test_it_publishes_whatever_way_it_takes(app: App, attempts: int) -> None:
    async def handler(run: Run) -> str:
        run.publish(words, "begin")
        try:
            await shaky.start(run, "once")
        except TaskFailed:
            run.publish(words, "failed")
            run.close_topic(words)
            FAILING.clear()
            raise
        run.publish(words, "worked")
        return "done"

    version = workflow("telling").v("1.0.0", exec=handler, retry=fixed(attempts, 0.01))
    FAILING.add("once")
    await app.serve(version)
    handle = await version.start(app.client)
    if attempts == 1:
        await fails(handle)
        await handle.retry()
    assert await handle.wait_for_completion(60) == "done"
    found = [(chunk.data, chunk.number) async for chunk in handle.stream(words)]
    assert found == [("begin", 0), ("failed", 1), ("begin", 0), ("worked", 1)]


async def test_an_update_that_failed_stays_failed(app: App) -> None:
    @workflow("paying").v("1.0.0")
    async def paying(run: Run) -> str:
        account = run.state(Account)
        await account.is_asked.wait()
        if "handler" in FAILING:
            raise ValueError("handler")
        return f"paid {account.paid}"

    @paying.update
    async def pay(run: Run, account: Account, amount: int) -> None:
        try:
            await shaky.start(run, "payment")
            account.paid += amount
        finally:
            account.is_asked.set()

    FAILING.update({"payment", "handler"})
    await app.serve(paying)
    handle = await paying.start(app.client)
    with pytest.raises(AskFailed):
        await pay.ask(handle, 1)
    await fails(handle)
    assert await retry(handle) == "paid 0"
