"""Workers that are cut off for longer than their lease, and do not know that they were given up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiki import Run, current_step, fixed, task, workflow
from aiki.errors import StoreRefused
from aiki.store.workers import Heart
from tests.support.app import App
from tests.support.store import Scene
from tests.support.waiting import eventually

LEASE = 1.2
DELAY = 2.5  # of the second attempt: longer than a lease
attempts: list[int] = []


@task(retry=fixed(max_attempts=2, delay=DELAY))
async def fail_once() -> int:
    attempt = current_step().attempt
    attempts.append(attempt)
    if attempt == 1:
        raise RuntimeError("as it was told")
    return attempt


retrying = workflow("retrying")


@retrying.v("1.0.0")
async def retrying_v1(run: Run) -> int:
    return await fail_once.start(run)


@pytest.mark.plain_only("a worker that always suspends waits for no second attempt")
async def test_a_worker_whose_lease_may_be_gone_begins_no_step_until_it_knows(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that waits for the time of a second attempt, and is cut off
    attempts.clear()
    beat = Heart.beat

    def cut_off(*_args: Any) -> Any:
        raise StoreRefused("cut off")

    worker = await app.serve(
        retrying, lease=LEASE, heartbeat=0.2, housekeeping=False, inline_wait=60
    )
    handle = await retrying_v1.start(app.client)
    store = app.client.partitions.of(handle.id)
    lives = worker.incarnations
    incarnation = lives[store.number]
    await eventually(lambda: attempts == [1], what="the first attempt")
    worker.pause()  # or its next claim would tell
    monkeypatch.setattr(Heart, "beat", cut_off)
    # When it is given up, and the time of the attempt comes
    await asyncio.sleep(LEASE)
    scene = Scene(store)
    await scene.kill(incarnation, counted=False)
    other = await scene.register("ready:retrying/1.0.0/default")
    entry = await scene.deliver_one(other, "ready:retrying/1.0.0/default")
    await scene.claim(entry, other)
    await asyncio.sleep(DELAY)
    # Then it has left the attempt to whoever has the run now, and serves again when it can beat
    assert attempts == [1]
    monkeypatch.setattr(Heart, "beat", beat)
    worker.unpause()
    await eventually(lambda: {*worker.incarnations} - {"", *lives} != set(), what="another life")
    await scene.kill(other, counted=False)
    assert await handle.wait_for_completion(timeout=60) == 2
    assert attempts == [1, 2]
