"""Library workers, which take quarantined runs when there is no supervisor that does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aiki import Run, workflow
from aiki.handle import Handle
from aiki.records import ReadyEntry
from aiki.store.workers import ReadyReader
from tests.support.app import App
from tests.support.store import Scene
from tests.support.waiting import eventually

ours = workflow("ours")
theirs = workflow("theirs")
gates: dict[str, asyncio.Event] = {}


@ours.v("1.0.0")
async def ours_v1(run: Run, name: str) -> str:
    gates.setdefault(f"begun {name}", asyncio.Event()).set()
    if name in gates:
        await gates[name].wait()
    return run.id


@theirs.v("1.0.0")
async def theirs_v1(run: Run) -> str:
    return run.id


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and wait for supervisors only for a moment."""
    gates.clear()
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.05)
    monkeypatch.setattr("aiki.presence.ALONE_AFTER", 0.2)


async def put_in_quarantine(app: App, handle: Handle[str], name: str) -> None:
    """Let a run end two workers."""
    scene = Scene(app.client.partitions.of(handle.id))
    stream = f"ready:{name}/1.0.0/default"
    for _ in range(2):
        incarnation = await scene.register(stream)
        await scene.claim(await scene.deliver_one(incarnation, stream), incarnation)
        await scene.kill(incarnation)
    assert await scene.members("quarantine") == [handle.id]


async def test_a_quarantined_run_of_a_workflow_it_does_not_serve_keeps_no_worker_from_its_own(
    app: App,
) -> None:
    await put_in_quarantine(app, await theirs_v1.start(app.client), "theirs")
    await app.serve(ours)
    await asyncio.sleep(0.6)  # in which it would turn to the quarantine
    handle = await ours_v1.start(app.client, "a")
    assert await handle.wait_for_completion(timeout=60) == handle.id


async def test_a_quarantined_run_is_taken_alone_and_then_the_others_again(app: App) -> None:
    gates["suspect"] = asyncio.Event()
    suspect = await ours_v1.start(app.client, "suspect")
    await put_in_quarantine(app, suspect, "ours")
    serving = await app.serve(ours)
    await eventually(lambda: "begun suspect" in gates, 30.0, "the quarantined run")
    other = await ours_v1.start(app.client, "other")
    await asyncio.sleep(0.3)  # in which a worker that is not alone would take it
    assert serving.hosted == 1
    gates["suspect"].set()
    assert await suspect.wait_for_completion(timeout=60) == suspect.id
    assert await other.wait_for_completion(timeout=60) == other.id


async def test_what_a_worker_was_given_as_it_turned_to_the_quarantine_does_not_wait(
    app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, arrived, turned = ReadyReader.read, asyncio.Event(), asyncio.Event()

    async def slow(reader: ReadyReader, *arguments: Any, **options: Any) -> list[ReadyEntry]:
        entries = await read(reader, *arguments, **options)
        arrived.set()
        await turned.wait()
        return entries

    suspect = await ours_v1.start(app.client, "suspect")
    await put_in_quarantine(app, suspect, "ours")
    other = await ours_v1.start(app.client, "other")
    monkeypatch.setattr(ReadyReader, "read", slow)
    with caplog.at_level(logging.WARNING):
        await app.serve(ours)
        await arrived.wait()
        await eventually(lambda: "then takes quarantined" in caplog.text, 30.0, "the turn")
    turned.set()
    assert await other.wait_for_completion(timeout=30) == other.id
    assert await suspect.wait_for_completion(timeout=30) == suspect.id


async def test_a_quarantined_run_that_takes_long_occupies_one_worker_alone(app: App) -> None:
    gates["suspect"] = asyncio.Event()
    suspect = await ours_v1.start(app.client, "suspect")
    await put_in_quarantine(app, suspect, "ours")
    await app.serve(ours)
    await app.serve(ours)
    await eventually(lambda: "begun suspect" in gates, 30.0, "the quarantined run")
    others = [await ours_v1.start(app.client, f"n{number}") for number in range(5)]
    for other in others:
        assert await other.wait_for_completion(timeout=60) == other.id
    gates["suspect"].set()
    assert await suspect.wait_for_completion(timeout=60) == suspect.id


async def test_a_worker_that_stops_does_not_begin_to_claim_again(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.001)
    for number in range(5):
        name = f"run {number}"
        gates[name] = asyncio.Event()  # so that it drains in vain, for a while
        worker = app.worker(ours)
        await worker.start()
        handle = await ours_v1.start(app.client, name)
        await gates.setdefault(f"begun {name}", asyncio.Event()).wait()
        await worker.stop(grace=0.05)
        claiming = [each for each in asyncio.all_tasks() if "aiki claims" in each.get_name()]
        assert claiming == []
        await handle.terminate()
