"""A shop whose steps stand at gates, under a supervisor of its own.

A task notes its start and its end, with its process, in a ledger outside of the store, and waits
in between until the test opens its gate. So a test knows that a step is under way when it kills.
"""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from aiki.client import Client
from aiki.handle import Handle
from tests.support.embedded_users import is_running
from tests.support.supervised import Supervised, start
from tests.support.waiting import eventually

SHOP = """
import asyncio, os, pathlib, subprocess, sys, time
from aiki import Run, task, workflow

def note(text):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{text} {os.getpid()}\\n")

def is_open(name):
    return pathlib.Path(f"gate-{name}").exists()

@task
async def quick(name: str) -> str:
    note(f"quick {name}")
    return name

@task
async def gated(name: str) -> int:
    note(f"start {name}")
    while not is_open(name):
        await asyncio.sleep(0.01)
    note(f"end {name}")
    return os.getpid()

@task
def gated_in_thread(name: str) -> int:
    note(f"start {name}")
    while not is_open(name):
        time.sleep(0.01)
    note(f"end {name}")
    return os.getpid()

shop = workflow("shop")

@shop.v("1.0.0")
async def shop_v1(run: Run, name: str) -> int:
    await quick.start(run, name)
    return await gated.start(run, name)

threaded = workflow("threaded")

@threaded.v("1.0.0")
async def threaded_v1(run: Run, name: str) -> int:
    await quick.start(run, name)
    return await gated_in_thread.start(run, name)
"""

# The loop of the worker stands still while an asynchronous step is at its gate.
BLOCKING_SHOP = SHOP.replace("await asyncio.sleep(0.01)", "time.sleep(0.01)")


def shop_that(does: str, more: str = "") -> str:
    """Return a shop whose steps also do this when they start; `more` comes at its end."""
    return SHOP.replace('note(f"start {name}")', f'note(f"start {{name}}"); {does}') + more


def supervised(directory: Path, *arguments: str, source: str = SHOP) -> Supervised:
    """Prepare a supervisor of two workers; a test enters it to start it."""
    found = Supervised(directory, "shop", "--workers", "2", *arguments)
    found.write("shop", source)
    return found


@asynccontextmanager
async def serving(
    directory: Path, *arguments: str, source: str = SHOP
) -> AsyncGenerator[tuple[Supervised, Client]]:
    """Run a supervisor that serves, and a client of its store."""
    with supervised(directory, *arguments, source=source) as found:
        await found.serves()
        async with found.client() as client:
            yield found, client


async def started(
    found: Supervised, client: Client, name: str, workflow: str = "shop"
) -> Handle[object]:
    """Start a run, and wait until its gated step is under way."""
    handle = await start(client, workflow, name=name)
    await eventually(lambda: whose(found, f"start {name}"), what=f"the start of {name}")
    return handle


def whose(found: Supervised, what: str) -> list[int]:
    """Return the processes that have noted this, in the order of their notes."""
    return [int(line.rpartition(" ")[2]) for line in found.effects() if line.startswith(what + " ")]


def kill(*pids: int) -> None:
    """End processes with SIGKILL."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def gone(processes: list[psutil.Process], deadline: float = 30.0) -> None:
    """Wait until none of these processes lives."""
    await eventually(
        lambda: not any(is_running(process.pid) for process in processes), deadline, "their end"
    )


async def completes(found: Supervised, handle: Handle[object], name: str) -> None:
    """Open the gate, wait for the run, and see that its recorded step was executed once."""
    found.release(name)
    await handle.wait_for_completion(timeout=60)
    assert len(whose(found, f"quick {name}")) == 1
