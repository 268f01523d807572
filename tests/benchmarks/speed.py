"""How fast this machine is at the moment: a fixed piece of pure Python, timed beside each round.

The speed of shared machines drifts by half within minutes. A figure is told as it was measured,
and also as it would have been at the speed at which the loop takes `REFERENCE` seconds.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

REFERENCE = 0.020
_ITERATIONS = 100_000
_PASSES = 5


@dataclass(slots=True)
class _Counter:
    total: int = 0

    def add(self, number: int) -> None:
        self.total = (self.total * 31 + number) & 0xFFFFFF


def loop_seconds() -> float:
    """Time the loop: the median of some passes, each short enough to fit between two others."""
    return statistics.median(_one_pass() for _ in range(_PASSES))


def _one_pass() -> float:
    counter = _Counter()
    table: dict[int, int] = {}
    begun = time.perf_counter()
    for number in range(_ITERATIONS):
        counter.add(number)
        table[number & 255] = counter.total
    return time.perf_counter() - begun
