"""The model as a whole, with what is done to runs from outside."""

from __future__ import annotations

from collections.abc import Sequence

from aiki.states import FINAL, WAITING, Status
from tests.model.housekeeping import Housekeeping
from tests.model.owners import Owners


class Model(Owners, Housekeeping):
    """The store."""

    def post(self, run_id: str, message_id: str, message: bytes) -> str:
        """Put a message into a run's mailbox, once per id."""
        run = self.runs.get(run_id)
        if run is None:
            return "none"
        if message_id not in run.seen:
            if run.status in FINAL:
                return "refused"
            self.put_mail(run, message)
            run.seen.add(message_id)
        return "ok"

    def wake_up(self, run_id: str, request: str) -> list[bytes]:
        """End the sleeps that a run is in."""
        run = self.runs.get(run_id)
        if run is None:
            return [b"NONE"]
        if request not in run.seen:
            if run.status not in WAITING | {Status.RUNNING, Status.QUEUED, Status.PAUSED}:
                return [b"OVER", run.status.encode()]
            self.stir(run)
            run.wakes += 1
            run.news += 1
            run.seen.add(request)
        return [b"OK", run.status.encode()]

    def request_cancel(self, run_id: str, reason: str) -> str:
        """Ask a run to end."""
        run = self.runs.get(run_id)
        return "none" if run is None else self.cancelled(run, reason)

    def terminate(self, run_id: str, reason: str) -> str:
        """End a run at once, without its handler."""
        run = self.runs.get(run_id)
        if run is None:
            return "none"
        if run.status not in FINAL:
            if run.owner in self.workers:
                self.workers[run.owner].notices.add(run_id)
            self.withdraw(run)
            self.end(run, Status.CANCELLED, reason.encode())
            self.drop_timers(run)
        return run.status

    def pause(self, run_id: str) -> str:
        """Have a run rest; its owner is told."""
        run = self.runs.get(run_id)
        if run is None:
            return "none"
        if run.status is Status.PAUSED or (run.status is Status.RUNNING and run.pause):
            return run.status
        if run.status not in WAITING | {Status.RUNNING, Status.QUEUED} or run.cancel is not None:
            return "refused"
        run.pause = True
        if run.status is Status.RUNNING:
            run.news += 1
            self.stir(run)
        else:
            self.withdraw(run)
            self.enqueue(run)
            self.timers.pop(run_id, None)
        return run.status

    def resume(self, run_id: str) -> str:
        """Let a run go on that rests or is held; what is known against it is forgotten."""
        run = self.runs.get(run_id)
        if run is None or run.status in FINAL:
            return "none" if run is None else "refused"
        run.pause = False
        if run.status is Status.STALLED:
            run.quarantine, run.deaths = False, 0
        if run.status in (Status.PAUSED, Status.STALLED):
            self.enqueue(run)
        return run.status

    def retry(
        self, run_id: str, epoch: int, dropped: Sequence[str], loosened: Sequence[str]
    ) -> str:
        """Let a failed run go on, once for each time that it failed."""
        run = self.runs.get(run_id)
        if run is None:
            return "none"
        if run.retried == epoch:
            return "ok"
        if run.status is not Status.FAILED:
            return "refused"
        if run.epoch != epoch:
            return "changed"
        self.untell(run)
        run.pause = False
        self.enqueue(run)
        run.retried, run.failure, run.cancel, run.cancel_at = epoch, None, None, None
        run.attempt, run.finish_by, run.deaths, run.progress = 1, None, 0, None
        self.checkpoint(run, dropped, loosened)
        self.timers.pop(f"{run_id}!finish", None)
        self.cascades.discard(run_id)
        return "ok"

    def delete(self, run_id: str) -> str:
        """Remove a run that is over, and remember its id."""
        run = self.runs.get(run_id)
        if run is None:
            return "ok" if run_id in self.deleted else "none"
        if run.status not in FINAL or self.is_awaited(run):
            return "refused"
        self.remove(run)
        self.deleted.add(run_id)
        return "ok"
