"""What the end of a handler means for its run: a result, a compensation, another attempt."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from aiki.checkpoint import is_undone
from aiki.errors import DataError, DefinitionError, LimitExceeded, NonRetryable, TaskFailed
from aiki.records import ClaimedRun, EntryKind
from aiki.run import Run
from aiki.workflow import WorkflowVersion

# As failures name them. A task that says so means the run as well.
_FINAL = {
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in (NonRetryable, DataError, LimitExceeded, DefinitionError)
}


class Ending:
    """The end of one owner's execution of a handler."""

    def __init__(
        self, claimed: ClaimedRun, definition: WorkflowVersion[..., Any], run: Run
    ) -> None:
        self._claimed = claimed
        self._definition = definition
        self._run = run
        self.delay: float | None = None
        """Seconds to the next attempt, where the handler failed and has one."""

    @property
    def begun(self) -> int:
        """When the first attempt began, in milliseconds of the server's clock."""
        claimed = self._claimed
        steps = [
            entry.written - entry.spent
            for entry in claimed.journal.values()
            if entry.kind is not EntryKind.ABANDONED
        ]
        return claimed.begun or min([claimed.now, *steps])

    async def of(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> bytes:
        """Call the handler and give its result as it is stored; undo what it did if it fails."""
        try:
            payload = self._definition.result.encode(await handler())[0]
        except (KeyboardInterrupt, GeneratorExit):
            raise  # it did not fail: somebody else ends it
        except BaseException as error:
            if not self._run.execution.is_closed and not self._is_tried_again(error):
                await self._run.undo(error)
            raise
        if self._run.execution.is_cancelled:
            await self._run.undo(None)
        return payload

    def _is_tried_again(self, error: BaseException) -> bool:
        if self._run.execution.is_cancelled or is_undone(self._claimed.journal):
            return False
        if isinstance(error, TaskFailed) and error.failure.type in _FINAL:
            return False
        spent = (self._run.execution.commits.server_now() - self.begun) / 1000
        self.delay = self._definition.retry.next_delay(
            self._claimed.attempt,
            spent,
            error,
            random.random(),  # noqa: S311 - jitter
        )
        return self.delay is not None
