"""What an owner does with its run. Every write carries its token; with another nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

from aiki.records import EntryKind, Ownership
from aiki.states import FINAL, Status
from tests.model.records import Records, Step, When


class Owners(Records):
    """The scripts that actors send."""

    def commit(self, owner: Ownership, key: str, kind: EntryKind, payload: bytes) -> int | bytes:
        """Record how a step ended."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        return self.close(run, key, Step(kind, owner.token, payload)) or self.flags(run)

    def attempt(self, owner: Ownership, key: str, number: int, delay: int) -> int | bytes:
        """Record a failed attempt; a copy does not move when the next is due."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        old = run.journal.get(key)
        if old is not None and old.kind != "o":
            if old.token != owner.token:
                return b"DIVERGED"
            return b"ABANDONED" if old.kind == "a" else self.flags(run)
        if old is None or old.token != owner.token or old.attempts < number:
            due = self.now + delay
            run.journal[key] = Step("o", owner.token, b"it failed", self.now, due, attempts=number)
        return self.flags(run)

    def abandon(self, owner: Ownership, key: str, *, deliver_cancel: bool) -> int | bytes:
        """Record that a step is not waited for, whatever became of it."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        old = run.journal.get(key)
        if old is not None and old.kind != "o" and old.token != owner.token:
            return b"DIVERGED"
        run.journal[key] = Step("a", owner.token, b"")
        if deliver_cancel and run.cancel_at is None:
            run.cancel_at = key
        return self.flags(run)

    def open_wait(self, owner: Ownership, key: str, lasts: int) -> list[object] | bytes:
        """Record that the run waits for a time, counted from when that was first recorded."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        old = run.journal.get(key)
        if old is not None and old.kind != "o":
            is_mine = old.kind == "a" and old.token == owner.token
            return b"ABANDONED" if is_mine else b"DIVERGED"
        written, woken = self.now, b"%d" % run.wakes
        if old is not None:
            written, woken = old.written, old.payload
        due = written + lasts
        run.journal[key] = Step("o", owner.token, woken, written, due, attempts=0)
        return [self.flags(run), b"%d" % max(0, due - self.now), woken]

    def end_wait(
        self, owner: Ownership, key: str, kind: EntryKind, seen: int | None, *, woken: bool
    ) -> object:
        """Record that a wait is over: not early, and not past news that its owner has not seen."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        old = run.journal.get(key)
        if old is not None and old.kind == "o":
            if seen is not None and run.news > seen:
                return [b"NEWS"]
            if old.due > self.now and not woken:
                return [b"EARLY", b"%d" % (old.due - self.now)]
        return self.close(run, key, Step(kind, owner.token, b"over")) or self.flags(run)

    def park(self, owner: Ownership, status: Status, seen: int, timed: Sequence[str]) -> bytes:
        """Leave the worker till the first of these times, unless there is news or a cancel."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        if run.has_unheard_cancel or run.news > seen or run.pause:
            return b"STAY"
        steps = [run.journal.get(key) for key in timed]
        if any(step is None or step.kind != "o" or step.due <= self.now for step in steps):
            return b"STAY"
        run.wake = min((step.due for step in steps if step is not None), default=None)
        if run.wake is not None:
            self.timers[run.id] = run.wake
        run.is_put_off = False
        self.leave_worker(run)
        self.move(run, status)
        return b"PARKED"

    def release(self, owner: Ownership) -> bytes:
        """Hand a run back."""
        run = self.runs.get(owner.run_id)
        if run is None or run.owner != owner.incarnation or str(run.epoch) != owner.epoch:
            return b"STALE"
        self.enqueue(run)
        return b"OK"

    def finish(self, owner: Ownership, status: Status, payload: bytes) -> bytes:
        """End a run. Its owner was told that it is cancelled, not why."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            ended = self.owned(owner.run_id, f"ended:{owner.token}")
            return b"OK" if ended is not None else b"FENCED"
        if status is Status.CANCELLED and run.cancel is not None:
            payload = run.cancel.encode()
        self.end(run, status, payload, f"ended:{owner.token}")
        return b"OK"

    def stall(self, owner: Ownership) -> bytes:
        """Hold a run until somebody repairs it."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        self.held(run)
        return b"OK"

    def retry_later(
        self, owner: Ownership, number: int, delay: int, dropped: Sequence[str]
    ) -> bytes:
        """Let a run whose handler failed wait for its next attempt, unless it is to be told."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        run.attempt = number
        if run.cancel is not None or run.pause:
            self.enqueue(run)
        else:
            run.wake = self.timers[run.id] = self.now + delay
            run.is_put_off = True
            self.leave_worker(run)
            self.move(run, Status.AWAITING_RETRY)
        run.progress = None
        self.checkpoint(run, dropped, [])
        return b"OK"

    def continue_run(self, owner: Ownership, payload: bytes) -> bytes:
        """Begin a run anew with another input and a fresh journal; its mail stays."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        self.enqueue(run, epoch=run.epoch + 1)
        run.input, run.generation = payload, run.generation + 1
        run.attempt, run.progress, run.wake = 1, None, None
        run.journal.clear()
        for number, mail in list(run.mailbox.items()):
            if mail.startswith(b"end/"):
                del run.mailbox[number]
                child = self.runs.get(mail.decode().removeprefix("end/").partition("\n")[0])
                if child is not None:
                    child.held = False
        return b"OK"

    def consume(self, owner: Ownership, key: str, number: int, payload: bytes) -> int | bytes:
        """Take a message out of the mailbox, into the journal."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        word = self.close(run, key, Step("r", owner.token, payload))
        if word is None:
            run.mailbox.pop(number, None)
        return word or self.flags(run)

    # Children

    def start_child(
        self, owner: Ownership, key: str, child_id: str, policy: str, payload: bytes
    ) -> int | bytes:
        """Start a run that belongs to another, once, and record that."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        old = run.journal.get(key)
        if old is not None and (old.token != owner.token or old.kind == "a"):
            return b"DIVERGED" if old.token != owner.token else b"ABANDONED"
        if child_id not in self.runs and child_id not in self.deleted:
            self.start(child_id, "", "", When(), payload)
            self.runs[child_id].parent = run.id
            self.runs[child_id].parent_generation = run.generation
            self.runs[child_id].policy = policy
            run.children[child_id] = policy
        return self.close(run, key, Step("r", owner.token, b"")) or self.flags(run)

    def consume_end(self, owner: Ownership, key: str, child_id: str, number: int) -> object:
        """Take a child's end into its parent's journal, and let its retention begin."""
        run = self.owned(owner.run_id, owner.token)
        if run is None:
            return b"FENCED"
        child = self.runs.get(child_id)
        if child is None or child.status not in FINAL:
            return [b"GONE"] if child is None else [b"WAIT"]
        payload = (child.result if child.status is Status.COMPLETED else child.failure) or b""
        kind = {Status.COMPLETED: "r", Status.FAILED: "f", Status.CANCELLED: "c"}[child.status]
        word = self.close(run, key, Step(kind, owner.token, payload))
        if word is not None:
            return word
        run.mailbox.pop(number, None)
        if child.held and child.parent == run.id:
            child.held, child.listed_at = False, self.now
        return [self.flags(run), child.status.encode(), payload]
