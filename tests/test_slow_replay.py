"""Runs whose recorded steps are repeated while the store is slow: no reason to blame their code."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiki import Run, event, task, workflow
from aiki.commits import Commits
from aiki.handle import Handle
from aiki.store.children import Children
from tests.support.app import App
from tests.support.waiting import eventually

Handler = Callable[[Run], Coroutine[Any, Any, str]]

LIMIT = 0.3  # seconds after which code is taken for other code
SLOW = 1.0

signal = event("signal")
reached: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often whether the code fits."""
    monkeypatch.setattr("aiki.replay.WATCH_EVERY", 0.05)
    reached[:] = [asyncio.Event()]


@task
async def work(label: str) -> str:
    return label.upper()


@task
async def gate() -> None:
    """Be reached, and left in the first life."""
    if not reached[0].is_set():
        reached[0].set()
        await asyncio.Event().wait()


@workflow("items").v("1.0.0")
async def item(_run: Run, name: str) -> str:
    return name.upper()


async def serve(app: App, handler: Handler) -> Any:
    """Serve the workflow by this code."""
    version = workflow("slow").v("1.0.0", exec=handler)
    worker = await app.serve(version, item, divergence_after=LIMIT)
    return version, worker


def slowed(method: Callable[..., Any]) -> Callable[..., Any]:
    async def slow(*arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(SLOW)
        return await method(*arguments, **options)

    return slow


async def test_recording_that_something_was_given_up(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(run: Run) -> str:
        waiting = asyncio.create_task(signal.wait(run, timeout=3600))
        await work.start(run, "a")
        await gate.start(run)
        waiting.cancel()
        return "unreachable"

    async def after(run: Run) -> str:
        waiting = asyncio.create_task(signal.wait(run, timeout=3600))
        await work.start(run, "a")
        waiting.cancel()
        new = asyncio.create_task(work.start(run, "new"))
        await asyncio.wait([waiting])
        return await new

    version, worker = await serve(app, before)
    handle: Handle[str] = await version.start(app.client)
    await reached[0].wait()
    await app.end(worker)
    monkeypatch.setattr(Commits, "abandon", slowed(Commits.abandon))
    await serve(app, after)
    assert await handle.wait_for_completion(60) == "NEW"


async def test_fetching_the_results_of_a_map(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(run: Run) -> str:
        items, _ = await asyncio.gather(run.map(item, ["x", "y"]), gate.start(run))
        return "".join(items)

    version, worker = await serve(app, handler)
    handle: Handle[str] = await version.start(app.client)

    async def is_mapped() -> bool:
        steps = await handle.journal()
        return any(step.key.startswith("map/") and step.outcome == "completed" for step in steps)

    await reached[0].wait()
    await eventually(is_mapped, what="the results")
    await app.end(worker)
    monkeypatch.setattr(Children, "outcomes", slowed(Children.outcomes))
    await serve(app, handler)
    assert await handle.wait_for_completion(60) == "XY"
