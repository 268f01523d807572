"""Real supervisors: how they serve, how they end, and what becomes of their workers then."""

import os
import signal
from pathlib import Path

import pytest

from aiki.supervisor.exits import Exit
from tests.support.shop import (
    BLOCKING_SHOP,
    completes,
    gone,
    kill,
    serving,
    started,
    supervised,
    whose,
)


async def test_it_says_in_one_line_that_it_serves_and_what_is_guaranteed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, _):
        lines = [line for line in found.output().splitlines() if line.startswith("aiki serves")]
        assert len(lines) == 1
        assert lines[0] == (
            "aiki serves shop 1.0.0, threaded 1.0.0: 2 workers of 200 slots; runs are kept in "
            ".aiki: an acknowledged write is on disk"
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_a_signal_ends_it_with_everything_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    with supervised(tmp_path) as found:
        await found.serves()
        found.send(number)
        assert await found.ends() == Exit.ENDED
        await found.leaves_nothing()


async def test_a_signal_ends_it_while_it_starts(tmp_path: Path) -> None:
    with supervised(tmp_path, source="import time; time.sleep(1e9)") as found:
        await found.has_workers(1)
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED
        await found.leaves_nothing()


async def test_a_drain_lets_the_running_step_be_recorded_and_hands_the_run_back(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a", "threaded")
        found.send(signal.SIGTERM)
        await found.says("signal: drain")
        found.release("a")
        assert await found.ends() == Exit.ENDED
    with supervised(tmp_path) as found:
        async with found.client() as client:
            await client.handle(handle.id).wait_for_completion(timeout=60)
            assert len(whose(found, "start a")) == len(whose(found, "end a")) == 1


async def test_ctrl_c_in_a_terminal_drains_like_a_signal_to_the_supervisor_alone(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (found, client):
        await started(found, client, "a")
        os.killpg(os.getpgid(found.pid), signal.SIGINT)
        await found.says("signal: drain")
        found.release("a")
        assert await found.ends() == Exit.ENDED
        assert len(whose(found, "end a")) == 1


async def test_a_second_signal_ends_it_now_and_another_supervisor_finishes(tmp_path: Path) -> None:
    async with serving(tmp_path, "--grace", "60s") as (found, client):
        handle = await started(found, client, "a", "threaded")
        found.send(signal.SIGTERM)
        await found.says("signal: drain")
        found.send(signal.SIGTERM)
        assert await found.ends(deadline=40) == Exit.ENDED  # within its grace
        assert (await handle.status()).status == "queued"
    with supervised(tmp_path) as found:
        async with found.client() as client:
            await completes(found, client.handle(handle.id), "a")
            assert len(whose(found, "start a")) == 2


async def test_sigquit_ends_it_now_whatever_its_grace_and_another_supervisor_finishes(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--grace", "60s") as (found, client):
        handle = await started(found, client, "a")
        found.send(signal.SIGQUIT)
        assert await found.ends(deadline=40) == Exit.ENDED  # within its grace
        assert (await handle.status()).status == "queued"
        assert whose(found, "end a") == []
    with supervised(tmp_path) as found:
        async with found.client() as client:
            await completes(found, client.handle(handle.id), "a")
            assert len(whose(found, "start a")) == 2
            assert len(whose(found, "end a")) == 1


async def test_when_the_grace_is_over_runs_are_handed_back_unrecorded(tmp_path: Path) -> None:
    async with serving(tmp_path, "--grace", "200ms") as (found, client):
        handle = await started(found, client, "a", "threaded")
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED
        assert (await handle.status()).status == "queued"


async def test_a_worker_whose_loop_stands_still_does_not_outlive_the_grace(tmp_path: Path) -> None:
    async with serving(tmp_path, "--grace", "200ms", source=BLOCKING_SHOP) as (found, client):
        handle = await started(found, client, "a")
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED
        assert "has not ended within its grace" in found.output()
        assert (await handle.status()).status == "queued"


async def test_the_workers_of_a_killed_supervisor_drain_and_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a")
        workers = found.workers()
        kill(found.pid)
        await found.says("the supervisor is gone")
        found.release("a")
        await gone(workers)
        assert len(whose(found, "end a")) == 1
    await found.leaves_nothing()
    with supervised(tmp_path) as found:
        async with found.client() as client:
            await client.handle(handle.id).wait_for_completion(timeout=60)


async def test_a_worker_that_hangs_does_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    async with serving(tmp_path, "--grace", "200ms", source=BLOCKING_SHOP) as (found, client):
        await started(found, client, "a")
        workers = found.workers()
        kill(found.pid)
        await gone(workers)


async def test_a_supervisor_gives_back_at_once_what_the_dead_of_its_host_have_left(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "--lease", "10m") as (found, client):
        handle = await started(found, client, "a")
        kill(found.pid, *(worker.pid for worker in found.workers()))
        with supervised(tmp_path, "--lease", "10m") as successor:
            await completes(successor, handle, "a")
