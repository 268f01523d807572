"""What happens to runs by their workers, by time, and by whoever keeps house."""

from __future__ import annotations

from collections.abc import Sequence

from aiki.states import FINAL, WAITING, Status
from tests.model.records import ModelRun, Offer, Records, Worker

NEVER_CLAIMED = "deadline: it was not started in time"
NOT_OVER = "deadline: it was not over in time"


class Housekeeping(Records):
    """The scripts that workers send about themselves, and those that look after everything."""

    quarantine_after = 1  # deaths without progress; fewer than in earnest, so that it happens
    stall_after = 3

    # Workers

    def register(self, name: str, lease: int) -> bytes:
        """Begin a life, which begins once."""
        worker = self.workers.get(name)
        if name in self.gone or (worker is not None and worker.lease == 0):
            return b"DEAD"
        self.workers.setdefault(name, Worker(0)).lease = self.now + lease
        return b"OK"

    def beat(self, name: str, lease: int) -> list[object]:
        """Renew a lease, never create one; hear what to look at."""
        worker = self.workers.get(name)
        if worker is None or worker.lease == 0:
            return [b"DEAD"]
        worker.lease = self.now + lease
        return [b"OK", sorted(run_id.encode() for run_id in worker.notices)]

    def deliver(self, worker: str, *, alone: bool) -> Offer | None:
        """Let a worker read the first offer that nobody has read."""
        stream = self.alone if alone else self.ready
        offer = next((each for each in stream if each.reader is None), None)
        if offer is not None:
            offer.reader = worker
        return offer

    def claim(
        self, offer: Offer, worker: str, secret: str, *, from_alone: bool, serves_alone: bool
    ) -> ModelRun | bytes:
        """Take what an offer offers. The record decides; the same token is answered again."""
        stream = self.alone if from_alone else self.ready
        run = self.runs.get(offer.run_id)
        if run is not None and run.token == f"{run.epoch}:{secret}":
            return run
        if run is None or run.status is not Status.QUEUED or run.epoch != offer.epoch:
            if offer in stream:
                stream.remove(offer)
            return b"STALE"
        dead = self.workers.get(worker, Worker(0)).lease == 0
        if dead or (run.quarantine and not serves_alone):
            if offer in stream:
                stream.remove(offer)
                self.offer(run)
            return b"DEAD" if dead else b"ALONE"
        if offer in stream:
            stream.remove(offer)
        run.epoch += 1
        self.move(run, Status.RUNNING)
        run.owner, run.token = worker, f"{run.epoch}:{secret}"
        self.workers[worker].runs.add(run.id)
        return run

    def find_expired(self, lease: int) -> list[str]:
        """Name who is given up. If nobody has looked for long, everybody gets a lease of grace."""
        if self.looked_at is not None and self.now - self.looked_at > lease / 2:
            self.grace = self.now + lease
        self.looked_at = self.now
        before = 1 if self.now < self.grace else self.now
        return sorted(
            (name for name, worker in self.workers.items() if worker.lease < before),
            key=lambda name: (self.workers[name].lease, name),
        )

    def recover(
        self,
        name: str,
        order: Sequence[str],
        *,
        counted: bool,
        suspects_after: int | None,
        only_if_expired: bool,
    ) -> tuple[list[str], list[str]]:
        """Give back what a worker held. A step since the last death forgives all deaths.

        `order` is that of the runs in the set of those which it owns.
        """
        worker = self.workers.get(name)
        queued, stalled = list[str](), list[str]()
        if worker is None:
            self._offer_again(name)
            return queued, stalled
        if only_if_expired and worker.lease and (worker.lease >= self.now or self.now < self.grace):
            return queued, stalled
        for run_id in sorted(worker.runs, key=order.index):
            run = self.runs[run_id]
            progress = len(run.journal)
            deaths = run.deaths if run.progress == progress else 0
            is_suspect = (
                suspects_after is not None
                and run.recovered is not None
                and run.recovered >= self.now - suspects_after
            )
            run.deaths, run.progress = deaths + (counted or is_suspect), progress
            if run.deaths < self.stall_after:
                run.quarantine = run.quarantine or run.deaths >= self.quarantine_after
                run.recovered = self.now
                self.enqueue(run, epoch=run.epoch + 1)
                queued.append(run_id)
                continue
            run.epoch += 1
            if self.held(run):
                stalled.append(run_id)
        self._offer_again(name)
        del self.workers[name]
        self.gone.add(name)
        return queued, stalled

    def _offer_again(self, name: str) -> None:
        """Add anew what was delivered to a reader and not claimed."""
        for stream in (self.ready, self.alone):
            for offer in [each for each in stream if each.reader == name]:
                self.again(stream, offer)

    # Time

    def fire_timers(self) -> int:
        """Queue what is due, and apply deadlines, in the order of their times."""
        due = sorted((at, name) for name, at in self.timers.items() if at <= self.now)
        woken = 0
        for _, name in due:
            run_id, _, deadline = name.partition("!")
            run = self.runs.get(run_id)
            if run is None:
                continue
            if deadline == "finish":
                self.cancelled(run, NOT_OVER)
            elif deadline == "start" and run.epoch == 0:
                self.cancelled(run, NEVER_CLAIMED)
            elif not deadline and run.status in WAITING | {Status.SCHEDULED}:
                self.enqueue(run)
                woken += 1
        for _, name in due:
            self.timers.pop(name, None)
        return woken

    def requeue_idle(self) -> int:
        """Add anew what was delivered and not claimed."""
        moved = 0
        for stream in (self.ready, self.alone):
            for offer in [each for each in stream if each.reader is not None]:
                self.again(stream, offer)
                moved += 1
        return moved

    def stall_unserved(self, order: Sequence[str]) -> list[str]:
        """Hold what is offered to nobody, or end it where it was to end."""
        found = list[str]()
        if self.is_served:
            return found
        for name in order:
            stream = self.alone if name.endswith("/quarantine") else self.ready
            for offer in list(stream):
                run = self.runs.get(offer.run_id)
                if run is not None and run.status is Status.QUEUED and run.epoch == offer.epoch:
                    self.held(run)
                    found.append(run.id)
                stream.remove(offer)
        return found

    def remove_finished(self) -> int:
        """Remove what is over, but for children whose end is still to be taken."""
        over = [run for run in self.runs.values() if run.status in FINAL]
        for run in over:
            if self.is_awaited(run):
                run.listed_at = self.now
            else:
                self.remove(run)
        return len(over)

    def cascade(self, parent_id: str, order: Sequence[str]) -> None:
        """Let the children of a run that is over end too, as each was started to."""
        parent = self.runs.get(parent_id)
        children = self.orphans.pop(parent_id) if parent is None else parent.children
        self.cascades.discard(parent_id)
        for child_id in order:
            child = self.runs.get(child_id)
            if children.pop(child_id) == "cancel" and child is not None:
                self.cancelled(child, f"its parent, run {parent_id}, is over")
