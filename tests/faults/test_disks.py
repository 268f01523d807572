"""What the server keeps on its disk: no room for it, the end of it lost, the middle of it damaged.

A full disk is a real one: a file system of some megabytes in memory. Where none may be mounted,
these tests are skipped.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aiki import NotFound, StoreUnavailable
from aiki.supervisor.exits import Exit
from aiki.valkey_server import ServerProcess
from tests.faults.site import Site, has_ended, kill, site_at
from tests.faults.traffic import Traffic, at_rest
from tests.faults.workload import Order, order_v1
from tests.support.waiting import eventually


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2


def server_of(site: Site) -> int:
    """Give the process of the embedded server."""
    server = ServerProcess.read(site.directory / "data")
    assert server is not None
    return server.pid


@pytest.mark.slow
async def test_a_full_disk_stops_starts_with_a_typed_refusal_and_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    """Checks I1 to I4, I13 and I16, with the file written every second: `MISCONF`."""
    options = ("--appendfsync", "everysec", "--dir", str(small_disk))
    async with (
        site_at(tmp_path, *options) as site,
        site.admin() as admin,
        site.make_client(start_timeout=3.0) as hasty,
    ):
        with site.supervised() as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            fill(small_disk)

            async def is_full() -> bool:
                info = await admin.info("persistence")
                return str(info["aof_last_write_status"]) != "ok"

            await eventually(is_full, what="a full disk")
            with pytest.raises(StoreUnavailable, match=r"MISCONF.*No space left"):
                await order_v1.start(hasty, Order("nobody knows"))
            async with at_rest(found):
                await asyncio.sleep(3.0)  # the fault
            (small_disk / "filler").unlink()
            await traffic.flows()
            site.server.kill()  # what was acknowledged is in the file
            site.server.start()
            await traffic.end(strangers=1)


@pytest.mark.slow
async def test_an_embedded_server_that_a_full_disk_has_ended_is_started_again_in_no_hurry(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checks I1 to I4, I13 and I16, with each write on the disk before it is acknowledged."""
    (tmp_path / "data").symlink_to(small_disk)
    async with site_at(tmp_path, embedded=True) as site:
        with site.supervised() as found:
            await found.serves()
            traffic = Traffic(site, found)
            await traffic.begin()
            before = server_of(site)
            fill(small_disk)
            await eventually(lambda: not psutil.pid_exists(before), what="the end of the server")
            await found.says("The disk of .* is full")
            async with at_rest(found):
                await asyncio.sleep(5.0)  # the fault
            assert caplog.text.count("has died") <= 6
            (small_disk / "filler").unlink()
            await traffic.flows(within=60)
            assert server_of(site) != before
            await traffic.end()


async def test_an_embedded_server_that_is_killed_is_started_again_by_its_users(
    tmp_path: Path,
) -> None:
    """Checks I1 to I5 and I13: no worker and no supervisor has to be restarted."""
    async with site_at(tmp_path, embedded=True) as site:
        with site.supervised() as found:
            await found.serves()
            handles = await site.start_many(5, charge="gate:over")
            for handle in handles:
                await site.under_way(handle, "charge")
            workers = found.workers()
            begun = time.monotonic()
            before = server_of(site)
            kill(before)
            await site.is_alive(1)
            assert time.monotonic() - begun < 25.0
            assert server_of(site) != before
            site.open("over")
            stories = await site.complete(handles)
            assert [story for story in stories if not story.is_undisturbed()] == []
            assert found.workers() == workers
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.slow
async def test_damaged_data_of_a_server_that_was_killed_is_refused_and_never_replaced(
    tmp_path: Path,
) -> None:
    """Checks I16: path and advice are told, and no empty server comes in its place."""
    async with site_at(tmp_path, embedded=True) as site:
        with site.supervised() as found:
            await found.serves()
            await site.complete(await site.start_many(5))
            data = next((tmp_path / "data" / "appendonlydir").glob("*.incr.aof"))
            content = bytearray(data.read_bytes())
            content[len(content) // 2 : len(content) // 2 + 40] = b"X" * 40
            data.write_bytes(content)
            kill(server_of(site))
            await found.says(f"(?s){data.parent}.*valkey-check-aof")
            found.send(signal.SIGTERM)
            assert await found.ends() == Exit.ENDED
            assert data.read_bytes() == content
        with site.supervised(name="next") as found:
            assert await found.ends() == Exit.STORE
            await found.says("no empty store takes its place")
        assert data.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0.1, 0.4, 0.8])
async def test_what_a_power_cut_has_left_is_a_beginning_of_what_was(
    tmp_path: Path, lost: float
) -> None:
    """Checks I1, I2, I4 and I5: runs go on from where the file ends, or were never started."""
    async with site_at(tmp_path, "--appendfsync", "everysec") as site:
        with site.supervised() as found:
            await found.serves()
            file = next((tmp_path / "server" / "appendonlydir").glob("*.incr.aof"))
            first = file.stat().st_size
            handles = [await site.start("first", charge="nap", ship="nap")]
            least = file.stat().st_size  # with the first of them, or there is none left to look at
            handles += await site.start_many(19, charge="nap", ship="nap")
            most = file.stat().st_size  # without those that follow, where something is to be gone
            parked = await site.start_many(5, "parked", reserve="fail:over")
            await site.complete(handles[:10])
            everything = [*found.workers(), psutil.Process(found.pid)]
            kill(*(process.pid for process in everything))
            site.server.kill()
        await has_ended(*everything)
        size = file.stat().st_size
        with file.open("rb+") as aof:
            left = max(least, size - round(lost * (size - first)))
            aof.truncate(min(left, most) if lost > 0.5 else left)
        site.server.start()
        site.open("over")
        with site.supervised(name="next") as found:
            await found.serves()
            gone = 0
            for handle in (*handles, *parked):
                try:
                    receipt = await handle.wait_for_completion(timeout=60)
                except NotFound:
                    gone += 1
                    continue
                assert await handle.wait_for_completion(timeout=0) == receipt
                done = [each for each in site.effects(handle.id) if each.phase == "end"]
                assert set(receipt.executions.values()) <= {each.execution for each in done}
                recorded = {step.task: step.result for step in await handle.journal()}
                assert recorded == receipt.executions
            assert gone < 25
            assert gone > 0 or lost < 0.5
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)
