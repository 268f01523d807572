"""The owner of one run: it drives the run from its claim to its park or its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aiki.checkpoint import checkpoint
from aiki.context import provide, run_info
from aiki.ending import Ending
from aiki.errors import DataError
from aiki.execution import Execution
from aiki.failures import failure_from_exception, failure_to_json
from aiki.handler import calling
from aiki.middleware import Middleware, overriding
from aiki.operation import Host
from aiki.records import ClaimedRun, NextAttempt
from aiki.run import Run
from aiki.states import Status
from aiki.steering import Steer
from aiki.workflow import WorkflowVersion

_logger = logging.getLogger("aiki.actor")

JOURNAL_TIMEOUT = 60.0  # to read it; after that the run is given back, and fails again elsewhere
MAX_REASON = 500  # characters


class Actor:
    """Drives one run while this worker owns it."""

    def __init__(
        self,
        claimed: ClaimedRun,
        definition: WorkflowVersion[..., Any],
        host: Host,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.claimed = claimed
        self.owner = claimed.ownership
        self._definition = definition
        self._middleware = (*middleware, *definition.hooks.middleware)
        if self._middleware:
            host = replace(host, around_task=overriding(self._middleware, "task"))
        self._host = host
        self._run: Run | None = None
        self._ending: Ending | None = None
        self._is_notified = False
        self._is_suspended = False

    async def drive(self) -> None:
        """Replay, execute, and leave the run parked, handed back, stalled or over."""
        try:
            args, kwargs = self._definition.arguments.decode(self.claimed.input)
        except DataError as error:
            await self._stall(f"The run's input does not fit the code: {error}")
            return
        context = self._definition.hooks.context
        if context is None:
            await self._execute(args, kwargs, None)
            return
        opened = context.open(run_info(self.claimed))
        try:
            value = await opened.__aenter__()
        except Exception as error:
            _logger.exception("run %s: %s failed", self.owner.run_id, context)
            await self._stall(f"The run's context could not be made: {error!r}")
            return
        provide(context, value)
        try:
            await self._execute(args, kwargs, value)
        finally:
            try:
                await opened.__aexit__(None, None, None)
            except Exception:
                _logger.exception("run %s: %s failed at its end", self.owner.run_id, context)

    async def _execute(self, args: Sequence[Any], kwargs: Mapping[str, Any], context: Any) -> None:
        definition = self._definition
        run = self._run = Run(self.claimed, self._host, definition.arguments, definition.asked)
        run.context = context
        ending = self._ending = Ending(self.claimed, definition, run)
        around = overriding(self._middleware, "run")
        handler = partial(definition.handler, run, *args, **kwargs)
        run.begin(calling(run, definition, around, ending, handler))
        # What was asked while the run's older actor was still ending
        if self._is_notified:
            run.execution.news.look()
        if self._is_suspended:
            run.execution.suspend()
        try:
            while await self._follow(run.execution):
                run.execution.steer_again()
        finally:
            if not await run.execution.close():
                self._host.recycle(f"the handler of run {run.id} does not end when it is cancelled")

    def notified(self) -> None:
        """Look what has happened to the run from outside."""
        self._is_notified = True
        if self._run is not None and not self._run.execution.is_closed:
            self._run.execution.news.look()

    def suspend(self) -> None:
        """Hand the run back as soon as its executing steps are recorded."""
        self._is_suspended = True
        if self._run is not None:
            self._run.execution.suspend()

    def describe(self) -> dict[str, object]:
        """Say what the run is and what it waits for."""
        steps = [] if self._run is None else self._run.execution.describe()
        return {
            "run": self.owner.run_id,
            "workflow": self.claimed.workflow,
            "version": self.claimed.version,
            "epoch": int(self.owner.epoch),
            "waits_for": steps,
        }

    async def _follow(self, run: Execution) -> bool:
        """Do what the run asks for; tell whether it goes on."""
        what, detail = await run.steering.wish
        await run.flush()
        match what:
            case Steer.ENDED:
                await self._finish(run, *detail)
            case Steer.OVERDUE:
                await self._finish(run, None, None)
            case Steer.PARK:
                word = await self._host.runs.park(self.owner, *detail)
                return word == b"STAY"
            case Steer.STALL:
                await self._stall(detail)
            case Steer.RELEASE:
                # Nothing may be written after the hand-over, so the handler ends first.
                await run.close()
                owner = self.owner
                await self._host.runs.release(owner.run_id, owner.epoch, owner.incarnation)
            case Steer.CONTINUE:
                await run.close()
                await self._host.control.continue_run(self.owner, detail)
            case Steer.FENCED:
                _logger.info("run %s has another owner now", self.owner.run_id)
        return False

    async def _finish(
        self, run: Execution, result: bytes | None, error: BaseException | None
    ) -> None:
        assert self._ending is not None  # noqa: S101 - there is a handler that has ended
        if run.is_cancelled:
            status, payload = Status.CANCELLED, b""
        elif error is not None and self._ending.delay is not None:
            await self._try_later(run, error, self._ending)
            return
        elif error is not None:
            status, payload = Status.FAILED, failure_to_json(failure_from_exception(error))
            _logger.warning(
                "run %s of %s failed: %s", self.owner.run_id, self._definition.name, error
            )
        else:
            status, payload = Status.COMPLETED, result or b""
        abandoned = run.abandoned_by_finish()
        if abandoned:
            await run.close()
        await self._host.runs.finish(self.owner, status, payload, abandoned)

    async def _try_later(self, run: Execution, error: BaseException, ending: Ending) -> None:
        """Leave the run until the next attempt of its handler is due."""
        await run.close()
        failure = failure_from_exception(error)
        attempt, delay = self.claimed.attempt, ending.delay or 0
        journal = await self._host.runs.journal(self.owner.run_id, timeout=JOURNAL_TIMEOUT)
        point = checkpoint(journal, failure)
        reason = f"attempt {attempt} failed: {failure.type}: {failure.message}"[:MAX_REASON]
        _logger.warning(
            "run %s of %s is tried again in %g s: %s",
            self.owner.run_id,
            self._definition.name,
            delay,
            reason,
        )
        await self._host.control.retry_later(
            self.owner,
            NextAttempt(
                number=attempt + 1,
                begun=ending.begun,
                delay_ms=round(delay * 1000),
                reason=reason,
                dropped=point.dropped,
                loosened=point.loosened,
            ),
        )

    async def _stall(self, reason: str) -> None:
        _logger.error("run %s is stalled: %s", self.owner.run_id, reason)
        await self._host.runs.stall(self.owner, reason)
