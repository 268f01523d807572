"""The same order started by a hundred processes at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults.site import serving
from tests.support.supervised import ROOT

PROCESSES = 100

# Prepared once and forked before it has a loop: a hundred interpreters would take a minute to
# import the library. Each child waits for the end of its standard input, then starts the order.
STARTER = """
import asyncio, os, sys
from aiki.client import Client
from tests.faults.workload import Order, order_v1

async def start():
    async with Client(sys.argv[1]) as client:
        keyed = order_v1.with_options(idempotency_key="order-123")
        return (await keyed.start(client, Order("the one"))).id

children = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        sys.stdin.read()
        os.write(1, asyncio.run(start()).encode() + b"\\n")
        os._exit(0)
    children.append(child)
print("ready", flush=True)
failed = [child for child in children if os.waitpid(child, 0)[1]]
sys.exit(len(failed))
"""


async def test_a_hundred_processes_that_start_one_order_get_one_run(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=1) as (site, found):
        starter = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STARTER, site.server.url, str(PROCESSES),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert starter.stdout is not None
        assert starter.stdin is not None
        assert await starter.stdout.readline() == b"ready\n"
        starter.stdin.close()
        runs = Counter((await starter.stdout.read()).split())
        assert await starter.wait() == 0
        assert list(runs.values()) == [PROCESSES]
        (run,) = (each.decode() for each in runs)
        (story,) = await site.complete([site.handle(run)])
        assert story.is_undisturbed()
        assert {effect.run for effect in site.effects()} == {run}
        await site.is_consistent(workers=1)
        await site.ends(found)
