"""What owners do to their runs, and go on doing when the runs are no longer theirs."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import rule

from aiki.records import EntryKind, NextAttempt, Ownership, entry_rest
from aiki.states import FINAL, WAITING, Status
from aiki.store.children import NewChild
from aiki.store.keys import child_run_id
from tests.model.worker_rules import YES, WorkerRules
from tests.support.store import POOL, VERSION, WORKFLOW, entry_of

STEPS = st.sampled_from(["a#0", "b#0"])
WAITS = st.sampled_from(["sleep/a#0", "sleep/b#0"])
POLICIES = st.sampled_from(["cancel", "abandon", "wait"])
OUTCOMES = st.sampled_from([EntryKind.RESULT, EntryKind.FAILURE])
WAITS_AS = st.sampled_from(sorted(WAITING))
DELAYS = st.sampled_from([0, 1000, 60_000])


class OwnerRules(WorkerRules):
    """Every write of an owner."""

    @rule(owner=WorkerRules.owners, key=STEPS, kind=OUTCOMES)
    def commit(self, owner: Ownership, key: str, kind: EntryKind) -> None:
        payload = self.name("outcome").encode()
        self.do(
            lambda: self.scene.commit(owner, key, payload, kind),
            lambda: self.model.commit(owner, key, kind, payload),
        )

    @rule(owner=WorkerRules.owners, key=STEPS, number=st.integers(1, 3), delay=DELAYS)
    def attempt(self, owner: Ownership, key: str, number: int, delay: int) -> None:
        rest = entry_rest(1, number, 5, "a label", b"it failed")
        self.do(
            lambda: self.scene.store.runs.commit_attempt(owner, key, delay, rest),
            lambda: self.model.attempt(owner, key, number, delay),
        )

    @rule(owner=WorkerRules.owners, key=STEPS)
    def abandon(self, owner: Ownership, key: str) -> None:
        run = self.model.owned(owner.run_id, owner.token)
        is_heard = run is not None and run.cancel is not None
        self.do(
            lambda: self.scene.abandon(owner, key, deliver_cancel=is_heard),
            lambda: self.model.abandon(owner, key, deliver_cancel=is_heard),
        )

    @rule(owner=WorkerRules.owners, key=WAITS, lasts=DELAYS)
    def open_wait(self, owner: Ownership, key: str, lasts: int) -> None:
        rest = entry_rest(1, 0, 0, "a label", b"")
        self.do(
            lambda: self.scene.store.runs.open_wait(owner, key, rest, lasts_ms=lasts),
            lambda: self.model.open_wait(owner, key, lasts),
        )

    @rule(owner=WorkerRules.owners, key=WAITS, has_seen=st.none() | YES, woken=YES)
    def end_wait(self, owner: Ownership, key: str, *, has_seen: bool | None, woken: bool) -> None:
        seen = None if has_seen is None else self._seen(owner, up_to_date=has_seen)
        entry = entry_of(owner, EntryKind.TIMEOUT, b"over")
        self.do(
            lambda: self.scene.store.runs.end_wait(owner, key, entry, seen=seen, woken=woken),
            lambda: self.model.end_wait(owner, key, EntryKind.TIMEOUT, seen, woken=woken),
        )

    @rule(owner=WorkerRules.owners, status=WAITS_AS, has_seen=YES, key=STEPS | WAITS)
    def park(self, owner: Ownership, status: Status, key: str, *, has_seen: bool) -> None:
        seen = self._seen(owner, up_to_date=has_seen)
        timed = [key] if status in (Status.SLEEPING, Status.AWAITING_RETRY) else []
        self.do(
            lambda: self.scene.store.runs.park(owner, status, seen, [key], timed),
            lambda: self.model.park(owner, status, seen, timed),
        )

    def _seen(self, owner: Ownership, *, up_to_date: bool) -> int:
        news = self.model.runs[owner.run_id].news if owner.run_id in self.model.runs else 0
        return news if up_to_date else max(0, news - 1)

    @rule(owner=WorkerRules.owners)
    def release(self, owner: Ownership) -> None:
        asked = (owner.run_id, owner.epoch, owner.incarnation)
        self.do(lambda: self.scene.store.runs.release(*asked), lambda: self.model.release(owner))

    @rule(owner=WorkerRules.owners, status=st.sampled_from(sorted(FINAL)))
    def finish(self, owner: Ownership, status: Status) -> None:
        self.do(
            lambda: self.scene.finish(owner, status),
            lambda: self.model.finish(owner, status, b"the outcome"),
        )

    @rule(owner=WorkerRules.owners)
    def stall(self, owner: Ownership) -> None:
        self.do(
            lambda: self.scene.store.runs.stall(owner, "it does not fit"),
            lambda: self.model.stall(owner),
        )

    @rule(owner=WorkerRules.owners, number=st.integers(2, 4), delay=DELAYS, drops=YES)
    def retry_later(self, owner: Ownership, number: int, delay: int, *, drops: bool) -> None:
        dropped = sorted(self._journal(owner.run_id))[:2] if drops else []
        attempt = NextAttempt(number, 1, delay, "it failed", dropped, [])
        self.do(
            lambda: self.scene.store.control.retry_later(owner, attempt),
            lambda: self.model.retry_later(owner, number, delay, dropped),
        )

    def _journal(self, run_id: str) -> set[str]:
        return set(self.model.runs[run_id].journal) if run_id in self.model.runs else set()

    @rule(owner=WorkerRules.owners)
    def continue_as_new(self, owner: Ownership) -> None:
        payload = self.name("input").encode()
        self.do(
            lambda: self.scene.store.control.continue_run(owner, payload),
            lambda: self.model.continue_run(owner, payload),
        )

    @rule(owner=WorkerRules.owners, key=STEPS)
    def consume(self, owner: Ownership, key: str) -> None:
        run = self.model.runs.get(owner.run_id)
        mailbox = {} if run is None else run.mailbox
        number = next((each for each in sorted(mailbox) if mailbox[each][:4] != b"end/"), 0)
        payload = mailbox.get(number, b"\nnothing").split(b"\n", 1)[1]
        entry = entry_of(owner, EntryKind.RESULT, payload)
        self.do(
            lambda: self.scene.store.runs.consume_message(owner, key, entry, number),
            lambda: self.model.consume(owner, key, number, payload),
        )

    @rule(
        target=WorkerRules.runs,
        owner=WorkerRules.owners,
        key=st.sampled_from(["child/a#0", "child/b#0"]),
        policy=POLICIES,
    )
    def start_child(self, owner: Ownership, key: str, policy: str) -> str:
        child_id = child_run_id(owner.run_id, key)
        new = NewChild(WORKFLOW, VERSION, POOL, "", policy)
        entry = entry_of(owner, EntryKind.RESULT, b"")
        children = self.scene.store.children
        self.do(
            lambda: children.start_child(owner, key, entry, child_id, new, b"input"),
            lambda: self.model.start_child(owner, key, child_id, policy, b"input"),
        )
        return child_id

    @rule(owner=WorkerRules.owners, child_id=WorkerRules.runs)
    def consume_end(self, owner: Ownership, child_id: str) -> None:
        run = self.model.runs.get(owner.run_id)
        told = {} if run is None else run.mailbox
        ends = {number: mail for number, mail in told.items() if mail.startswith(b"end/")}
        # One that has told of its end; else any run, which may be nobody's child
        number = min(ends, default=0)
        if ends:
            child_id = ends[number].split(b"\n")[0].removeprefix(b"end/").decode()
        key, rest = f"end/{child_id}#0", entry_rest(1, 1, 5, "a label", b"")
        children = self.scene.store.children
        self.do(
            lambda: children.consume_end(owner, key, 1, rest, child_id, number=number, room=10_000),
            lambda: self.model.consume_end(owner, key, child_id, number),
        )

    @rule(owner=WorkerRules.owners, status=st.sampled_from(sorted(FINAL)), policy=POLICIES)
    def have_a_child_that_ends(self, owner: Ownership, status: Status, policy: str) -> None:
        """Go through what a family does, which is seldom come upon by chance."""
        self.start_child(owner, "child/a#0", policy)
        child = self.take(owner.incarnation, alone=False)
        if isinstance(child, Ownership):
            self.finish(child, status)
            self.consume_end(owner, child.run_id)
