"""Housekeeping as it runs: again and again, beside a library worker and in a supervisor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import pytest

from aiki import Run, workflow
from aiki.housekeeping import Housekeeping
from aiki.states import Status
from aiki.supervisor.duties import Duties
from aiki.supervisor.settings import Settings
from tests.support.app import App
from tests.support.audit import audit
from tests.support.store import STREAM, WORKFLOW, Scene
from tests.support.waiting import eventually

pytestmark = pytest.mark.plain_only("no run is executed here")

LEASE = 0.6
BEAT = 0.1
SOON = 0.05
DAY = 86400.0
# How many days who keeps house keeps finished runs: one is told, the other does as is usual.
KEEPS = {"a library worker": 7, "a supervisor": 3}
# And for how many hours what nobody serves may wait.
PATIENCE = {"a library worker": 24, "a supervisor": 3}

# What the housekeeper executes itself: nothing that is in trouble here.
idle = workflow("idle")


@idle.v("1.0.0")
async def idle_v1(run: Run) -> str:
    return run.id


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after everything all the time, and at all keys of the shared server at once."""
    for name in ("IDLE_EVERY", "RETENTION_EVERY", "SWEEP_EVERY"):
        monkeypatch.setattr(f"aiki.housekeeping.{name}", SOON)
    monkeypatch.setattr("aiki.store.timers.SWEEP_EVERY", SOON)
    monkeypatch.setattr("aiki.store.timers.SWEEP_KEYS", 100_000)


@pytest.fixture
def scene(app: App) -> Scene:
    """Give the store of the application."""
    return Scene(app.client.store)


@asynccontextmanager
async def kept_by(app: App, housekeeper: str) -> AsyncGenerator[None]:
    """Have a library worker keep house, or a supervisor, in this process."""
    if housekeeper == "a library worker":
        worker = await app.serve(idle_v1, lease=LEASE, heartbeat=BEAT)
        try:
            yield
        finally:
            await app.end(worker)
        return
    retention = KEEPS[housekeeper] * DAY
    settings = Settings(
        redis=app.url,
        namespace=app.namespace,
        lease=LEASE,
        heartbeat=BEAT,
        retention=retention,
        unserved_after=PATIENCE[housekeeper] * 3600,
    )
    duties = Duties(settings, on_quarantine=lambda _: None, on_replaced=lambda _: None)
    await duties.open()
    attending = asyncio.create_task(duties.attend())
    try:
        yield
    finally:
        attending.cancel()
        await asyncio.wait([attending])
        await duties.close()


@dataclass(frozen=True)
class Trouble:
    """Two runs that need somebody who keeps house."""

    lost: str
    """The one that is queued and whose ready entry is gone."""
    entries: dict[str, str]
    """The ready entries that they had. The other one's was read by a worker that never claimed."""

    @classmethod
    async def made(cls, scene: Scene) -> Self:
        """Have two such runs."""
        unclaimed = await scene.start_run()
        read = await scene.deliver_one(await scene.register())
        assert read.run_id == unclaimed
        lost = await scene.start_run()
        entry = (await scene.record(lost))["entry"]
        assert await scene.command("XDEL", scene.base + STREAM, entry) == 1
        return cls(lost, {unclaimed: read.entry, lost: entry})

    async def is_over(self, scene: Scene) -> None:
        """Wait until any worker would be given both runs."""
        for run_id, old in self.entries.items():

            async def is_offered(run_id: str = run_id, old: str = old) -> bool:
                entry = (await scene.record(run_id))["entry"]
                stream = scene.base + STREAM
                there = await scene.command("XRANGE", stream, entry, entry)
                pending = await scene.command("XPENDING", stream, "workers", entry, entry, "1")
                return entry != old and bool(there) and not pending

            await eventually(is_offered, what=f"{run_id} is offered again")
            await scene.cancel(run_id)


async def finished(scene: Scene, days_ago: float) -> str:
    """Have a run that ended so long ago."""
    owner = await scene.running()
    await scene.finish(owner)
    index = f"{scene.base}index:completed/{WORKFLOW}"
    ended = round((time.time() - days_ago * DAY) * 1000)
    assert await scene.command("ZADD", index, "XX", "CH", ended, owner.run_id) == 1
    return owner.run_id


async def is_removed(scene: Scene, run_id: str) -> None:
    async def is_gone() -> bool:
        return not await scene.record(run_id)

    await eventually(is_gone, what=f"the removal of {run_id}")


@pytest.mark.parametrize("housekeeper", KEEPS)
async def test_who_keeps_house_offers_again_what_was_lost_and_removes_what_is_over(
    app: App, scene: Scene, housekeeper: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeps = KEEPS[housekeeper]
    recent = await finished(scene, days_ago=keeps - 0.1)
    async with kept_by(app, housekeeper):
        # The second time shows that it is not only looked at when the housekeeper begins.
        for _ in range(2):
            overdue = await finished(scene, days_ago=keeps + 0.1)
            trouble = await Trouble.made(scene)
            await trouble.is_over(scene)
            await is_removed(scene, overdue)
            mended = f"the sweep mended run {trouble.lost}: it was queued without a ready entry"
            assert mended in caplog.text
    assert await scene.status(recent) is Status.COMPLETED
    assert "1 ready entries were delivered and not claimed" in caplog.text
    await audit(scene)


async def test_a_library_worker_leaves_removal_to_a_supervisor_where_there_is_one(
    app: App, scene: Scene
) -> None:
    supervisor = "a supervisor's id"
    await scene.store.workers.beat_supervisor(supervisor, 600.0)
    overdue = await finished(scene, days_ago=400)
    async with kept_by(app, "a library worker"):
        for _ in range(2):
            await (await Trouble.made(scene)).is_over(scene)  # it keeps house otherwise
        assert await scene.status(overdue) is Status.COMPLETED
        await scene.store.workers.remove_supervisor(supervisor)
        await is_removed(scene, overdue)


@pytest.mark.parametrize("housekeeper", PATIENCE)
async def test_who_keeps_house_holds_what_nobody_has_served_for_long(
    app: App, scene: Scene, housekeeper: str, caplog: pytest.LogCaptureFixture
) -> None:
    hours = PATIENCE[housekeeper]
    unserved = await scene.queued_long_ago(hours + 1)
    await scene.start_run()
    now = (await scene.record(unserved))["since"]
    now_ms = int(now) + (hours + 1) * 3_600_000
    seen = f"{now_ms - round(1.01 * hours * 3_600_000)} {now_ms}"
    await scene.command("HSET", scene.base + "unserved", STREAM, seen)
    async with kept_by(app, housekeeper):

        async def is_held() -> bool:
            return await scene.status(unserved) is Status.STALLED

        await eventually(is_held, what="the run is held")
    assert f"For {hours} h no worker" in (await scene.record(unserved))["reason"]
    assert f"run {unserved} is held: nobody has served its version for long" in caplog.text
    await audit(scene)


async def test_a_hint_that_comes_as_soon_as_somebody_listens_is_heard(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = scene.store.inbox
    subscribe = inbox.subscribe

    async def subscribe_and_hear(channel: str, handler: Callable[[bytes], None], *rest: Any) -> str:
        name = await subscribe(channel, handler, *rest)
        handler(b"0")
        return name

    monkeypatch.setattr(inbox, "subscribe", subscribe_and_hear)
    keeping = asyncio.create_task(Housekeeping(scene.store, lease=LEASE).run())

    async def has_begun() -> bool:
        return keeping.done() or "pulse" in await scene.keys()

    await eventually(has_begun)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert keeping.cancelled()
