"""A server that comes back slowly, or again and again."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
import redis.asyncio

from aiki import StoreUnavailable
from tests.faults.site import site_at
from tests.faults.traffic import Traffic, at_rest

pytestmark = pytest.mark.slow

COMMANDS = 10_000
SLOWLY = ("--key-load-delay", "200")  # in microseconds; it looks up after every 1,024th command


async def test_a_server_that_loads_for_long_is_waited_for(tmp_path: Path) -> None:
    """Checks I1 to I4, I13 and I16: `LOADING`, for two seconds and more."""
    async with site_at(tmp_path, *SLOWLY, "--appendfsync", "no") as site:
        with site.supervised() as found:
            await found.serves()
            traffic = Traffic(site, found, pace=0.1)
            await traffic.begin()
            async with site.admin() as admin:
                stuff = admin.pipeline(transaction=False)
                for _ in range(COMMANDS // 2):
                    stuff.set("stuff", "of another program")
                    stuff.unlink("stuff")
                await stuff.execute()
            site.server.kill()
            site.server.launch()  # and do not wait until it serves
            begun, refused = time.monotonic(), 0
            async with at_rest(found):
                while not await _serves(site.server.url):
                    try:
                        async with site.make_client(start_timeout=0.5):
                            pass
                    except StoreUnavailable as error:
                        refused += "LOADING" in str(error).upper()
                    await asyncio.sleep(0.01)
            assert refused > 0, f"it was loaded within {time.monotonic() - begun:.1f} s"
            await traffic.end()


async def _serves(url: str) -> bool:
    try:
        async with redis.asyncio.Redis.from_url(url) as admin:
            return bool(await admin.ping())
    except redis.RedisError:
        return False


@pytest.mark.timeout(300)
async def test_a_server_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, rng: random.Random
) -> None:
    """Checks I1 to I6, I13 and I16: a kill every few seconds for a minute and a half."""
    async with site_at(tmp_path) as site:
        with site.supervised("--lease", "2500ms", "--heartbeat", "500ms") as found:
            await found.serves()
            traffic = Traffic(site, found, pace=0.1)
            await traffic.begin()
            over, kills = time.monotonic() + 90.0, 0
            while time.monotonic() < over or kills < 10 or len(traffic.moving) <= 200:
                await asyncio.sleep(rng.uniform(0.5, 5.0))
                site.server.kill()
                await asyncio.sleep(rng.choice((0.0, 0.2, 1.0, 4.0)))
                site.server.start()
                kills += 1
            await traffic.end()
