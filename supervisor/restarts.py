"""When a worker process that died is started again: now, after a while, or not at all.

A death is forgotten after `WINDOW` seconds. Until then it does two things:

- it delays its own slot. The first restart of a slot is immediate, the next ones wait longer and
  longer, so that a worker that dies at once does not keep a core busy with being born;
- it is charged to the budget that all slots share. When more than `BUDGET` are charged, what is
  wrong is not one worker, and starting more of them helps nobody: the supervisor gives up.

Workers found dead at the same moment have one cause and are charged once. Not charged at all are
the deaths of quarantine workers, which exist to die, and of workers that could not boot while
others serve, since those others are worth more than the complaint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW = 60.0
"""Seconds after which a death is forgotten."""

BUDGET = 10
"""Restarts allowed within the window; one more death ends the supervisor."""

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
# With 1.5, a single worker that dies whenever it starts spends the budget within the window: its
# ten restarts wait 8 s in all. With 2 they would wait 51 s, and the supervisor would never end.
GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Death:
    """The unplanned end of one worker process; `at` is when it was found, in seconds."""

    slot: int
    at: float
    charged: bool = True


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the slot's next worker process `after` seconds."""

    after: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Start none, and end the supervisor; `reason` is a sentence."""

    reason: str


def decide(deaths: Sequence[Death], slot: int, now: float) -> Restart | GiveUp:
    """Return what follows from the latest death of `slot`; `deaths` holds it and those before."""
    recent = [death for death in deaths if now - death.at < WINDOW]
    charged = len({death.at for death in recent if death.charged})
    if charged > BUDGET:
        return GiveUp(
            f"worker processes died {charged} times within {WINDOW:g} s; {BUDGET} are allowed"
        )
    own = sum(death.slot == slot for death in recent)
    if own <= 1:
        return Restart(after=0.0)
    return Restart(after=min(FIRST_DELAY * GROWTH ** (own - 2), LONGEST_DELAY))


def remembered(deaths: Sequence[Death], now: float) -> list[Death]:
    """Return the deaths that may still matter to `decide`."""
    return [death for death in deaths if now - death.at < WINDOW]
