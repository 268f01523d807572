"""The work that every peer is given: an order in four steps. Needs the standard library alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

STEPS = ("validate", "pay", "reserve", "confirm")
VARIABLE = "PEERS_TALLY"
_LINE = 16
_LOOK = 0.002
_opened: dict[str, int] = {}


Order = dict[str, Any]  # plain, so that everybody's own encoding takes it


def make_order(number: int, pause: float = 0.0) -> Order:
    """Make an order each of whose steps takes so many seconds; 0 to measure the runtime alone."""
    return {
        "number": number,
        "pause": pause,
        "items": [{"id": "item-1", "quantity": 2}, {"id": "item-2", "quantity": 1}],
        "total": 99.99,
        "email": "customer@example.com",
    }


def act(step: str, order: Order) -> str:
    """Take one step, in a thread of the peer's."""
    if order["pause"]:
        time.sleep(order["pause"])
    return _over(step, order)


async def act_async(step: str, order: Order) -> str:
    """Take one step, on the loop of the peer's."""
    if order["pause"]:
        await asyncio.sleep(order["pause"])
    return _over(step, order)


def _over(step: str, order: Order) -> str:
    # The last step tells the client that the run is over. The others are only counted where they
    # take their time anyway.
    if order["pause"] or step == STEPS[-1]:
        path = os.environ[VARIABLE]
        if path not in _opened:
            _opened[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(_opened[path], f"{order['number']:>6} {step:<8}\n".encode())
    return f"{step}-{order['number']}"


class Tally:
    """What was executed, in a file that no store and no worker owns: a line for each step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def clear(self) -> None:
        """Forget everything; writers go on appending."""
        self.path.touch()
        self.path.chmod(0o666)
        os.truncate(self.path, 0)

    def lines(self) -> int:
        return self.path.stat().st_size // _LINE

    def executed(self) -> Counter[tuple[int, str]]:
        """Count the executions of each step of each order."""
        lines = self.path.read_text().splitlines()
        return Counter((int(number), step) for number, step in map(str.split, lines))

    def ended(self) -> int:
        """Count the orders whose last step has been executed."""
        return sum(step == STEPS[-1] for _, step in self.executed())

    async def reaches(self, lines: int, within: float) -> None:
        """Wait until so many lines are there."""
        async with asyncio.timeout(within):
            while self.lines() < lines:  # noqa: ASYNC110  (other processes write it)
                await asyncio.sleep(_LOOK)
