"""Everything at once: hundreds of orders, while all that they depend on dies, stops and comes back.

The same seed gives the same order of faults. When they come between two steps of an order is up to
the machine.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis.asyncio

from aiki.handle import Handle
from aiki.supervisor import restarts
from tests.faults.site import Site, kill, site_at, stop
from tests.faults.traffic import everybody
from tests.faults.workload import Receipt
from tests.support.supervised import Supervised

MINUTES = float(os.environ.get("AIKI_SOAK_MINUTES", "0.5"))
"""How long it lasts: longer under `make soak`."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 60 * MINUTES)]

SECONDS = 60 * MINUTES
ORDERS = round(10 * SECONDS)
# At rest, of each process. A connection or two more, and no more with every fault.
FILES = 60
# More deaths than this within a minute spend the budget of a supervisor.
DEATHS = 8
# Fewer are no storm.
LEAST_DEATHS = 3
RESTARTS_WINDOW = restarts.WINDOW + 5
OPTIONS = ("--lease", "2500ms", "--heartbeat", "500ms", "--hang-timeout", "60s")


class Storm:
    """Faults that hit a server and its supervisors, one after the other."""

    def __init__(self, site: Site, supervisors: list[Supervised], rng: random.Random) -> None:
        self._site = site
        self._supervisors = supervisors
        self._rng = rng
        self._admin = redis.asyncio.Redis.from_url(site.server.url)
        self._killed_at: list[float] = []
        self._asleep: set[asyncio.Task[None]] = set()
        self.faults = Counter[str]()

    async def rage(self, seconds: float) -> None:
        """Let faults happen for a while, then let everybody wake who was stopped."""
        faults: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill_worker, 3),
            (self._stop_worker, 4),
            (self._cut_connections, 3),
            (self._cut_listeners, 2),
            (self._forget_scripts, 3),
            (self._stop_server, 1),
            (self._restart_server, 1),
            (self._reload, 1),
        ]
        kinds, weights = zip(*faults, strict=True)
        # Each kind once, and some deaths, whatever is drawn after them
        first = [*kinds, *[self._kill_worker] * (LEAST_DEATHS - 1)]
        self._rng.shuffle(first)
        over = time.monotonic() + seconds
        while time.monotonic() < over or not self._has_seen_all(len(kinds)):
            fault = first.pop() if first else self._rng.choices(kinds, weights)[0]
            with suppress(psutil.NoSuchProcess, ProcessLookupError, redis.ConnectionError):
                await fault()
                self.faults[fault.__name__.strip("_")] += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.6))
        await asyncio.gather(*self._asleep)
        await self._admin.aclose()

    def _has_seen_all(self, kinds: int) -> bool:
        return len(self.faults) == kinds and self.faults["kill_worker"] >= LEAST_DEATHS

    def _worker(self) -> psutil.Process:
        return self._rng.choice([w for found in self._supervisors for w in found.workers()])

    async def _kill_worker(self) -> None:
        now = time.monotonic()
        self._killed_at = [at for at in self._killed_at if now - at < RESTARTS_WINDOW]
        if len(self._killed_at) < DEATHS:
            self._killed_at.append(now)
            kill(self._worker().pid)
            await asyncio.sleep(0.5)

    async def _stop_worker(self) -> None:
        worker, seconds = self._worker(), self._rng.choice((0.05, 0.5, 3.5))
        await stop(worker)

        async def sleep() -> None:
            await asyncio.sleep(seconds)
            with suppress(ProcessLookupError):
                kill(worker.pid, number=signal.SIGCONT)

        task = asyncio.create_task(sleep())
        self._asleep.add(task)
        task.add_done_callback(self._asleep.discard)

    async def _cut_connections(self) -> None:
        await self._admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def _cut_listeners(self) -> None:
        await self._admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    async def _forget_scripts(self) -> None:
        await self._admin.script_flush()

    async def _stop_server(self) -> None:
        await stop(psutil.Process(self._site.server.pid))
        await asyncio.sleep(self._rng.choice((0.2, 1.0, 3.5)))
        self._site.server.signal(signal.SIGCONT)

    async def _restart_server(self) -> None:
        self._site.server.kill()
        await asyncio.sleep(self._rng.choice((0.0, 0.5, 3.0)))
        self._site.server.start()

    async def _reload(self) -> None:
        self._rng.choice(self._supervisors).send(signal.SIGHUP)


async def bring_in(site: Site, rng: random.Random, seconds: float) -> list[Handle[Receipt]]:
    """Start orders of every kind over so much time."""
    kinds: tuple[dict[str, str], ...] = (
        {}, {"charge": "once"}, {"reserve": "once"}, {"validate": "nap"}, {"ship": "nap"},
        {"reserve": "once", "notify": "nap"},
    )  # fmt: skip
    handles: list[Handle[Receipt]] = []
    for number in range(ORDERS):
        handles.append(await site.start(f"n{number}", **rng.choice(kinds)))
        await asyncio.sleep(seconds / ORDERS)
    return handles


@pytest.mark.parametrize("weather", range(3))
async def test_in_a_storm_every_order_is_done_and_every_recorded_step_once(
    tmp_path: Path, rng: random.Random, weather: int
) -> None:
    del weather  # each has its own random numbers
    async with site_at(tmp_path) as site:
        with (
            site.supervised(*OPTIONS, name="one") as one,
            site.supervised(*OPTIONS, name="two", workers=1) as two,
        ):
            await one.serves()
            await two.serves()
            storm = Storm(site, [one, two], rng)
            _, handles = await asyncio.gather(
                storm.rage(SECONDS), bring_in(site, random.Random(rng.random()), SECONDS)
            )
            stops = storm.faults["stop_worker"]
            await site.complete(handles, within=90 + SECONDS / 4, stops=stops)
            # The orders that nothing shall disturb come when no worker hands over to another.
            await one.has_workers(2)
            await two.has_workers(1)
            await site.is_alive()
            await site.is_consistent(workers=3, tidy=True)
            for process in (*everybody(one), *everybody(two)):
                assert process.num_fds() < FILES, process
            await site.ends(one, two)
