"""The `Run` that a handler receives. A step asks the journal first and the store second."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from typing import Any

from aiki.errors import AikiError, DataError, DefinitionError, LimitExceeded
from aiki.execution import Execution
from aiki.operation import Host
from aiki.records import ClaimedRun
from aiki.step import StepSpec, is_in_step

MAX_DETAILS = 4096  # bytes: they are read whenever the run is listed

_logger = logging.getLogger("aiki.run")
_active: contextvars.ContextVar[Run | None] = contextvars.ContextVar("aiki_run", default=None)


class Run:
    """One execution of a workflow, as its handler sees it."""

    def __init__(self, claimed: ClaimedRun, host: Host) -> None:
        self.id = claimed.ownership.run_id
        self.execution = Execution(claimed, host)
        self._owner = claimed.ownership
        self._runs = host.runs
        self._specs: dict[str, StepSpec] = {}

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the run's id and is silent while recorded steps are repeated."""
        return _RunLogger(self)

    @property
    def is_replaying(self) -> bool:
        """Whether recorded steps are still to be repeated."""
        return self.execution.is_replaying

    async def set_details(self, text: str) -> None:
        """Say what the run is at, for whoever looks at it: `handle.describe()`, `aiki show`.

        The last text replaces those before. Nothing is said while recorded steps are repeated, and
        nothing is recorded in the journal. At most 4 KiB.

        Raises:
            DataError, LimitExceeded: it is no text, or too long.
            DefinitionError: it was called outside the handler.
        """
        text = _checked_details(text)
        if is_in_step() or _active.get() is not self or not self.execution.is_on_this_loop():
            raise DefinitionError(
                f"the details of run {self.id} were set outside its handler; set them in the "
                "handler, with the `run` that it was given"
            )
        if self.execution.is_closed:
            # The run is being left. The pause is for who swallows this, again and again.
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError
        if self.execution.is_replaying:
            return
        try:
            await self._runs.set_details(self._owner, text)
        except AikiError as error:  # nothing depends on it
            _logger.warning("the details of run %s were not stored: %s", self.id, error)

    def begin(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Let an actor start the handler."""

        async def active() -> Any:
            _active.set(self)
            return await handler()

        self.execution.begin(active)

    def execute_step(
        self, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        """Give a step's recorded outcome, or execute and record it. `Task.start` is this.

        Raises:
            TaskFailed: its attempts are exhausted.
            DataError, LimitExceeded: the input cannot be stored.
            DefinitionError: it was called where no step can run.
        """
        if is_in_step():
            raise DefinitionError(
                f"task {spec.name!r} was started inside a task; a task is one step, so start it "
                "from the workflow, or call it directly to run its code within this step"
            )
        if _active.get() is not self or not self.execution.is_on_this_loop():
            raise DefinitionError(
                f"task {spec.name!r} was started with run {self.id} outside that run's handler; "
                "start it in the handler, with the `run` that the handler was given"
            )
        known = self._specs.setdefault(spec.name, spec)
        if known is not spec and known.identity != spec.identity:
            raise DefinitionError(
                f"two tasks of this run are named {spec.name!r}: {known.source} and "
                f"{spec.source}; give one of them another name"
            )
        return self.execution.execute(spec, args, kwargs)


def _checked_details(text: object) -> str:
    if not isinstance(text, str):
        raise DataError(f"the details of a run are a str, not {type(text).__qualname__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"the details of a run are no text that can be stored: {error}") from None
    if size > MAX_DETAILS:
        raise LimitExceeded(f"the details of a run have {size} bytes; at most {MAX_DETAILS}")
    return text


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Says nothing while the run repeats what it has said before."""

    def __init__(self, run: Run) -> None:
        super().__init__(logging.getLogger("aiki.run"), {"run_id": run.id})
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name is logging's
        return not self._run.is_replaying and super().isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return f"[{self._run.id}] {msg}", {**kwargs, "extra": self.extra}
