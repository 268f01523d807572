"""What a run's record and the ledger tell together, and what must be true of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from aiki.client import Client
from aiki.description import RecordedStep
from aiki.handle import Handle
from aiki.states import Status
from tests.faults.ledger import Effect
from tests.faults.workload import STEPS, Receipt

LONGEST_READ = 10.0


@dataclass(frozen=True)
class Story:
    """A run that has completed."""

    starts: Counter[str]
    """How often each step was begun, by the name of its task."""
    ends: Counter[str]
    """How often each step had its effect."""
    epoch: int
    late: int
    """How many starts came after what is recorded was done."""

    def is_undisturbed(self) -> bool:
        """Tell whether each step was executed once, by the first owner."""
        once = Counter(STEPS)
        return self.starts == once and self.ends == once and self.epoch == 1

    @classmethod
    async def checked(
        cls, client: Client, handle: Handle[Receipt], receipt: Receipt, ledger: Sequence[Effect]
    ) -> Self:
        """Read it, and check that its result is right and final and no step ran without need."""
        assert await handle.wait_for_completion(timeout=0) == receipt
        snapshot = await client.partitions.of(handle.id).runs.snapshot(
            handle.id, timeout=LONGEST_READ
        )
        assert snapshot.status is Status.COMPLETED
        effects = [effect for effect in ledger if effect.run == handle.id]
        recorded = await handle.journal()
        # What it ended with is what is recorded of its steps, of each one thing.
        assert Counter(step.task for step in recorded) == Counter(STEPS)
        assert {step.task: step.result for step in recorded} == receipt.executions
        late = sum(
            len(_checked_step(step, [effect for effect in effects if effect.step == step.key]))
            for step in recorded
        )
        return cls(_counted(effects, "start"), _counted(effects, "end"), snapshot.epoch, late)


def _checked_step(step: RecordedStep, effects: list[Effect]) -> list[Effect]:
    """Check one step, and give what began it again after what is recorded of it was done."""
    # A process that is stopped between looking at the clock and writing its line is late with it.
    effects = sorted(effects, key=lambda effect: effect.at)
    starts = [effect for effect in effects if effect.phase == "start"]
    ends = [effect for effect in effects if effect.phase == "end"]
    assert 1 <= len(ends) <= len(starts), effects
    assert len({effect.execution for effect in starts}) == len(starts), effects
    # Each attempt but the last was recorded as failed, and a death is no attempt.
    failed = {effect.attempt for effect in effects if effect.phase == "fail"}
    assert step.outcome == "completed", step
    assert step.attempts == len(failed) + 1, (step, effects)
    attempts = [effect.attempt for effect in starts]
    assert attempts == sorted(attempts), effects
    assert set(attempts) == set(range(1, step.attempts + 1)), effects
    done = next(n for n, e in enumerate(effects) if (e.execution, e.phase) == (step.result, "end"))
    return [effect for effect in effects[done:] if effect.phase == "start"]


def _counted(effects: Sequence[Effect], phase: str) -> Counter[str]:
    return Counter(effect.task for effect in effects if effect.phase == phase)
