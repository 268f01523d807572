"""Real workers that are killed, hang, eat memory or die again and again, with runs under way."""

import os
import re
import signal
from datetime import datetime
from pathlib import Path

import psutil

from aiki.client import Client
from aiki.supervisor import restarts
from aiki.supervisor.exits import Exit
from tests.support.server import RedisServer
from tests.support.shop import (
    SHOP,
    completes,
    gone,
    kill,
    serving,
    shop_that,
    started,
    supervised,
    whose,
)
from tests.support.supervised import Supervised, start
from tests.support.waiting import eventually

CLOCK = 0.01  # what times in a log are exact to, and a little


def pauses(found: Supervised, slot: int) -> list[float]:
    """Return how long each death of the worker of a slot was before the next one's birth."""
    moment = r"(?P<moment>\S+) \S+ +\d+ \S+"
    life = re.compile(rf"{moment}: worker \S+-{slot} \(pid \d+\) (is starting|ended)")
    matches = filter(None, map(life.match, found.output().splitlines()))
    times = [datetime.fromisoformat(match["moment"]) for match in matches]
    return [(b - a).total_seconds() for a, b in zip(times[1::2], times[2::2], strict=False)]


async def test_the_run_of_a_killed_worker_finishes_on_another_one(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "60s") as (found, client):
        handle = await started(found, client, "a")
        (victim,) = whose(found, "start a")
        kill(victim)
        await eventually(lambda: len(whose(found, "start a")) == 2, what="the second start")
        await completes(found, handle, "a")
        assert victim not in whose(found, "end a")
        await found.has_workers(2)
        assert "was killed by SIGKILL" in found.output()


async def test_when_all_workers_are_killed_at_once_all_runs_complete(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "60s") as (found, client):
        names = [f"n{count}" for count in range(20)]
        handles = [await started(found, client, name) for name in names]
        for _ in range(3):
            victims = await found.has_workers(2)
            # Found dead one after the other, they would be charged, and their runs set apart.
            found.send(signal.SIGSTOP)
            kill(*(worker.pid for worker in victims))
            await gone(victims)
            found.send(signal.SIGCONT)
        for name, handle in zip(names, handles, strict=True):
            await completes(found, handle, name)


async def test_what_a_task_has_started_ends_with_its_worker(tmp_path: Path) -> None:
    source = shop_that('is_open("child") or subprocess.Popen(["sleep", "1000"])')
    async with serving(tmp_path, source=source) as (found, client):
        handle = await started(found, client, "a")
        (victim,) = whose(found, "start a")
        (child,) = await eventually(psutil.Process(victim).children, what="its child")
        found.release("child")
        kill(victim)
        await gone([child])
        await completes(found, handle, "a")


async def test_a_step_that_always_kills_its_worker_is_quarantined_and_stalls_alone(
    tmp_path: Path,
) -> None:
    source = shop_that('name == "poison" and os._exit(3)')
    async with serving(tmp_path, source=source) as (found, client):
        innocent = await started(found, client, "innocent")
        poison = await start(client, "shop", name="poison")

        async def stalled() -> bool:
            return (await poison.status()).status == "stalled"

        await eventually(stalled, 100.0, "the stall")
        assert len(whose(found, "start poison")) == 5
        assert "ended with exit code 3" in (await poison.status()).reason
        await completes(found, innocent, "innocent")
        await found.has_workers(2)


async def test_workers_that_die_again_and_again_spend_the_budget(tmp_path: Path) -> None:
    # Whatever it is that kills them, it is in none of the runs.
    source = (
        SHOP
        + """
from aiki.worker import Worker
original = Worker.start
async def fateful(self):
    await original(self)
    asyncio.get_running_loop().call_later(0.2, os._exit, 9)
Worker.start = fateful
"""
    )
    with supervised(tmp_path, "--log-level", "debug", source=source) as found:
        assert await found.ends(deadline=120) == Exit.BUDGET
        assert "worker processes died 11 times within" in found.output()
        await found.leaves_nothing()
        for slot in (1, 2):
            births = pauses(found, slot)
            assert len(births) >= 3
            for count, pause in enumerate(births[1:]):
                assert pause > restarts.FIRST_DELAY * restarts.GROWTH**count - CLOCK, births


async def test_a_worker_that_hangs_shows_its_stacks_and_is_replaced(tmp_path: Path) -> None:
    source = shop_that(
        "hang(name)",
        """
def hang(name):
    while not is_open(name):
        sum(range(1000))
""",
    )
    async with serving(tmp_path, "--hang-timeout", "1s", source=source) as (found, client):
        handle = await started(found, client, "a")
        found.release("b")
        await found.says(r"its loop has stood still for .* Stacks:[^$]* in hang$")
        await completes(found, handle, "a")
        await found.has_workers(2)


async def test_a_worker_that_is_stopped_is_replaced_and_changes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--hang-timeout", "1s") as (found, client):
        handle = await started(found, client, "a")
        (victim,) = whose(found, "start a")
        os.kill(victim, signal.SIGSTOP)
        await found.says("none: it is stopped, or stuck in a call")
        await completes(found, handle, "a")
        assert victim not in whose(found, "end a")


async def test_a_worker_over_its_memory_limit_is_replaced_after_its_runs_are_handed_back(
    tmp_path: Path,
) -> None:
    source = shop_that(
        "eat(name)",
        """
eaten = []
def eat(name):
    if name == "big":
        eaten.append(bytearray(os.urandom(1)) * 200 * 2**20)
""",
    )
    async with serving(tmp_path, "--max-memory", "150MiB", source=source) as (found, client):
        handle = await started(found, client, "big")
        (victim,) = whose(found, "start big")
        await found.says(rf"pid {victim}\) is to be replaced: it uses ")
        found.release("big")
        await handle.wait_for_completion(timeout=60)
        assert whose(found, "end big") == [victim]
        await found.says(rf"pid {victim}\) ended with exit code 0")
        assert victim not in {worker.pid for worker in await found.has_workers(2)}


async def test_a_limit_that_no_worker_can_keep_is_refused(tmp_path: Path) -> None:
    with supervised(tmp_path, "--max-memory", "32MiB") as found:
        assert await found.ends() == Exit.USAGE
        assert "before its first run" in found.output()


async def test_a_sigterm_to_one_worker_replaces_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a")
        (victim,) = whose(found, "start a")
        os.kill(victim, signal.SIGTERM)
        await found.says(rf"pid {victim}\) is to be replaced")
        found.release("a")
        await handle.wait_for_completion(timeout=60)
        await found.says(rf"pid {victim}\) ended with exit code 0")
        await found.has_workers(2)
        assert len(whose(found, "start a")) == 1


async def test_a_task_that_raises_keyboard_interrupt_ends_its_worker_and_is_charged_nothing(
    tmp_path: Path,
) -> None:
    source = shop_that(
        "interrupt()",
        """
def interrupt():
    if not is_open("interrupted"):
        pathlib.Path("gate-interrupted").touch()
        raise KeyboardInterrupt
""",
    )
    async with serving(tmp_path, "--grace", "1s", source=source) as (found, client):
        handle = await started(found, client, "a")
        await completes(found, handle, "a")
        assert (await handle.journal())[-1].attempts == 1
        await found.says("ended with exit code 1")
        await found.has_workers(2)


async def test_the_workers_of_a_lost_host_are_found_by_any_other_supervisor(tmp_path: Path) -> None:
    times = ("--heartbeat", "500ms", "--lease", "3s")
    async with serving(tmp_path, *times) as (found, client):
        handle = await started(found, client, "a")
        (victim,) = whose(found, "start a")
        with supervised(tmp_path, *times) as other:
            await other.has_workers(2)
            # Frozen, they look to the other one like a host that is gone: no process has ended.
            frozen = [*found.workers(), psutil.Process(found.pid)]
            for process in frozen:
                process.suspend()
            await eventually(lambda: len(whose(found, "start a")) == 2, what="the second start")
            for process in frozen:
                process.resume()
            await found.says("lost its lease")
            # The one that has woken may do what it was doing, but nothing of it is recorded.
            found.release("a")
            assert await handle.wait_for_completion(timeout=60) != victim
            assert len(whose(found, "quick a")) == 1
            # What has woken serves again.
            await completes(found, await started(found, client, "b"), "b")


async def test_a_second_supervisor_on_the_same_data_leaves_the_first_ones_runs_alone(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a")
        with supervised(tmp_path) as other:
            await other.has_workers(2)
            await eventually(lambda: found.output().count("aiki serves") == 2, 60.0)
            other.send(signal.SIGTERM)
            assert await other.ends() == Exit.ENDED
        await completes(found, handle, "a")
        assert len(whose(found, "start a")) == 1


async def test_where_there_is_no_pidfd_deaths_are_found_all_the_same(tmp_path: Path) -> None:
    script = "import os; del os.pidfd_open; from aiki.supervisor.cli import main; main()"
    arguments = ("shop", "--workers", "2", "--lease", "60s")
    found = Supervised(tmp_path, command=("-c", script, *arguments))
    found.write("shop", SHOP)
    with found:
        await found.serves()
        async with found.client() as client:
            handle = await started(found, client, "a")
            kill(*whose(found, "start a"))
            await eventually(lambda: len(whose(found, "start a")) == 2, what="the second start")
            await completes(found, handle, "a")


async def test_a_store_that_was_emptied_is_not_served_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    server = RedisServer(tmp_path)
    server.start()
    with Supervised(tmp_path, "shop", "--workers", "2", "--redis", server.url) as found:
        found.write("shop", SHOP)
        await found.serves()
        async with Client(server.url) as client:
            await client.store.link.send(("FLUSHALL",))
        # Its workers say so too, if they notice it before it does.
        await found.says("is not the store it was when this client connected")
        assert await found.ends() == Exit.REPLACED
    server.stop()
