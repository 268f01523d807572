"""Races inside one worker between what the store tells it and what it is about to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiki import Run, RunCancelled, task, workflow
from aiki.life import Life
from aiki.store import inbox
from aiki.store.runs import Runs
from aiki.store.workers import Workers
from tests.support.app import App
from tests.support.store import STREAM, Scene

endless = workflow("endless")


@task
async def wait() -> None:
    await asyncio.get_running_loop().create_future()


@endless.v("1.0.0")
async def endless_v1(run: Run) -> None:
    await wait.start(run)


async def test_a_cancel_that_overtakes_the_reply_of_the_claim_reaches_the_handler(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a claim that is done in the store, and whose reply is still on its way
    claim, on_notices = Runs.claim, Life._on_notices
    claimed, told, arrive = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def delayed(reply: asyncio.Future[Any]) -> Any:
        await asyncio.wait([reply])
        claimed.set()
        await arrive.wait()
        return await reply

    def delayed_claim(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(delayed(claim(*args, **kwargs)))

    def noted(self: Life, run_ids: list[str]) -> None:
        told.set()
        on_notices(self, run_ids)

    monkeypatch.setattr(Runs, "claim", delayed_claim)
    monkeypatch.setattr(Life, "_on_notices", noted)
    await app.serve(endless, heartbeat=0.05)
    handle = await endless_v1.start(app.client)
    await claimed.wait()
    # When a cancel comes, its notice too, and some beats that would confirm it
    await handle.cancel("no longer wanted")
    await told.wait()
    await asyncio.sleep(0.3)  # some beats, which take back what is confirmed
    arrive.set()
    # Then the handler hears of it, although it commits nothing that would tell
    with pytest.raises(RunCancelled, match="no longer wanted"):
        await handle.wait_for_completion(timeout=60)


async def test_a_worker_that_is_stopped_while_it_begins_a_new_life_leaves_no_lease(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that was given up, and is giving back what its old life held
    worker = await app.serve(endless, heartbeat=0.05, housekeeping=False)
    recover, register = Workers.recover, Workers.register
    dying, go_on = asyncio.Event(), asyncio.Event()

    async def slow_recover(*args: Any, **kwargs: Any) -> Any:
        dying.set()
        await go_on.wait()
        return await recover(*args, **kwargs)

    workers = app.client.store.workers
    await workers.recover(worker.incarnation, cause="a test")
    monkeypatch.setattr(Workers, "recover", slow_recover)
    await dying.wait()
    # When it is stopped at that moment
    stopping = asyncio.create_task(worker.stop(grace=1))
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    # Then it does not come to life again
    begun = asyncio.Event()

    async def noted_register(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        return await register(*args, **kwargs)

    monkeypatch.setattr(Workers, "register", noted_register)
    scene = Scene(app.client.store)
    assert await scene.members("workers") == []
    assert not begun.is_set()


async def test_an_inbox_that_hears_nothing_for_long_stays_connected(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PING_EVERY", 0.75)
    store = app.client.store
    heard = asyncio.Queue[bytes]()
    connections: list[None] = []
    channel = await store.inbox.subscribe("a", heard.put_nowait, lambda: connections.append(None))
    await asyncio.sleep(2.4)  # of silence
    await store.link.send(("PUBLISH", channel, "hello"))
    async with asyncio.timeout(30):
        assert await heard.get() == b"hello"
    assert connections == []


async def test_no_read_waits_at_the_server_for_longer_than_the_lease_of_its_worker(
    app: App,
) -> None:
    # Given a worker that reads, and is stopped until after its lease is over
    lease = 6.0
    store, scene = app.client.store, Scene(app.client.store)
    worker = await scene.register(STREAM)
    reader = store.workers.ready_reader(store.address, worker, lease=lease)
    begun = asyncio.get_running_loop().time()
    assert await reader.read([STREAM], 1) == []
    assert asyncio.get_running_loop().time() - begun < lease
    # Then what is offered next is not handed to it
    await scene.start_run()
    await scene.command("XGROUP", "DELCONSUMER", scene.base + STREAM, "workers", worker)
    (entry,) = await scene.deliver(await scene.register(STREAM))
    assert entry.stream == STREAM
    await reader.close()
