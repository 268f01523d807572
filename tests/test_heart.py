"""The beat as the heartbeat's thread sends it: blocking, on a connection of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiki.errors import StoreRefused
from aiki.store import Store, connection
from aiki.store.connection import Address
from aiki.store.workers import Heart
from tests.support.server import RedisServer
from tests.support.store import LEASE, Scene


@pytest.fixture
async def heart(scene: Scene) -> AsyncIterator[tuple[Heart, str]]:
    """Register a worker and make its heart."""
    worker = await scene.register()
    made = scene.store.workers.heart(worker, LEASE, scene.store.address)
    yield made, worker
    made.close()


async def test_a_heart_beats_and_brings_what_the_worker_should_look_at(
    scene: Scene, heart: tuple[Heart, str]
) -> None:
    made, worker = heart
    assert await asyncio.to_thread(made.beat, []) == ("OK", [])
    owner = await scene.running(worker)
    await scene.cancel(owner.run_id)
    assert await asyncio.to_thread(made.beat, []) == ("OK", [owner.run_id])
    assert await asyncio.to_thread(made.beat, [owner.run_id]) == ("OK", [])


async def test_a_heart_does_not_notice_that_scripts_were_flushed(
    scene: Scene, heart: tuple[Heart, str]
) -> None:
    made, _ = heart
    for _ in range(2):
        await scene.command("SCRIPT", "FLUSH")
        assert await asyncio.to_thread(made.beat, []) == ("OK", [])


async def test_a_heart_is_told_when_its_worker_is_given_up_or_the_store_another(
    scene: Scene, heart: tuple[Heart, str]
) -> None:
    made, worker = heart
    await scene.kill(worker)
    assert await asyncio.to_thread(made.beat, []) == ("DEAD", [])
    await scene.command("DEL", scene.base + "meta")
    assert await asyncio.to_thread(made.beat, []) == ("STORE", [])


async def test_a_heart_whose_server_stands_still_or_is_gone_fails_in_time_and_beats_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    store = Store(Address(server.url), "own")
    await store.open()
    worker = await Scene(store).register()
    made = store.workers.heart(worker, LEASE, store.address)
    with monkeypatch.context() as hurried:  # for the connection that is made with the first beat
        hurried.setattr(connection, "CONNECT_TIMEOUT", 1.5)
        assert (await asyncio.to_thread(made.beat, []))[0] == "OK"

    server.signal(signal.SIGSTOP)
    with pytest.raises(StoreRefused):
        await asyncio.to_thread(made.beat, [])
    server.signal(signal.SIGCONT)
    assert (await asyncio.to_thread(made.beat, []))[0] == "OK"

    server.kill()
    with pytest.raises(StoreRefused):
        await asyncio.to_thread(made.beat, [])
    server.start()
    assert (await asyncio.to_thread(made.beat, []))[0] == "OK", "its lease is on disk"
    made.close()
    await store.close()
    server.stop()
