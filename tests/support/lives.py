"""Lives of runs that end with the death of their owner, and what must be true across them."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiki.handle import Handle
from tests.support.app import App, Definition
from tests.support.deaths import MortalRuns, let_die
from tests.support.programs import WITNESS
from tests.support.waiting import eventually


async def one_life(
    app: App,
    definitions: Sequence[Definition],
    handles: Sequence[Handle[Any]],
    writes: Mapping[str, int],
    *,
    unheard: bool,
    cancelled: Sequence[Handle[Any]] = (),
) -> MortalRuns:
    """Let a worker make so many writes about each run, then end it as if it had died.

    A run without a number is executed to its end. With `unheard`, the last write is done, and
    its reply is lost.
    """
    client = await app.connect()
    runs = let_die(client, unheard=unheard)
    runs.left.update(writes)
    worker = await app.serve(*definitions, client=client)
    try:
        for handle in cancelled:
            if (await handle.cancel("enough")).is_final:
                runs.over.add(handle.id)
        await eventually(
            lambda: all(handle.id in runs.dead | runs.over for handle in handles),
            deadline=60,
            what="the end of each run or of its owner",
        )
    finally:
        await app.end(worker)
        runs.forget()
    return runs


async def recorded_effects(handles: Sequence[Handle[Any]]) -> dict[str, int]:
    """Give the steps that are recorded, and how often each was executed."""
    journals = await asyncio.gather(*(handle.journal() for handle in handles))
    keys = [
        f"{handle.id}/{step.key}"
        for handle, journal in zip(handles, journals, strict=True)
        for step in journal
        if step.outcome != "retrying"
    ]
    return {key: WITNESS.effects[key] for key in keys}


def check_lives(handle: Handle[Any], what: str = "") -> None:
    """Check that each life began with what the one before had seen."""
    lives = WITNESS.lives[handle.id]
    for life in lives:
        assert list(life) == lives[-1][: len(life)], what
