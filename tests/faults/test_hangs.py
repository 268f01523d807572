"""Steps that stop the loop they run on, never end, or use up the memory."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from aiki.states import Status
from tests.faults.site import has_ended, serving
from tests.support.waiting import eventually

LEASE = ("--lease", "2s", "--heartbeat", "400ms")


@pytest.mark.parametrize("how", ["spin:open", pytest.param("sleep", marks=pytest.mark.slow)])
async def test_a_loop_that_stands_still_is_reported_and_replaced_after_the_hang_time_out(
    tmp_path: Path, how: str
) -> None:
    async with serving(tmp_path, *LEASE, "--hang-timeout", "6s") as (site, found):
        handle = await site.start("a", charge=how)
        (victim,) = await site.under_way(handle, "charge")
        process = psutil.Process(victim)
        (begun,) = (e.at / 1e9 for e in site.effects(handle.id) if e.task == "charge")
        beside = await site.start_many(10, "beside")
        # For two leases and more, the beat's own thread keeps the run where it is.
        while True:
            is_there, owners = process.is_running(), await site.under_way(handle, "charge")
            if time.monotonic() > begun + 4.5:
                break  # when that was seen is not sure
            assert is_there
            assert owners == [victim]
            await asyncio.sleep(0.1)
        await found.says(rf"pid {victim}\) is ended: its loop has stood still for")
        await found.says("in _step")
        await has_ended(process)
        await site.under_way(handle, "charge", 2)
        if how == "sleep":  # for ever: a person has to end it, wherever it is then
            assert await handle.cancel("it never ends") in (Status.RUNNING, Status.QUEUED)
            await site.comes_to_be(handle, Status.CANCELLED)
        else:
            site.open("open")
            await site.complete([handle])
        await site.complete(beside)
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


async def test_a_step_that_sleeps_for_ever_on_its_loop_costs_one_worker_after_the_other(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--hang-timeout", "1s") as (site, found):
        handle = await site.start("a", charge="sleep")
        victims = await site.under_way(handle, "charge", 2)
        assert len({*victims}) == 2, "on another worker"
        await found.says(rf"pid {victims[0]}\) is ended: its loop has stood still for")
        await found.says("in _step")
        await handle.cancel("it never ends")  # a person has to, wherever it is then
        await site.comes_to_be(handle, Status.CANCELLED)
        await site.complete(await site.start_many(5, "afterwards"))
        await site.ends(found)


async def test_a_thread_that_never_ends_holds_up_its_own_run_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, *LEASE, "--grace", "500ms") as (site, found):
        spinning = await site.start("a", validate="spin:never")
        sleeping = await site.start("b", validate="sleep")
        for handle in (spinning, sleeping):
            await site.under_way(handle, "validate")
        await site.is_alive()
        for handle in (spinning, sleeping):
            await handle.cancel("it never ends")
            await site.comes_to_be(handle, Status.CANCELLED)
            assert [effect.phase for effect in site.effects(handle.id)][:1] == ["start"]
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)


def is_reaped(pid: int) -> bool:
    return not psutil.pid_exists(pid)


async def test_a_step_that_eats_all_memory_costs_others_nothing_but_a_move(tmp_path: Path) -> None:
    limits = ("--max-memory", "200MiB", "--grace", "500ms")
    async with serving(tmp_path, *limits) as (site, found):
        beside = await site.start_many(5, "beside", charge="gate:open")
        for handle in beside:
            await site.under_way(handle, "charge")
        hungry = await site.start("hungry", validate="eat:never")
        (victim,) = await site.under_way(hungry, "validate")
        await found.says(rf"pid {victim}\) is to be replaced: it uses ")
        await site.under_way(hungry, "validate", 2)
        await has_ended(psutil.Process(victim)) if psutil.pid_exists(victim) else None
        assert (await hungry.status()).status in (Status.RUNNING, Status.QUEUED)
        site.open("open")
        await site.complete(beside)
        await hungry.cancel("it eats too much")
        await site.comes_to_be(hungry, Status.CANCELLED)
        # Whoever it has been at is replaced, and hands on what it has of others.
        for pid in await site.under_way(hungry, "validate"):
            await eventually(partial(is_reaped, pid), 60.0, "its end")
        await site.is_alive()
        await site.is_consistent(workers=2)
        await site.ends(found)
