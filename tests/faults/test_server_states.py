"""A server that is there and will not do what is wanted: full, busy, flushed, locked, evicting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from aiki import NotFound, StoreRefused, StoreReplaced, StoreUnavailable
from aiki.handle import Handle
from aiki.states import Status
from aiki.supervisor.exits import Exit
from tests.faults.site import Site, site_at
from tests.faults.traffic import Traffic, at_rest
from tests.faults.workload import Order, Receipt, errand_v1, letter, order_v1
from tests.support.app import becomes
from tests.support.waiting import eventually


@asynccontextmanager
async def under_way(site: Site, *arguments: str) -> AsyncGenerator[Traffic]:
    """Have a supervisor serve and orders come in."""
    with site.supervised(*arguments) as found:
        await found.serves()
        traffic = Traffic(site, found)
        await traffic.begin()
        yield traffic


@pytest.mark.slow
async def test_a_full_memory_admits_nothing_and_lets_everything_drain(tmp_path: Path) -> None:
    """Checks I1 to I4, I13 and I16: a start is refused, and what is under way comes to its end."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        with site.supervised() as found:
            await found.serves()
            handles = await site.start_many(10, charge="gate:over")
            parked = await site.start("parked", reserve="fail:over")
            for handle in handles:
                await site.under_way(handle, "charge")
            await site.comes_to_be(parked, Status.AWAITING_RETRY)
            await admin.config_set("maxmemory", (await admin.info("memory"))["used_memory"] // 2)
            with pytest.raises(StoreRefused, match="OOM"):
                await order_v1.start(site.client, Order("refused"))
            site.open("over")
            stories = await site.complete([*handles, parked])
            assert all(story.ends.total() == 5 for story in stories)
            assert {e.run for e in site.effects()} == {h.id for h in (*handles, parked)}
            await admin.config_set("maxmemory", 0)
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)


@pytest.mark.slow
async def test_a_memory_that_runs_have_filled_is_drained_by_who_comes_then_and_freed_by_hand(
    tmp_path: Path,
) -> None:
    """Checks I1 to I4, I13 and I16: supervisors come in, runs end, and removing them makes room."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        limit = (await admin.info("memory"))["used_memory"] + 8 * 2**20
        await admin.config_set("maxmemory", limit)
        large, handles = "x" * 300_000, list[Handle[Receipt]]()
        with suppress(StoreRefused):
            while len(handles) < 100:
                handles.append(await site.start(large))
        assert 10 < len(handles) < 100
        with site.supervised() as found:  # the fault: a full memory before it has a lease
            await found.serves()
            stories = await site.complete(handles)
            assert [story for story in stories if not story.is_undisturbed()] == []
            with pytest.raises(StoreRefused, match="OOM"):
                await site.start(large)
            for handle in handles[3:]:  # each has become twice as large by its result
                await handle.delete()

            async def is_admitted() -> Handle[Receipt] | None:
                with suppress(StoreRefused):  # what was unlinked is freed in the background
                    return await site.start(large)
                return None

            admitted = await eventually(is_admitted, what="room")
            assert admitted is not None
            await site.complete([admitted])
            await site.is_alive()
            await site.is_consistent(workers=2)
            await site.ends(found)


async def test_a_message_that_a_run_sends_while_memory_is_full_is_sent_later(
    tmp_path: Path,
) -> None:
    """Checks I1 and I6: what a handler waits for is no caller that could be refused."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        with site.supervised(workers=1) as found:
            await found.serves()
            errand = await errand_v1.start(site.client, "me")
            await eventually(errand.journal, what="the errand under way")
            await admin.config_set("maxmemory", (await admin.info("memory"))["used_memory"] // 2)
            await eventually(lambda: refused_for_memory(admin), what="a message that is refused")
            assert not (await errand.status()).status.is_final
            await admin.config_set("maxmemory", 0)
            await becomes(errand, Status.AWAITING_EVENT, 60.0)
            await letter.send(site.client, errand.id, "an answer")
            said = await errand.wait_for_completion(timeout=60)
            assert (said[0], said[3]) == ("to me", "an answer")
            await site.is_consistent(workers=1)
            await site.ends(found)


async def refused_for_memory(admin: Redis) -> bool:
    return "errorstat_OOM" in await admin.info("errorstats")


async def test_a_store_that_is_flushed_ends_its_supervisor_and_is_not_made_anew(
    tmp_path: Path,
) -> None:
    """Checks I16: everybody is told, by types and exit code, and nothing is there afterwards."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        with site.supervised("--grace", "500ms") as found:
            await found.serves()
            handles = await site.start_many(5, charge="gate:never")
            for handle in handles:
                await site.under_way(handle, "charge")
            waiting = [asyncio.create_task(each.wait_for_completion()) for each in handles]
            await asyncio.sleep(0)
            await admin.flushall()
            await found.says("is not the store it was when this client connected")
            assert await found.ends() == Exit.REPLACED
            await found.leaves_nothing()
            assert len(found.output().splitlines()) < 200
            assert not await admin.exists("aiki:default:{0}:meta")
            with pytest.raises(StoreReplaced, match="flushed, restored or replaced"):
                await site.start("refused")
            for handle in handles:
                with pytest.raises(NotFound):
                    await handle.status()
            assert not await admin.exists("aiki:default:{0}:meta")
            for each in waiting:
                each.cancel()
        # Somebody who says so begins anew
        with site.supervised(name="next") as found:
            await found.serves()
            async with site.make_client() as site.client:
                await site.is_alive()
                await site.is_consistent(workers=2)
                await site.ends(found)


@pytest.mark.slow
async def test_who_waits_for_a_run_of_a_flushed_store_is_told(tmp_path: Path) -> None:
    """Checks I2 and I16: at the latest by the next look of the waiter."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        handle = await site.start("a")
        waiting = asyncio.create_task(handle.wait_for_completion())
        await eventually(lambda: _is_watched(admin, handle.id), what="somebody who waits")
        await admin.flushall()
        with pytest.raises(NotFound):
            await asyncio.wait_for(waiting, 45.0)


async def _is_watched(admin: Redis, run: str) -> bool:
    return bool(await admin.hget("aiki:default:{0}:run:" + run, "watchers"))


@pytest.mark.slow
async def test_a_policy_that_is_changed_under_everybody_is_an_alarm(tmp_path: Path) -> None:
    """Checks I16: who comes is refused, who is there says so at the next look, and again."""
    async with site_at(tmp_path) as site, site.admin() as admin, under_way(site) as traffic:
        await admin.config_set("maxmemory", "1gb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreRefused, match=r"allkeys-lru.*set it to noeviction"):
            async with site.make_client():
                pass
        await traffic.found.says("about to lose runs: it evicts keys .*allkeys-lru")
        await admin.config_set("maxmemory-policy", "noeviction")
        await traffic.end()


async def test_a_server_that_evicts_is_not_served(tmp_path: Path) -> None:
    """Checks I16: a supervisor refuses it before it has started a worker."""
    async with site_at(tmp_path) as site, site.admin() as admin:
        await admin.config_set("maxmemory", "1gb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        with site.supervised() as found:
            assert await found.ends() == Exit.STORE
            await found.says("allkeys-lru.*set it to noeviction")
            await found.leaves_nothing()


@pytest.mark.slow
async def test_a_server_that_is_busy_with_a_foreign_script_is_waited_for(tmp_path: Path) -> None:
    """Checks I1 to I4, I13 and I16 (no hot loop)."""
    async with (
        site_at(tmp_path, "--lua-time-limit", "200") as site,
        site.admin() as admin,
        site.admin() as other,
        under_way(site) as traffic,
    ):
        busy = asyncio.create_task(_spin(admin))
        await eventually(partial(_is_busy, other), what="a busy server")
        async with at_rest(traffic.found):
            await asyncio.sleep(3.0)  # the fault
        await other.execute_command("SCRIPT", "KILL")
        with pytest.raises(ResponseError, match=r"[Kk]illed"):
            await busy
        await traffic.end()


async def _spin(admin: Redis) -> None:
    await admin.execute_command("EVAL", "while true do end", 0)


async def _is_busy(admin: Redis) -> bool:
    try:
        await admin.ping()
    except ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@pytest.mark.slow
async def test_a_password_that_is_changed_is_a_typed_refusal_and_waited_for(
    tmp_path: Path,
) -> None:
    """Checks I1 to I5, I13 and I16: slow tries, until it is set back."""
    async with (
        site_at(tmp_path) as site,
        site.admin() as admin,
        site.make_client(start_timeout=3.0) as hasty,
        under_way(site) as traffic,
    ):
        await admin.config_set("requirepass", "another")
        await admin.client_kill_filter(skipme=True)
        async with at_rest(traffic.found):
            with pytest.raises(StoreUnavailable, match=r"(?i)authentication|NOAUTH"):
                await order_v1.start(hasty, Order("nobody knows"))
            with pytest.raises(StoreUnavailable, match=r"(?i)authentication|NOAUTH"):
                await site.make_client().connect()
            await asyncio.sleep(2.0)  # the fault
        await admin.config_set("requirepass", "")
        back = time.monotonic()
        await traffic.flows(1)
        assert time.monotonic() - back < 20.0
        await traffic.end(strangers=1)


@pytest.mark.slow
@pytest.mark.parametrize("right", ["-evalsha", "-hset", "-xadd", "-xreadgroup", "-time"])
async def test_a_right_that_is_revoked_for_a_while_stops_everything_and_loses_nothing(
    tmp_path: Path, right: str
) -> None:
    """Checks I1 to I4, I13 and I16: commands are refused, at their door or within a script."""
    async with site_at(tmp_path) as site, site.admin() as admin, under_way(site) as traffic:
        await admin.execute_command("ACL", "SETUSER", "default", right)
        async with at_rest(traffic.found):
            await asyncio.sleep(3.0)  # the fault
        errors = await admin.info("errorstats")
        assert errors.keys() & {"errorstat_NOPERM", "errorstat_ERR"}, errors
        # A script that was refused in its middle is sent again, and the sweep may come before that.
        site.may_mend = True
        await admin.execute_command("ACL", "SETUSER", "default", "+@all")
        await traffic.end()
