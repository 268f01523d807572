"""Writes that count as done only when they are on disk, or at a replica."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aiki.errors import StoreRefused, StoreUnavailable
from aiki.store import Store
from aiki.store.connection import Address
from tests.support.replicated import Server, free_ports, kill, until
from tests.support.server import RedisServer
from tests.support.store import Scene
from tests.support.waiting import eventually


async def opened(url: str) -> Store:
    store = Store(Address(url), secrets.token_hex(6))
    try:
        await store.open()
    except BaseException:
        await store.close()
        raise
    return store


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    first, second = free_ports(2)
    primary = Server(tmp_path / "primary", first)
    follows = ("--replicaof", f"127.0.0.1 {first}")
    replica = Server(tmp_path / "replica", second, *follows)
    with ExitStack() as running:  # if the one cannot be stopped, the other still is
        running.callback(primary.stop)
        primary.start()
        primary.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        running.callback(replica.stop)
        replica.start()
        await asyncio.to_thread(until, replica.follows)
        yield primary, replica


async def test_a_write_is_done_when_a_replica_has_it(pair: tuple[Server, Server]) -> None:
    primary, replica = pair
    store = await opened(f"redis://127.0.0.1:{primary.port}?durability=replicated")
    assert "at a replica" in store.preflight.guarantee
    scene = Scene(store)
    run_id = await scene.start_run()
    assert replica.ask("EXISTS", f"{scene.base}run:{run_id}") == 1
    # None has it now, and whoever started it hears nothing.
    replica.ask("REPLICAOF", "NO", "ONE")
    await asyncio.to_thread(until, lambda: primary.replication()["connected_slaves"] == "0")
    starting = asyncio.create_task(scene.start_run())
    await eventually(lambda: "nobody confirms" in str(store.link.problem))
    assert not starting.done()
    replica.ask("REPLICAOF", "127.0.0.1", str(primary.port))
    other = await starting
    assert replica.ask("EXISTS", f"{scene.base}run:{other}") == 1
    await store.close()


async def test_what_nobody_confirms_in_time_may_or_may_not_have_been_done(
    pair: tuple[Server, Server],
) -> None:
    primary, replica = pair
    store = await opened(f"redis://127.0.0.1:{primary.port}?durability=replicated")
    kill(replica)
    with pytest.raises(StoreUnavailable, match="may or may not"):
        await store.link.send_within(("SET", Scene(store).base + "x", "1"), 1.5)
    await store.close()


async def test_a_write_is_done_when_it_is_on_disk(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendfsync", "everysec")
    server.start()
    try:
        plain = await opened(server.url)
        assert "a power cut may lose the last second" in plain.preflight.guarantee
        await plain.close()
        try:
            store = await opened(f"{server.url}?durability=fsync")
        except StoreRefused as error:
            if "unknown command" not in str(error):
                raise
            pytest.skip("a server before Redis 7.2 has no WAITAOF, and is refused")
        assert "on the disk" in store.preflight.guarantee
        scene = Scene(store)
        runs = await asyncio.gather(*(scene.start_run() for _ in range(100)))
        assert len(set(runs)) == 100
        assert await store.link.send(("WAITAOF", "1", "0", "1")) == [1, 0]
        await store.close()
    finally:
        server.stop()


async def test_a_server_without_a_log_cannot_promise_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendonly", "no")
    server.start()
    try:
        with pytest.raises(StoreRefused, match="cannot give durability=fsync"):
            await opened(f"{server.url}?durability=fsync")
    finally:
        server.stop()
