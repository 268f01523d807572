"""What happens between everybody and the server: lost replies, silence, latency, resets, refusals.

No worker dies of any of it, so each step is executed once, by the first owner of its run.
"""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial
from pathlib import Path

import pytest

from aiki import Run, RunCancelled, completion, firing, housekeeping, workflow
from aiki.handle import Handle
from aiki.states import Status
from tests.faults.site import site_at
from tests.faults.traffic import at_rest, traffic_on
from tests.faults.workload import errand_v1, letter
from tests.support.app import App, becomes
from tests.support.waiting import eventually

# Each is sent in the life of the orders and errands below, by a client, a worker or a supervisor.
SENT = {
    "start_runs", "watch_run", "request_cancel", "post_message", "claim_runs", "commit_step",
    "commit_attempt", "abandon_step", "open_wait", "end_wait", "consume_message", "park_run",
    "finish_run", "beat", "beat_supervisor", "find_expired", "fire_timers",
}  # fmt: skip


async def is_awaiting(handle: Handle[list[str]]) -> bool:
    return (await handle.status()).status is Status.AWAITING_EVENT


async def test_a_reply_of_any_script_that_the_network_loses_doubles_nothing(
    tmp_path: Path,
) -> None:
    """Checks I1, I3, I4 (one effect a step), I6 and I13."""
    async with site_at(tmp_path, proxied=True) as site:
        with site.supervised() as found:
            await found.serves()
            site.proxy.lose(*SENT)
            plain = await site.start_many(5)
            parking = await site.start("parking", reserve="fail:well")
            failing = await site.start("failing", charge="once")
            stuck = await site.start("stuck", charge="gate:never")
            errand = await errand_v1.start(site.client, "me")
            stories = await site.complete(plain)
            assert [story for story in stories if not story.is_undisturbed()] == []
            await site.comes_to_be(parking, Status.AWAITING_RETRY)
            site.open("well")
            (parked, failed) = await site.complete([parking, failing])
            assert parked.ends.total() == failed.ends.total() == 5
            assert failed.starts["charge"] == 2
            await site.under_way(stuck, "charge")
            await stuck.cancel("no longer wanted")
            with pytest.raises(RunCancelled):
                await stuck.wait_for_completion(timeout=60)
            begun = [each.task for each in site.effects(stuck.id) if each.phase == "start"]
            assert begun == ["validate", "charge", "restore"]
            await eventually(partial(is_awaiting, errand), what="an errand that waits")
            await letter.send(site.client, errand.id, "an answer")
            said = await errand.wait_for_completion(timeout=60)
            assert (said[0], said[3]) == ("to me", "an answer")  # each letter once, in order
            lost = {f"lost {script}" for script in SENT}
            await eventually(lambda: lost <= site.proxy.fired.keys(), 60.0, "every reply lost")
            site.proxy.calm()
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.slow
@pytest.mark.parametrize("lasts", [6.0, 25.0])
async def test_connections_that_turn_silent_are_found_out_and_replaced(
    tmp_path: Path, lasts: float
) -> None:
    """Checks I1 to I5, I13 and I16: half-open connections, with no word from the network."""
    async with site_at(tmp_path, proxied=True) as site, traffic_on(site) as traffic:
        accepted = site.proxy.fired["accepted"]
        begun = time.monotonic()
        site.proxy.blackhole()
        assert site.proxy.fired["blackholed"] >= 6
        await traffic.flows()  # over new connections
        # The link's time-out, and what a claim waits for its reader.
        assert time.monotonic() - begun < 20.0
        await asyncio.sleep(lasts - (time.monotonic() - begun))
        fired = site.proxy.fired
        await eventually(lambda: fired["accepted"] >= accepted + 5, 60.0, "new connections")


@pytest.mark.slow
async def test_a_slow_line_that_breaks_now_and_then_costs_nothing_but_time(
    tmp_path: Path, rng: random.Random
) -> None:
    """Checks I1 to I8 and I13, at 200 ms ± 150 ms each way, and one reset in a hundred."""
    async with site_at(tmp_path, proxied=True) as site, traffic_on(site):
        site.proxy.rng = rng
        site.proxy.delay, site.proxy.jitter, site.proxy.resets = 0.2, 0.15, 0.01
        await asyncio.sleep(25.0)  # the fault
        await eventually(lambda: site.proxy.fired["reset"] >= 3, 60.0, "three resets")
        assert site.proxy.fired["delayed"] > 100
        site.proxy.calm()


@pytest.mark.slow
async def test_a_slow_line_is_no_fault_at_all(tmp_path: Path) -> None:
    """Checks I1 to I4: at 50 ms each way nothing is taken for broken, and nothing done twice."""
    async with site_at(tmp_path, proxied=True) as site:
        with site.supervised() as found:
            await found.serves()
            accepted = site.proxy.fired["accepted"]
            site.proxy.delay, site.proxy.jitter = 0.05, 0.02
            stories = await site.complete(await site.start_many(30))
            assert [story for story in stories if not story.is_undisturbed()] == []
            assert site.proxy.fired["delayed"] > 100
            site.proxy.calm()
            await site.is_alive()
            assert site.proxy.fired["accepted"] <= accepted + 3  # the reader of results, at most
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.slow
@pytest.mark.parametrize("away", [4.0, 60.0])
async def test_a_server_that_refuses_connections_is_waited_for_in_peace(
    tmp_path: Path, away: float
) -> None:
    """Checks I1 to I5, I13 (within seconds) and I16 (processor time and lines of log)."""
    async with site_at(tmp_path, proxied=True) as site, traffic_on(site) as traffic:
        await site.proxy.refuse()
        site.proxy.reset()
        assert site.proxy.fired["reset"] >= 6
        async with at_rest(traffic.found):
            await asyncio.sleep(away)  # the fault
        await site.proxy.accept()
        back = time.monotonic()
        await traffic.flows(1)
        await site.is_alive(1)
        assert time.monotonic() - back < 20.0


@pytest.mark.slow
async def test_a_server_that_has_no_connection_left_is_waited_for(tmp_path: Path) -> None:
    """Checks I1 to I5, I13 and I16: backpressure, and not a crash."""
    async with site_at(tmp_path) as site, traffic_on(site) as traffic, site.admin() as admin:
        await admin.ping()
        await admin.config_set("maxclients", 1)
        await admin.client_kill_filter(skipme=True)
        async with at_rest(traffic.found):
            await asyncio.sleep(3.0)  # the fault
        assert (await admin.info("stats"))["rejected_connections"] > 5
        await admin.config_set("maxclients", 10_000)
        back = time.monotonic()
        await traffic.flows(1)
        assert time.monotonic() - back < 20.0


@pytest.mark.slow
async def test_without_any_hint_everything_happens_later_and_nothing_never(tmp_path: Path) -> None:
    """Checks I1, I6, I7 (the bounds of polling) and I9, where every published message is lost."""
    async with site_at(tmp_path, proxied=True) as site:
        with site.supervised() as found:
            await found.serves()
            site.proxy.swallows_messages = True
            plain = await site.start_many(5)
            parking = await site.start("parking", reserve="fail:well")
            stuck = await site.start("stuck", charge="gate:never")
            errand = await errand_v1.start(site.client, "me")
            await site.under_way(stuck, "charge")
            begun = time.monotonic()
            await stuck.cancel("no longer wanted")
            await site.comes_to_be(stuck, Status.CANCELLED)
            assert time.monotonic() - begun < 10.0  # by the next beat
            await site.comes_to_be(parking, Status.AWAITING_RETRY)
            site.open("well")
            # A waiter polls at its own pace, timers are looked at every five seconds.
            stories = await site.complete([*plain, parking])
            assert all(story.ends.total() == 5 for story in stories)
            await eventually(partial(is_awaiting, errand), what="an errand that waits")
            await letter.send(site.client, errand.id, "an answer")
            assert "an answer" in await errand.wait_for_completion(timeout=60)
            assert site.proxy.fired["swallowed"] > 5
            site.proxy.calm()
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.plain_only("it is about waits that are not suspended all the time")
async def test_hints_alone_are_prompt(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks I1, I6 and I7 with no polling at all, so that what is prompt is told by hints."""
    never = 3600.0
    for module, name in (
        (completion, "POLL"),
        (housekeeping, "TIMERS_EVERY"),
        (housekeeping, "CASCADES_EVERY"),
        (firing, "LOOK_EVERY"),
    ):
        assert getattr(module, name) > 1
        monkeypatch.setattr(module, name, never)
    wf = workflow("prompt")

    @wf.v("1.0.0")
    async def prompt(run: Run) -> str:
        await run.sleep("short", 1.5)
        return str(await letter.wait(run, timeout=600))

    await app.serve(wf, heartbeat=100.0, lease=300.0, inline_wait=0.5)
    handle = await prompt.start(app.client)
    waiting = asyncio.create_task(handle.wait_for_completion(timeout=60))
    begun = time.monotonic()
    await becomes(handle, Status.SLEEPING)
    await becomes(handle, Status.AWAITING_EVENT)
    assert 1.5 <= time.monotonic() - begun < 15.0  # before the first beat
    begun = time.monotonic()
    await letter.send(app.client, handle.id, "here")
    assert await waiting == "here"
    assert time.monotonic() - begun < 30.0
