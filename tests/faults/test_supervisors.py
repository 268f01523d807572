"""Supervisors that end: killed, told to, told twice, together with what they have started."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from aiki.states import Status
from tests.faults.site import has_ended, kill, serving, site_at, stop
from tests.faults.workload import STEPS
from tests.support.embedded_users import servers

LEASE = ("--lease", "2500ms", "--heartbeat", "500ms")


async def test_a_killed_supervisor_leaves_no_orphan_and_its_runs_to_the_next(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path, embedded=True) as site:
        with site.supervised() as found:
            await found.serves()
            ended = await site.start_many(5)
            await site.complete(ended)
            waiting = await site.start("a", charge="gate:open")
            parked = await site.start("b", reserve="fail:well")
            await site.under_way(waiting, "charge")
            await site.comes_to_be(parked, Status.AWAITING_RETRY)
            workers = await found.has_workers(2)
            kill(found.pid)
            await found.says("the supervisor is gone")
            site.open("open")
            await has_ended(*workers)
            await found.leaves_nothing()
        queued = await site.start_many(5, "nobody serves")
        site.open("well")
        with site.supervised(name="next") as found:
            (story,) = await site.complete([waiting])
            assert story.starts["charge"] == story.ends["charge"] == 1
            await site.complete([parked, *queued, *ended])
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)
    assert servers(tmp_path) == []


async def test_a_drain_keeps_the_lease_until_a_long_step_is_recorded(tmp_path: Path) -> None:
    async with serving(tmp_path, *LEASE) as (site, found):
        in_thread = await site.start("a", validate="wait:open")
        on_loop = await site.start("b", charge="gate:open")
        await site.under_way(in_thread, "validate")
        await site.under_way(on_loop, "charge")
        with site.supervised(*LEASE, name="other") as other:
            await other.serves()
            begun = time.monotonic()
            found.send(signal.SIGTERM)
            await found.says("signal: drain")
            # Others would take the runs when their lease ran out: they do run meanwhile.
            while time.monotonic() < begun + 4.0:
                await site.is_alive(1)
            site.open("open")
            assert await found.ends() == 0
            stories = await site.complete([in_thread, on_loop])
            assert all(story.ends == story.starts for story in stories)
            assert [story.starts.total() for story in stories] == [5, 5]
            assert {story.epoch for story in stories} == {2}
            await found.leaves_nothing()
            await site.is_consistent(workers=2)
            await site.ends(other)


async def test_ctrl_c_in_the_terminal_ends_everything_and_the_server_last(tmp_path: Path) -> None:
    async with site_at(tmp_path, embedded=True) as site:
        with site.supervised() as found:
            await found.serves()
            handles = await site.start_many(10, charge="gate:open")
            for handle in handles:
                await site.under_way(handle, "charge")
            await site.client.aclose()  # so that the supervisor is the last user
            (server,) = servers(tmp_path)
            os.killpg(os.getpgid(found.pid), signal.SIGINT)
            await found.says("signal: drain")
            site.open("open")
            assert await found.ends() == 0
            await found.leaves_nothing()
            await has_ended(server)
            assert "WARNING" not in found.output().partition("signal: drain")[2]
        await site.client.connect()
        with site.supervised(name="next") as found:
            stories = await site.complete([site.handle(handle.id) for handle in handles])
            assert all(story.ends.total() == story.starts.total() == 5 for story in stories)
            await site.is_consistent(workers=2)
            await site.ends(found)


async def test_what_a_second_signal_or_the_grace_interrupts_is_charged_to_nobody(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        # A thread cannot be stopped, a loop that stands still does not hear.
        handles = [
            await site.start("thread", validate="wait:open"),
            await site.start("loop", charge="wait:open"),
            await site.start("parked", reserve="fail:well"),
        ]
        for name, signals, grace in (("impatient", 2, "60s"), ("late", 1, "300ms")):
            with site.supervised("--grace", grace, name=name) as found:
                await found.serves()
                await site.under_way(handles[0], "validate", 2 - (name == "impatient"))
                await site.under_way(handles[1], "charge", 2 - (name == "impatient"))
                for _ in range(signals):
                    found.send(signal.SIGTERM)
                    await found.says("signal: drain")
                assert await found.ends() == 0
                await found.leaves_nothing()
                await site.is_consistent(workers=0)
        site.open("open")
        with site.supervised(name="last") as found:
            # A failure that could not be recorded beside a loop that stood still comes again.
            await site.comes_to_be(handles[2], Status.AWAITING_RETRY)
            site.open("well")
            stories = await site.complete(handles)
            assert stories[0].starts["validate"] == 3
            assert stories[1].starts["charge"] == 3
            await site.is_consistent(workers=2)
            await site.ends(found)


async def test_a_supervisor_takes_the_runs_of_another_that_was_killed_with_its_workers(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        with site.supervised(*LEASE, name="killed") as killed:
            await killed.serves()
            handles = await site.start_many(20, charge="gate:open")
            for handle in handles:
                await site.under_way(handle, "charge")
            with site.supervised(*LEASE, name="other", workers=1) as other:
                await other.serves()
                # Stopped first, or it might give the runs of its first worker to the second one,
                # and they would have met two deaths.
                await stop(psutil.Process(killed.pid))
                lost = [process.pid for process in killed.workers()]
                begun = time.monotonic()
                kill(*lost, killed.pid)
                for handle in handles:
                    await site.under_way(handle, "charge", 2)
                taken = time.monotonic() - begun
                assert 1.0 < taken < 40.0
                site.open("open")
                stories = await site.complete(handles)
                assert all(story.starts["validate"] == 1 for story in stories)
                assert all(story.starts["charge"] == 2 for story in stories)
                await site.is_alive()
                await site.is_consistent(workers=1)
                assert "counted" not in other.output()
                await site.ends(other)
            await killed.leaves_nothing()


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_workers_that_are_replaced_again_and_again_do_each_step_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as (site, found):
        handles = await site.start_many(20, "before")

        async def bring_in() -> None:
            while True:
                handles.append(await site.start(f"n{len(handles)}", validate="nap"))
                await asyncio.sleep(0.02)

        traffic = asyncio.create_task(bring_in())
        for number in range(20):
            before = await found.has_workers(2)
            if number % 4:
                kill(before[number % 2].pid, number=signal.SIGTERM)
                await has_ended(before[number % 2], deadline=40)
            else:
                found.send(signal.SIGHUP)
                await has_ended(*before, deadline=40)
        traffic.cancel()
        stories = await site.complete(handles)
        assert len(stories) > 200
        assert all(story.ends == story.starts for story in stories)
        assert all(story.ends.total() == len(STEPS) for story in stories)
        await site.is_consistent(workers=2, tidy=True)
        await site.ends(found)
