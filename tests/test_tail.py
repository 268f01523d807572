"""A server that went back in time: restored, cut off, or a replica that lagged."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aiki
from aiki import Run, task, workflow
from aiki.client import Client
from tests.support.server import RedisServer
from tests.support.waiting import eventually

executed: list[str] = []
gate = asyncio.Event()


@task
async def first(name: str) -> int:
    executed.append(f"first {name}")
    return executed.count(f"first {name}")


@task
async def second(name: str) -> int:
    executed.append(f"second {name}")
    await gate.wait()
    return executed.count(f"second {name}")


travels = workflow("travels")


@travels.v("1.0.0")
async def travel_v1(run: Run, name: str) -> list[int]:
    return [await first.start(run, name), await second.start(run, name)]


class Backup:
    """A server, and what it had at one time."""

    def __init__(self, directory: Path) -> None:
        self._home = directory / "home"
        self._home.mkdir()
        self._copy = directory / "copy"
        self.server = RedisServer(self._home)

    def take(self) -> None:
        """Copy what is on disk."""
        shutil.copytree(self._home / "appendonlydir", self._copy)

    def restore(self) -> None:
        """End the server, and start it with what it had."""
        self.server.kill()
        shutil.rmtree(self._home / "appendonlydir")
        shutil.copytree(self._copy, self._home / "appendonlydir")
        self.server.start()


@pytest.fixture
async def backup(tmp_path: Path) -> AsyncIterator[Backup]:
    found = Backup(tmp_path)
    found.server.start()
    executed.clear()
    gate.clear()
    yield found
    found.server.stop()


async def test_a_start_that_the_server_has_lost_is_told(
    backup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(backup.server.url) as client:
        kept = await travel_v1.start(client, "kept")
        backup.take()
        lost = [await travel_v1.start(client, f"lost {n}") for n in range(3)]
        backup.restore()
        await eventually(lambda: client.store.tail.affected)
        assert set(client.store.tail.affected) == {handle.id for handle in lost}
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert len(told) == 1
        assert "went back in time" in told[0]
        assert all(handle.id in told[0] for handle in lost)
        assert (await kept.status()).status is aiki.Status.QUEUED
        # It is told once.
        backup.server.kill()
        backup.server.start()
        await kept.status()
        assert len(client.store.tail.affected) == 3


async def test_a_run_whose_last_step_is_gone_goes_on_from_where_the_store_has_it(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.1)
    async with Client(backup.server.url) as client:
        worker = aiki.worker(client, id="traveller")
        worker.workflow_registry.add(travels)
        await worker.start()
        # What the backup has: the lease, and the run without any step.
        blocked = await travel_v1.start(client, "before")
        await eventually(lambda: "second before" in executed)
        backup.take()
        handle = await travel_v1.start(client, "after")
        await eventually(lambda: "second after" in executed)
        backup.restore()
        await eventually(lambda: client.store.tail.affected)
        gate.set()
        assert await blocked.wait_for_completion(timeout=60) == [1, 1]
        assert handle.id in client.store.tail.affected
        assert blocked.id not in client.store.tail.affected
        await worker.stop()


async def test_no_later_step_is_recorded_beside_a_gap(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.presence.ORPHANS_EVERY", 0.1)
    recorded = asyncio.Event()
    async with Client(backup.server.url) as client:
        # The first step's record is what the backup is taken before.
        commit = client.store.runs.commit_step

        async def hold(owner: object, key: str, entry: bytes) -> int | bytes:
            if not recorded.is_set():
                recorded.set()
                backup.take()
            return await commit(owner, key, entry)  # type: ignore[arg-type]  # passed on

        monkeypatch.setattr(client.store.runs, "commit_step", hold)
        worker = aiki.worker(client, id="traveller")
        worker.workflow_registry.add(travels)
        await worker.start()
        handle = await travel_v1.start(client, "gap")
        await eventually(lambda: "second gap" in executed)
        backup.restore()
        await eventually(lambda: client.store.tail.affected == [handle.id])
        gate.set()
        # Both steps again: the second one's result of the first life is nobody's.
        assert await handle.wait_for_completion(timeout=60) == [2, 2]
        assert [step.result for step in await handle.journal()] == [2, 2]
        await worker.stop()
