"""What a run does to undo what it did: registered as it goes, executed backwards where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from logging import Logger, LoggerAdapter
from typing import Any

from aiki.checkpoint import COMPENSATING
from aiki.execution import Execution

Undo = Callable[[], Coroutine[Any, Any, object]]


class Compensations:
    """The compensations that one run has registered so far.

    Each is a step like any other, so a worker's death in the middle repeats what is recorded, and
    goes on from there.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._registered: list[tuple[str, Undo]] = []

    def register(self, name: str, undo: Undo) -> None:
        """Note what undoes a step that is about to start."""
        self._registered.append((name, undo))

    async def execute(self, error: BaseException | None, logger: LoggerAdapter[Logger]) -> None:
        """Execute them, the last first; what fails is logged and told in a note of the error."""
        if not self._registered:
            return
        await self._execution.end_branches()
        # Before the first of them is recorded; from then on the run is not tried again.
        self._execution.notes.take(COMPENSATING, lambda: b"")
        while self._registered:
            name, undo = self._registered.pop()
            try:
                await self._uncancelled(undo)
            except Exception as failed:  # noqa: BLE001 - whatever it is, the others still run
                logger.error("compensation %r failed: %s", name, failed)  # noqa: TRY400
                if error is not None:
                    error.add_note(f"compensation {name!r} failed: {failed}")

    async def _uncancelled(self, undo: Undo) -> None:
        """Execute one, and once more where the run's cancel meets it instead of the handler."""
        was_met = self._execution.cancel_delivered
        try:
            await undo()
        except asyncio.CancelledError:
            if self._execution.is_closed or was_met or not self._execution.cancel_delivered:
                raise
            await undo()
