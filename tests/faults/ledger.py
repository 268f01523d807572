"""The effect ledger: what tasks really did, noted in a file that no fault of Redis can touch.

A line is one system call on a file opened for appending, so lines of several processes never mix
and stand in the order in which they were written.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from aiki import current_step

VARIABLE = "LEDGER"

Phase = Literal["start", "end", "fail"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that one execution of a step did."""

    run: str
    step: str
    """The step's key in the journal of its run."""
    attempt: int
    pid: int
    execution: str
    """Drawn by the task each time it is called, and part of what it returns."""
    phase: Phase
    at: int
    """Nanoseconds of the clock that all processes of this machine share."""

    @property
    def task(self) -> str:
        """The name of the step's task."""
        return self.step.partition(":")[0]


def place() -> Path:
    """Give the directory of this process's ledger, where gates and traps lie too."""
    return Path(os.environ[VARIABLE]).parent


def note(execution: str, phase: Phase, at: int | None = None) -> None:
    """Append what the calling task did, now or at a time of before."""
    step = current_step()
    key = step.key.partition("/")[2]
    effect = Effect(
        step.run_id, key, step.attempt, os.getpid(), execution, phase, at or time.monotonic_ns()
    )
    line = json.dumps(asdict(effect)) + "\n"
    file = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(ledger: Path, run: str | None = None) -> list[Effect]:
    """Read the effects so far, in their order; of one run, or of all."""
    if not ledger.exists():
        return []
    # A line that goes beyond a page of memory is seen in two parts while it is being written.
    *lines, _ = ledger.read_text().split("\n")
    effects = [Effect(**json.loads(line)) for line in lines]
    return [effect for effect in effects if run in (None, effect.run)]
