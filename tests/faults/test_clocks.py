"""Clocks that are wrong, or are set while everything runs.

They are those of `libfaketime` (on Debian, the package of that name); without it these are skipped.
"""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from aiki.states import Status
from tests.faults.site import site_at
from tests.faults.traffic import Traffic
from tests.faults.workload import errand_v1, letter
from tests.support.app import becomes
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed"),
]


class Clock:
    """A clock that processes read instead of the machine's, and a test sets."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        self.environ = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """Set it to so much after the machine's."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+g}\n")
        new.replace(self._file)


@pytest.mark.parametrize("off", [3600.0, -3600.0, None])
async def test_clocks_of_workers_and_supervisors_decide_nothing(
    tmp_path: Path, off: float | None
) -> None:
    """Checks I1 to I5 and I7: an hour fast, an hour slow, and jumping to and fro."""
    clock = Clock(tmp_path)
    clock.set(off or 0.0)
    async with site_at(tmp_path) as site:
        with site.supervised(environ=clock.environ) as found:
            await found.serves()
            traffic = Traffic(site, found, pace=0.1)
            await traffic.begin()
            begun = time.monotonic()
            errand = await errand_v1.start(site.client, "me")
            site.started.add(errand.id)
            for number in range(1 if off else 10):
                if off is None:
                    clock.set((-1) ** number * 3600.0)
                await asyncio.sleep(0.3)
            assert abs(await _says(found) - time.time() - (off or -3600.0)) < 60
            await becomes(errand, Status.AWAITING_EVENT, 30.0)
            assert 1.2 <= time.monotonic() - begun < 45.0
            await letter.send(site.client, errand.id, "an answer")
            assert (await errand.wait_for_completion(timeout=60))[2] == "True"
            clock.set(off or 0.0)
            await traffic.end()


async def _says(found: Supervised) -> float:
    """Tell what time the supervisor takes it for."""
    found.send(signal.SIGUSR1)
    line = await found.says("^.* report: ")
    return datetime.fromisoformat(line[0].split()[0]).timestamp()


@pytest.mark.parametrize("jump", [60.0, -60.0])
async def test_a_server_whose_clock_is_set_keeps_every_lease_and_timer(
    tmp_path: Path, jump: float
) -> None:
    """Checks I1 to I5, I7 (early by the jump at most, and never lost) and I13."""
    clock = Clock(tmp_path)
    async with site_at(tmp_path, environ=clock.environ) as site, site.admin() as admin:
        with site.supervised("--lease", "5s", "--heartbeat", "500ms") as found:
            await found.serves()
            traffic = Traffic(site, found, pace=0.1)
            await traffic.begin()
            errand = await errand_v1.start(site.client, "me")
            site.started.add(errand.id)
            await eventually(errand.journal, what="the errand under way")
            clock.set(jump)
            seconds, _ = await admin.time()
            assert abs(seconds - time.time() - jump) < 5
            await asyncio.sleep(8.0)  # the fault: longer than a lease
            await traffic.flows()
            clock.set(0.0)
            await asyncio.sleep(8.0)
            await becomes(errand, Status.AWAITING_EVENT, 30.0)
            await letter.send(site.client, errand.id, "an answer")
            await errand.wait_for_completion(timeout=60)
            await traffic.end()
