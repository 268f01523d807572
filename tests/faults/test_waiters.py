"""Several who wait for one run, of whom the first gives up or is disappointed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiki import Client, NotFound, Run, workflow
from aiki.completion import POLL, Completions, Outcome
from aiki.errors import StoreUnavailable
from aiki.store.keys import new_run_id
from aiki.store.runs import Runs
from tests.support.app import App

hello = workflow("hello")


@hello.v("1.0.0")
async def hello_v1(run: Run) -> str:
    return f"hello from {run.id}"


async def test_a_waiter_hears_of_the_end_when_the_one_who_asked_has_given_up(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two who wait, of whom the first has asked and has no answer yet
    watch = Runs.watch
    asked = asyncio.Event()

    async def unanswered(*_args: Any) -> Any:
        asked.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Runs, "watch", unanswered)
    handle = await hello_v1.start(app.client)
    first = asyncio.create_task(handle.wait_for_completion())
    await asked.wait()
    second = asyncio.create_task(handle.wait_for_completion(timeout=60))
    await asyncio.sleep(0)
    # When the first gives up
    monkeypatch.setattr(Runs, "watch", watch)
    first.cancel()
    # Then the second hears of the end
    await app.serve(hello)
    assert await second == f"hello from {handle.id}"


async def test_who_comes_between_the_end_and_the_first_to_hear_of_it_asks_anew(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await hello_v1.start(app.client)
    second: list[asyncio.Task[str]] = []
    over = Completions._over

    def over_and_joined(self: Completions, run_id: str, outcome: Outcome) -> None:
        if not second:  # its turn comes before that of the one who is told now
            second.append(asyncio.create_task(handle.wait_for_completion(POLL / 2)))
        over(self, run_id, outcome)

    monkeypatch.setattr(Completions, "_over", over_and_joined)
    first = asyncio.create_task(handle.wait_for_completion())
    await app.serve(hello)
    assert await first == await second[0] == f"hello from {handle.id}"


async def test_all_who_wait_for_a_run_that_does_not_exist_are_told(app: App) -> None:
    handle = app.client.handle(new_run_id(0))
    waits = [handle.wait_for_completion(timeout=60) for _ in range(3)]
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotFound] * 3


async def test_all_who_wait_when_the_client_is_closed_are_told(app: App) -> None:
    client: Client = await app.connect()
    handle = await hello_v1.start(client)
    waits = [asyncio.create_task(handle.wait_for_completion(timeout=60)) for _ in range(3)]
    await asyncio.sleep(0.1)
    await client.aclose()
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
