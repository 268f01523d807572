"""Whether timers are on time when many are due at once."""

from __future__ import annotations

import asyncio
import time

from aiki import Client, Status
from aiki.records import Ownership, ReadyEntry, entry_rest
from aiki.store.keys import new_run_id, new_token
from aiki.store.runs import NewRun
from aiki.store.workers import AboutWorker
from tests.benchmarks.figures import Bar, Figure, Report, Scale, percentile
from tests.benchmarks.plan import Plan, say
from tests.benchmarks.service import Service
from tests.benchmarks.speed import loop_seconds

MODULE = "tests.benchmarks.waiters"
NONE, LATE, LAST = Bar(0), Bar(250), Bar(1_000)


async def measure(plan: Plan) -> Report:
    """Let many be due in one second, of a version that nobody serves: they stop at `queued`."""
    count = plan.runs * 2
    async with Service(MODULE) as service:
        await service.start()
        async with service.client() as client:
            due = await _park(client, count)
            say(f"waits: {count:,} timers are due in one second")
            await asyncio.sleep(max(0.0, due / 1000 - time.time()) + 2.5)
            late = await _lateness(client, count)
            loop = loop_seconds()
    early = sum(each < 0 for each in late)
    figures = [
        Figure("timers of one second: fired early", "", [early], bar=NONE),
        Figure("timers of one second: late, p99", "ms", [percentile(late, 0.99)], Scale.TIME,
               [loop], LATE),
        Figure("timers of one second: late, the last", "ms", [max(late)], Scale.TIME, [loop],
               LAST),
    ]  # fmt: skip
    return Report(figures)


async def _park(client: Client, count: int) -> int:
    """Park runs whose sleeps end in one second, evenly; give when the first does."""
    store, runs = client.store, client.store.runs
    incarnation = new_token()
    stream = "ready:nobodys/1.0.0/default"
    about = AboutWorker("benchmark", "localhost", 1, 0.0)
    await store.workers.register(incarnation, 600.0, about, [stream])
    due = round((time.time() + 3 + count / 300) * 1000)

    async def one(number: int) -> None:
        new = NewRun(new_run_id(0), "nobodys", "1.0.0", "default", b"{}", "", "0" * 32)
        await runs.start([new], timeout=60.0)
        key = f"{_base(client)}run:{new.id}"
        entry = (await store.link.send(("HGET", key, "entry"))).decode()
        offer = ReadyEntry(stream, entry, new.id, "0")
        token = new_token()
        await runs.claim([offer], [token], incarnation, quarantine=False)
        owner = Ownership(new.id, "1", f"1:{token}", incarnation)
        until = due + number * 1000 // count
        rest = entry_rest(1, 0, 0, "benchmark", b"")
        await runs.open_wait(owner, "sleep/x#0", rest, until_ms=until)
        word = await runs.park(owner, Status.SLEEPING, 0, ["sleep/x#0"], ["sleep/x#0"])
        if word != b"PARKED":
            raise RuntimeError(f"park_run answered {word!r}")

    for first in range(0, count, 200):
        await asyncio.gather(*(one(number) for number in range(first, min(first + 200, count))))
    if time.time() * 1000 > due:
        raise RuntimeError("it took too long to park them all")
    await store.workers.recover(incarnation, cause="it is done")
    return due


async def _lateness(client: Client, count: int) -> list[float]:
    base, link = _base(client), client.store.link
    ids = await link.send(("ZRANGE", f"{base}index:active/nobodys", 0, -1))
    if len(ids) != count:
        raise RuntimeError(f"{len(ids)} of {count} timers have fired")
    replies = await asyncio.gather(
        *(link.send(("HMGET", f"{base}run:{run.decode()}", "since", "wake")) for run in ids)
    )
    return [float(int(since) - int(wake)) for since, wake in replies]


def _base(client: Client) -> str:
    return f"aiki:{client.store.namespace}:{{0}}:"
