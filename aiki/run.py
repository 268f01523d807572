"""The `Run` that a handler receives. A step asks the journal first and the store second."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from typing import Any

from aiki.context import RunInfo, run_info
from aiki.current_step import is_in_step
from aiki.errors import DefinitionError, Failure
from aiki.execution import Execution
from aiki.operation import Host
from aiki.records import ClaimedRun
from aiki.step import StepSpec

_active: contextvars.ContextVar[Run | None] = contextvars.ContextVar("aiki_run", default=None)


class Run:
    """One execution of a workflow, as its handler sees it."""

    context: Any = None
    """What the workflow's `context` made for this execution. The type is known to `get` of what
    `run_context` has returned, which gives the same."""

    def __init__(self, claimed: ClaimedRun, host: Host) -> None:
        self.id = claimed.ownership.run_id
        self._claimed = claimed
        self.execution = Execution(claimed, host)
        self._specs: dict[str, StepSpec] = {}

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries the run's id and is silent while recorded steps are repeated."""
        return _RunLogger(self)

    @property
    def info(self) -> RunInfo:
        """What is known of the run: its workflow and version, its input, when it was created."""
        return run_info(self._claimed)

    @property
    def is_replaying(self) -> bool:
        """Whether recorded steps are still to be repeated."""
        return self.execution.is_replaying

    def begin(self, handler: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Let an actor start the handler."""

        async def active() -> Any:
            _active.set(self)
            return await handler()

        self.execution.begin(active)

    def execute_hook(self, spec: StepSpec, failure: Failure) -> Coroutine[Any, Any, Any]:
        """Execute the step that is told of the run's failure.

        It is the same step however the failure is described: a traceback may be another one when
        the handler is repeated.
        """
        return self.execute_step(spec, (failure,), {}, called=b"on_failure")

    def execute_step(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        called: bytes | None = None,
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
        return self.execution.execute(spec, args, kwargs, called)


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
