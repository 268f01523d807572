"""Where the runs are that are not over when a case fails: what its message does not tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from aiki.client import Client
from aiki.description import why
from aiki.states import Status

# Of runs, and of lines of each log. The whole log of each supervisor stands above them.
MOST = 12
LAST = 6
WIDE = 240
PATIENCE = 5.0
PENDING = frozenset(status for status in Status if not status.is_final)


async def plight(client: Client, logs: dict[str, str]) -> str:
    """Tell of each run that is not over where it is, as far as the store answers; and of logs."""
    lines = ["runs that are not over when it failed, the last to change first:"]
    try:
        async with asyncio.timeout(PATIENCE), client:
            lines += [line async for line in _runs(client)]
    except Exception as error:  # noqa: BLE001 - it must not hide the one that is being told of
        lines.append(f"the store does not tell: {type(error).__name__}: {error}")
    for name, log in logs.items():
        told = [line for line in log.splitlines() if not line.startswith(" ")]
        lines += [f"{name} said last:", *told[-LAST:]]
    return "\n".join(line[:WIDE] for line in lines)


async def _runs(client: Client) -> AsyncGenerator[str]:
    workers = {
        each.incarnation: f"{each.label} (pid {each.pid}, lease {each.expires_in:.1f} s)"
        for store in client.partitions.all
        for each in await store.workers.list()
    }
    count = 0
    async for run in client.runs(status=PENDING):
        count += 1
        if count > MOST:
            yield "… and others"
            return
        found = await client.partitions.of(run.id).runs.snapshot(run.id, timeout=PATIENCE)
        owner = workers.get(found.owner, found.owner) or "nobody"
        recorded = ", ".join(step.task for step in await client.handle(run.id).journal())
        marks = [f"{found.deaths} deaths"] if found.deaths else []
        marks += ["quarantined"] if found.quarantined else []
        marks += ["cancel wanted"] if found.cancel is not None else []
        yield f"{run.id} {run.workflow} {' '.join((found.status, *marks))} epoch {found.epoch}"
        yield f"  since {run.since:%H:%M:%S.%f} of {owner}; recorded: {recorded or 'nothing'}"
        if reason := why(found):
            yield f"  {reason.splitlines()[0]}"
