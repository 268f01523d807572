"""Runs that sleep and exchange messages, whose workers are killed and whose replies are lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.handle import Handle
from aiki.states import Status
from tests.faults.ledger import VARIABLE
from tests.faults.site import Site, serving
from tests.faults.test_deaths import one_has_ended
from tests.faults.traps import lay_losses
from tests.faults.workload import errand_v1, letter
from tests.support.waiting import eventually

# Longer than any wait, so that nothing here is owed to a lease that has run out.
LEASE = ("--lease", "600s")
POINTS = ("after-open_wait", "before-end_wait", "after-consume_message", "after-post")
MORE_POINTS = ("before-open_wait", "after-end_wait", "before-consume_message", "before-post")
SENT_BY_WORKERS = (
    "open_wait",
    "end_wait",
    "post_message",
    "read_news",
    "consume_message",
    "park_run",
)


async def errand(site: Site, name: str) -> Handle[list[str]]:
    """Start one, and write to it what it waits for."""
    handle = await errand_v1.start(site.client, name)
    await answered(handle, name)
    return handle


async def answered(handle: Handle[list[str]], name: str) -> None:
    """Write to one twice with one key when it waits for that."""

    async def has_asked() -> bool:
        journal = await handle.journal()
        waiting = [step.outcome for step in journal if step.task == "event/letter"]
        return len(waiting) == 3

    await eventually(has_asked, 60, f"the last wait of {name}")
    for _ in range(2):
        await letter.send(handle, f"answer to {name}", idempotency_key="the answer")


async def check(site: Site, handle: Handle[list[str]], name: str) -> None:
    result = await handle.wait_for_completion(60)
    assert result == [f"to {name}", "aiki.TIMEOUT", "True", f"answer to {name}"]
    effects = [effect.phase for effect in site.effects(handle.id)]
    assert effects == ["start", "end"]
    key = f"aiki:default:{{0}}:run:{handle.id}"
    link = site.client.store.link
    assert await link.send(("HLEN", f"{key}:mailbox")) == 0
    assert await link.send(("HMGET", key, "unread", "news")) == [b"0", b"2"]


@pytest.mark.parametrize("points", [POINTS, pytest.param(MORE_POINTS, marks=pytest.mark.slow)])
async def test_a_worker_killed_at_a_wait_costs_nothing(
    tmp_path: Path, points: tuple[str, ...]
) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        for point in points:
            workers = await found.has_workers(2)
            site.traps.set(point)
            handle = await errand(site, point)
            await check(site, handle, point)
            await one_has_ended(workers)
        await site.is_consistent(workers=2)
        await site.ends(found)


async def test_a_lost_reply_of_any_script_of_waits_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, "--lease", "60s", workers=1) as (site, found):
        site.traps.set(*(f"lose-{script}" for script in SENT_BY_WORKERS))
        await check(site, await errand(site, "plain"), "plain")
        monkeypatch.setenv(VARIABLE, str(site.ledger))
        lay_losses(monkeypatch.setattr)
        # What a client sends
        handle = await errand_v1.start(site.client, "woken")
        await eventually(lambda: is_asleep(handle), what="its sleep")
        site.traps.set("lose-wake_up", "lose-post_message")
        await handle.wake_up()
        await eventually(lambda: is_woken(handle), what="an early end")
        await answered(handle, "woken")
        result = await handle.wait_for_completion(60)
        assert result == ["to woken", "aiki.TIMEOUT", "False", "answer to woken"]
        await site.is_consistent(workers=1)
        await site.ends(found)


async def is_asleep(handle: Handle[list[str]]) -> bool:
    return (await handle.status()).status is Status.SLEEPING


async def is_woken(handle: Handle[list[str]]) -> bool:
    return any(
        step.result is True for step in await handle.journal() if step.task.startswith("sleep/")
    )
