"""Workers that the kernel kills for want of memory: a real one, in a group that has little of it.

Where no such group can be made, these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.supervisor.shortage import Shortage, counter
from tests.faults.cgroup import group_of
from tests.faults.site import has_ended, kill, site_at
from tests.faults.test_deaths import LEASE, poisoned

# Room for a supervisor, two workers and another one that is being born, at about 60 MiB each.
ROOM = 512 * 2**20


# The kernel writes a page about each such death to its console, where others may wait for it.
@pytest.mark.slow
async def test_a_worker_that_the_kernel_kills_costs_one_step_and_is_said_to_have_lacked_memory(
    tmp_path: Path,
) -> None:
    with group_of(ROOM) as group:
        async with site_at(tmp_path) as site:
            with site.supervised(*LEASE) as found:
                group.take(found.pid)
                await found.serves()
                beside = await site.start_many(8, "beside", charge="gate:well")
                for handle in beside:
                    await site.under_way(handle, "charge")
                site.traps.set("gorge")
                hungry = await site.start("hungry", charge="gorge:never")
                (victim, *_) = await site.under_way(hungry, "charge")
                await found.says(rf"pid {victim}\) was killed by the kernel for want of memory; it")
                assert group.kills() == 1
                site.open("well")
                for handle in (hungry, *beside):
                    begun = await site.under_way(handle, "charge")
                    (story,) = await site.complete([handle])
                    assert story.ends.total() == 5
                    assert story.starts["charge"] == (2 if begun[0] == victim else 1)
                    assert story.starts.total() - story.starts["charge"] == 4
                # A signal of somebody's is told from that.
                (killed, _) = await found.has_workers(2)
                kill(killed.pid)
                await has_ended(killed)
                await found.says(rf"pid {killed.pid}\) was killed by SIGKILL, by hand or ")
                assert group.kills() == 1
                await found.has_workers(2)
                await site.is_alive()
                await site.is_consistent(workers=2)
                await site.ends(found)


@pytest.mark.slow
async def test_a_run_that_eats_all_memory_each_time_stalls_and_the_others_complete(
    tmp_path: Path,
) -> None:
    with group_of(ROOM) as group:
        async with site_at(tmp_path) as site:
            with site.supervised(*LEASE) as found:
                group.take(found.pid)
                await found.serves()
                await poisoned(site, "eat:never")
                assert group.kills() == 5
                assert found.output().count(") was killed by the kernel for want of memory") == 5
                await site.is_consistent(workers=2)
                await site.ends(found)


def test_the_count_is_found_in_both_versions_of_control_groups(tmp_path: Path) -> None:
    """Also where a container is told the name that its group has on the host."""
    old, new = tmp_path / "memory", tmp_path / "shop"
    for place, name in ((old / "shop", "memory.oom_control"), (new, "memory.events")):
        place.mkdir(parents=True)
        (place / name).touch()
        (place.parent / name).touch()
    first, second = "5:cpuset:/\n4:memory:/{}\n0::/\n", "0::/{}\n"
    assert counter(first.format("shop"), tmp_path) == old / "shop" / "memory.oom_control"
    assert counter(first.format("docker/1f"), tmp_path) == old / "memory.oom_control"
    assert counter(second.format("shop"), tmp_path) == new / "memory.events"
    assert counter(second.format("docker/1f"), tmp_path) == tmp_path / "memory.events"
    assert counter(first.format("shop"), tmp_path / "nothing") is None
    assert counter("", tmp_path) is None


def test_each_count_explains_one_end_and_no_old_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("aiki.supervisor.shortage.time.monotonic", lambda: now)
    file = tmp_path / "memory.events"

    def counted(kills: int) -> None:
        file.write_text(f"oom 9\noom_kill {kills}\noom_group_kill 0\n")

    counted(3)
    shortage = Shortage(file)
    assert not shortage.explains_one()
    counted(4)
    now += 1.0
    shortage.look()  # between the count and the end
    assert shortage.explains_one()
    assert not shortage.explains_one(), "the end of another one, which somebody has killed"
    counted(5)
    assert shortage.explains_one(), "the end of another one"
    counted(6)  # not a worker
    for _ in range(2):
        now += 1.0
        shortage.look()
    assert not shortage.explains_one()
    assert not Shortage(None).explains_one()
    assert not Shortage(tmp_path / "gone").explains_one()
