"""A workflow whose tasks write down each execution in a file that no store and no worker owns."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

from aiki import Run, current_step, task, workflow

VARIABLE = "LEDGER"
_LOOK = 0.02

_opened: dict[str, asyncio.Task[None]] = {}


@task
async def prepare(gate: str) -> str:
    """Be over when the worker is killed."""
    _write_down("prepare")
    return gate


@task
async def hold(gate: str) -> str:
    """Be executing when the worker is killed, and until the gate is opened."""
    _write_down("hold")
    waiting = _opened.get(gate)
    if waiting is None:
        waiting = _opened[gate] = asyncio.create_task(_wait_for(gate))
    await asyncio.shield(waiting)
    return gate


@task
async def conclude(gate: str) -> str:
    """Come after the kill."""
    _write_down("conclude")
    return gate


held_workflow = workflow("held")


@held_workflow.v("1.0.0")
async def held_workflow_v1(run: Run, gate: str) -> str:
    await prepare.start(run, gate)
    await hold.start(run, gate)
    return await conclude.start(run, gate)


def executions(ledger: Path) -> Counter[tuple[str, str]]:
    """Count the executions of each step of each run: by task and run id."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return Counter((step, run_id) for step, run_id in (line.split() for line in lines))


def gate_file(ledger: Path, gate: str) -> Path:
    """Give the file whose existence opens a gate."""
    return ledger.with_name(f"gate-{gate}")


def _write_down(step: str) -> None:
    line = f"{step} {current_step().run_id}\n"
    ledger = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


async def _wait_for(gate: str) -> None:
    file = gate_file(Path(os.environ[VARIABLE]), gate)
    while not file.exists():  # noqa: ASYNC110  (another process creates it)
        await asyncio.sleep(_LOOK)
