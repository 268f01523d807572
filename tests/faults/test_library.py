"""Workers of the library, in processes of their own, with no supervisor anywhere."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.site import Site, kill, site_at, stop
from tests.support.supervised import Supervised

LEASE = 2.5


def worker(site: Site, name: str) -> Supervised:
    """Prepare a process with a library worker."""
    home = site.directory / name
    home.mkdir()
    command = ("-m", "tests.faults.unsupervised", site.server.url, str(LEASE))
    found = Supervised(home, command=command)
    found.ledger = site.ledger
    return found


async def test_the_runs_of_a_killed_library_worker_are_taken_over_when_its_lease_is_over(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        with worker(site, "one") as one:
            await one.says("serving")
            handles = await site.start_many(10, charge="gate:open")
            for handle in handles:
                await site.under_way(handle, "charge")
            with worker(site, "two") as two:
                await two.says("serving")
                begun = time.monotonic()
                kill(one.pid)
                assert await one.ends() == -signal.SIGKILL
                for handle in handles:
                    pids = await site.under_way(handle, "charge", 2)
                    assert pids == [one.pid, two.pid]
                assert 1.0 < time.monotonic() - begun < 40.0
                site.open("open")
                stories = await site.complete(handles)
                assert all(story.starts["validate"] == 1 for story in stories)
                await site.is_alive()
                await site.is_consistent(workers=1)
                two.send(signal.SIGTERM)
                assert await two.ends() == 0
        await site.is_consistent(workers=0)


@pytest.mark.slow
async def test_a_library_worker_that_was_stopped_for_long_lives_again(tmp_path: Path) -> None:
    async with site_at(tmp_path) as site:
        with worker(site, "one") as one, worker(site, "two") as two:
            await one.says("serving")
            await two.says("serving")
            handle = await site.start("a", charge="gate:open")
            (pid,) = await site.under_way(handle, "charge")
            sleeper = one if one.pid == pid else two
            await stop(psutil.Process(pid))
            await site.under_way(handle, "charge", 2)
            kill(pid, number=signal.SIGCONT)
            await sleeper.says("lost its lease")
            site.open("open")
            await site.complete([handle])
            await site.is_alive()
            await site.is_consistent(workers=2)
            for found in (one, two):
                found.send(signal.SIGTERM)
                assert await found.ends() == 0
        await site.is_consistent(workers=0)
