"""The owner of one run: it drives the run from its claim to its park or its end."""

from __future__ import annotations

import logging
from typing import Any

from aiki.errors import AikiError, DataError
from aiki.execution import Execution
from aiki.failures import failure_from_exception, failure_to_json
from aiki.operation import Host
from aiki.records import ClaimedRun
from aiki.run import Run
from aiki.states import Status
from aiki.steering import Steer
from aiki.workflow import WorkflowVersion

_logger = logging.getLogger("aiki.actor")


class Actor:
    """Drives one run while this worker owns it."""

    def __init__(
        self, claimed: ClaimedRun, definition: WorkflowVersion[..., Any], host: Host
    ) -> None:
        self.claimed = claimed
        self.owner = claimed.ownership
        self._definition = definition
        self._host = host
        self._run: Run | None = None
        self._is_notified = False
        self._is_suspended = False

    async def drive(self) -> None:
        """Replay, execute, and leave the run parked, handed back, stalled or over."""
        try:
            args, kwargs = self._definition.arguments.decode(self.claimed.input)
        except DataError as error:
            await self._stall(f"The run's input does not fit the code: {error}")
            return
        run = self._run = Run(self.claimed, self._host, self._definition.asked)
        run.begin(lambda: self._definition.handler(run, *args, **kwargs))
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
            case Steer.FENCED:
                _logger.info("run %s has another owner now", self.owner.run_id)
        return False

    async def _finish(self, run: Execution, result: Any, error: BaseException | None) -> None:
        if run.cancel_delivered or self.claimed.cancel_at is not None:  # in this life or before
            status, payload = Status.CANCELLED, b""
        elif error is not None:
            status, payload = Status.FAILED, failure_to_json(failure_from_exception(error))
        else:
            try:
                status, payload = Status.COMPLETED, self._definition.result.encode(result)[0]
            except AikiError as refused:
                status, payload = Status.FAILED, failure_to_json(failure_from_exception(refused))
        if status is Status.FAILED:
            _logger.warning(
                "run %s of %s failed: %s", self.owner.run_id, self._definition.name, error
            )
        abandoned = run.abandoned_by_finish()
        if abandoned:
            await run.close()
        await self._host.runs.finish(self.owner, status, payload, abandoned)

    async def _stall(self, reason: str) -> None:
        _logger.error("run %s is stalled: %s", self.owner.run_id, reason)
        await self._host.runs.stall(self.owner, reason)
