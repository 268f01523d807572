"""How much is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of the measurements; the bars are meant for the default."""

    rounds: int = 3
    runs: int = 5_000
    """Per round of a throughput; the other sizes follow from it."""

    @property
    def warm_up(self) -> int:
        """Runs before the first round: connections, caches and branch predictors have seen some."""
        return max(100, self.runs // 5)

    @property
    def alone(self) -> int:
        """Runs per round that are started one after the other."""
        return max(20, self.runs // 25)

    @property
    def stored(self) -> int:
        """Finished runs that a full store holds."""
        return self.runs * 40


def say(text: str) -> None:
    """Tell whoever waits how far it is; the table is all that goes to the standard output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
