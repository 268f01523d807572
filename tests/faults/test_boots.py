"""Workers that cannot boot, or not any more, and definitions that cannot be imported."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from aiki.supervisor.exits import Exit
from tests.faults.site import WORKLOAD, has_ended, kill, site_at
from tests.support.supervised import Supervised, start

# Serves the workload until the day when its import fails.
FRAGILE = f"""
import pathlib
from {WORKLOAD} import orders
if pathlib.Path("broken").exists():
    raise RuntimeError("this code is broken now")
"""

# What is typed into a shell or a notebook is in no file that a worker could import.
NOTEBOOK = """
import os, socket, sys
from aiki import Run, task, workflow
from aiki.supervisor import Supervisor

suffix = "!"
{captured}

@task
async def shout(word: str) -> str:
    return word + suffix + str(os.getpid() != {pid}) {use}

shouting = workflow("shouting")

@shouting.v("1.0.0")
async def shouting_v1(run: Run, word: str) -> str:
    return await shout.start(run, word)

Supervisor(workflows=[shouting], workers=1).run()
"""


@pytest.mark.slow
async def test_code_that_does_not_import_any_more_is_tried_again_and_again_but_not_in_a_hurry(
    tmp_path: Path,
) -> None:
    async with site_at(tmp_path) as site:
        found = site.supervised("--lease", "60s", module="fragile")
        found.write("fragile", FRAGILE)
        with found:
            await found.serves()
            handles = await site.start_many(4, charge="gate:open")
            for handle in handles:
                await site.under_way(handle, "charge")
            broken = found.directory / "broken"
            broken.touch()
            victims = await found.has_workers(2)
            kill(*(victim.pid for victim in victims))
            await has_ended(*victims)
            await asyncio.sleep(4.0)  # the fault
            tries = found.output().count("this code is broken now")
            assert tries <= 30
            await found.says("(?s)this code is broken now.*this code is broken now")
            broken.unlink()
            site.open("open")
            await site.complete(handles)
            await site.is_alive()
            await found.has_workers(2)
            await site.is_consistent(workers=2)
            await site.ends(found)


async def test_definitions_of_a_notebook_are_served(tmp_path: Path) -> None:
    source = NOTEBOOK.format(captured="", pid="0", use="")
    with Supervised(tmp_path, command=("-c", source)) as found:
        await found.serves()
        async with found.client() as client:
            handle = await start(client, "shouting", word="hello")
            assert await handle.wait_for_completion(timeout=60) == "hello!True"
        found.send(signal.SIGTERM)
        assert await found.ends() == 0


async def test_definitions_of_a_notebook_that_hold_what_cannot_travel_are_refused_at_once(
    tmp_path: Path,
) -> None:
    captured = "line = socket.socketpair()[0]"
    source = NOTEBOOK.format(captured=captured, pid="0", use="+ str(line)")
    with Supervised(tmp_path, command=("-c", source)) as found:
        assert await found.ends() not in (0, Exit.BUDGET)
        assert "shout captures line, a socket.socket" in found.output()
        assert found.leftovers() == []
