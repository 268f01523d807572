"""What may be done to one run from outside."""

from __future__ import annotations

from aiki.checkpoint import before, checkpoint, is_undone
from aiki.errors import DataError, Failure, InvalidTransition, StoreUnavailable
from aiki.failures import failure_from_json
from aiki.names import checked_reason
from aiki.records import RunSnapshot
from aiki.states import Status
from aiki.store import Store
from aiki.store.control import beside

LOOKS = 10  # at a run that changes while it is looked at


class Controls:
    """The part of a handle that steers its run."""

    def __init__(self, run_id: str, store: Store, timeout: float) -> None:
        self.id = run_id
        self._store = store
        self._timeout = timeout

    async def cancel(self, reason: str = "") -> Status:
        """Ask the run to end, and return the status it has now.

        Its handler meets `CancelledError` at its next step and may clean up; then the run is
        `cancelled`. A run with nothing to clean up is cancelled at once. Cancelling again, or a
        run that is over, changes nothing. Raises `NotFound` if there is no such run, and
        `DataError` for a reason of more than 4 KiB.
        """
        said = checked_reason(reason)
        return await self._store.runs.request_cancel(self.id, said, timeout=self._timeout)

    async def wake_up(self) -> None:
        """End the sleeps that the run is in: each returns True, at once.

        Sleeps that begin later are not touched. Raises `NotFound` if there is no such run, and
        `InvalidTransition` if it is where no sleep can be.
        """
        await self._store.mailbox.wake_up(self.id, timeout=self._timeout)

    async def pause(self) -> Status:
        """Let the run rest, and return the status it has now.

        A run that executes starts nothing more; it is `paused` as soon as the steps that execute
        are recorded. What it is sent meanwhile is kept, and its sleeps and deadlines go on. To
        pause again changes nothing. Raises `NotFound` if there is no such run, and
        `InvalidTransition` if it is over, held, not due yet, or asked to end.
        """
        return await self._store.control.pause(self.id, timeout=self._timeout)

    async def resume(self) -> Status:
        """Let a run go on that rests or is stalled, and return the status it has now.

        Of a stalled run, the reason and the deaths that are known against it are forgotten. A run
        that does neither stays as it is. Raises `NotFound` if there is no such run, and
        `InvalidTransition` if it is over.
        """
        return await self._store.control.resume(self.id, timeout=self._timeout)

    async def terminate(self, reason: str = "") -> Status:
        """End the run at once as `cancelled`, without its handler, and return its status.

        Nothing is cleaned up; what executes is left unrecorded. A run that is over stays as it is.
        Raises `NotFound` if there is no such run, and `DataError` for a reason of more than 4 KiB.
        """
        said = checked_reason(reason)
        return await self._store.control.terminate(self.id, said, timeout=self._timeout)

    async def retry(self) -> None:
        """Let a failed run go on from its last checkpoint: what has a result keeps it.

        The failure that ended it is tried again, with new attempts. A deadline to finish holds no
        more. Raises `NotFound` if there is no such run, and `InvalidTransition` if it has not
        failed, has undone what it did, or its failure is among the results of a map whose run is
        not over.
        """
        control, runs = self._store.control, self._store.runs
        for _ in range(LOOKS):
            snapshot = await runs.snapshot(self.id, timeout=self._timeout)
            journal = await runs.journal(self.id, timeout=self._timeout)
            if is_undone(journal) and snapshot.status is Status.FAILED:
                raise InvalidTransition(
                    f"run {self.id} cannot go from failed to queued: its compensations have undone "
                    "what it did; start another one, or fork() it at a step"
                )
            point = checkpoint(journal, _failure(snapshot))
            if await control.retry(
                self.id, snapshot.epoch, point.dropped, point.loosened, timeout=self._timeout
            ):
                return
        raise _restless(self.id)

    async def delete(self) -> None:
        """Remove the run, which is over, with everything that belongs to it, at once.

        Raises `NotFound` if there is no such run, and `InvalidTransition` if it is not over.
        """
        await self._store.control.delete(self.id, timeout=self._timeout)

    async def _forked(self, at: str | None) -> str:
        """Fork the run and give the id of the new one."""
        key: object = at
        if key is not None and (not isinstance(key, str) or not key):
            raise DataError(f"at is the key of a step in journal(), not {key!r:.100}")
        new_id = beside(self.id)
        origin = self.id if at is None else f"{self.id} {at}"
        for _ in range(LOOKS):
            snapshot = await self._store.runs.snapshot(self.id, timeout=self._timeout)
            journal = await self._store.runs.journal(self.id, timeout=self._timeout)
            if (met := journal.get(snapshot.cancel_at)) is not None:
                # A fork was not cancelled, so it knows nothing of what came of that.
                journal = {key: entry for key, entry in journal.items() if entry.seq < met.seq}
            point = checkpoint(journal, _failure(snapshot)) if at is None else before(journal, at)
            if await self._store.control.fork(
                self.id, origin, point.kept, point.loosened, new_id=new_id, timeout=self._timeout
            ):
                return new_id
        raise _restless(self.id)


def _failure(snapshot: RunSnapshot) -> Failure | None:
    if snapshot.status is not Status.FAILED or snapshot.failure is None:
        return None
    return failure_from_json(snapshot.failure)


def _restless(run_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"run {run_id} changed each time it was looked at; try again")
