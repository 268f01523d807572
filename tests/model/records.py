"""What the store does, in Python: a model that the scripts are compared with, and that can be read.

It knows nothing of Redis. A run is an object, a ready stream is a list of offers, an index is what
follows from the runs. What may happen to a run where, and why, is said in `aiki.states`; here is
what it comes to. The scripts are methods of what is built on this, in the files beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiki.states import FINAL, MOVES, WAITING, Status

ACTIVE = (Status.QUEUED, Status.RUNNING)


@dataclass
class Step:
    """An entry of a journal. Whoever closes it writes it for good, but for its own abandonment."""

    kind: str
    token: str
    payload: bytes
    written: int = 0
    due: int = 0
    seq: int = 1
    attempts: int = 1


@dataclass(eq=False)
class Offer:
    """A ready entry: a hint that a run wants a worker. `reader` has read it and not claimed it."""

    run_id: str
    epoch: int
    reader: str | None = None
    name: str = ""
    """Known once it was delivered."""


@dataclass
class Worker:
    """One life. A lease of 0 is that of a worker which is being given up."""

    lease: int
    runs: set[str] = field(default_factory=set[str])
    notices: set[str] = field(default_factory=set[str])


@dataclass
class ModelRun:
    """A run's record, and all that belongs to it."""

    id: str
    input: bytes
    status: Status = Status.QUEUED
    since: int = 0
    listed_at: int = 0
    epoch: int = 0
    owner: str = ""
    token: str = ""
    offer: Offer | None = None
    wake: int | None = None
    is_put_off: bool = False  # where it waits for the next attempt of its handler
    journal: dict[str, Step] = field(default_factory=dict[str, Step])
    mailbox: dict[int, bytes] = field(default_factory=dict[int, bytes])
    seen: set[str] = field(default_factory=set[str])
    news: int = 0
    wakes: int = 0
    cancel: str | None = None
    cancel_at: str | None = None
    pause: bool = False
    result: bytes | None = None
    failure: bytes | None = None
    deaths: int = 0
    progress: int | None = None
    recovered: int | None = None
    quarantine: bool = False
    attempt: int = 1
    generation: int = 0
    retried: int | None = None
    key: str = ""
    start_by: int | None = None
    finish_by: int | None = None
    parent: str | None = None
    parent_generation: int = 0
    policy: str = ""
    held: bool = False
    children: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def has_unheard_cancel(self) -> bool:
        """Whether a cancel is wanted that its handler has not met."""
        return self.cancel is not None and self.cancel_at is None


@dataclass(frozen=True)
class When:
    """What few starts have: ms from now till it is offered, and till its deadlines."""

    at: int = 0
    start: int | None = None
    finish: int | None = None

    @property
    def more(self) -> str:
        """Give it as it is sent."""
        lines = [f"at +{self.at}"] if self.at else []
        lines += [] if self.start is None else [f"start +{self.start}"]
        lines += [] if self.finish is None else [f"finish +{self.finish}"]
        return "\n".join(lines)


class Records:
    """All that is stored, and the moves that the scripts share."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.runs: dict[str, ModelRun] = {}
        self.deleted: set[str] = set()
        self.keys: dict[str, tuple[str, str]] = {}
        self.workers: dict[str, Worker] = {}
        self.gone: set[str] = set()
        self.ready: list[Offer] = []
        self.alone: list[Offer] = []
        self.timers: dict[str, int] = {}
        self.cascades: set[str] = set()
        self.orphans: dict[str, dict[str, str]] = {}  # children of parents that are removed
        self.looked_at: int | None = None
        self.grace = 0

    # What is known of a run

    def stream(self, run: ModelRun) -> list[Offer]:
        """Give the offers among which those of a run are."""
        return self.alone if run.quarantine else self.ready

    @property
    def is_served(self) -> bool:
        """Whether a worker with a lease reads the streams. All of them read both."""
        return any(worker.lease > 0 for worker in self.workers.values())

    def owned(self, run_id: str, token: str) -> ModelRun | None:
        """Give a run to who has its token; every write of an owner begins with that."""
        run = self.runs.get(run_id)
        return run if run is not None and run.token == token else None

    def flags(self, run: ModelRun) -> int:
        """Give what the reply of a commit tells: news, and whether a cancel is wanted."""
        return 2 * run.news + (run.cancel is not None)

    def index(self) -> dict[str, list[tuple[int, str]]]:
        """Give the listings: of each status, when and which."""
        found: dict[str, list[tuple[int, str]]] = {}
        for run in self.runs.values():
            name = "active" if run.status in ACTIVE else run.status.value
            found.setdefault(name, []).append((run.listed_at, run.id))
        return {name: sorted(places) for name, places in found.items()}

    # What the scripts do with one

    def move(self, run: ModelRun, to: Status) -> None:
        """Give a run a status that the table allows, and its place in a listing."""
        assert run.status is to or to in {
            end for (start, _), end in MOVES.items() if start is run.status
        }, f"{run.status} -> {to} is in no row of the table"
        if not (run.status in ACTIVE and to in ACTIVE):
            run.listed_at = self.now
        run.status, run.since = to, self.now

    def leave_worker(self, run: ModelRun) -> None:
        """Let nobody own a run."""
        if run.owner in self.workers:
            self.workers[run.owner].runs.discard(run.id)
        run.owner = run.token = ""

    def enqueue(self, run: ModelRun, *, epoch: int | None = None) -> None:
        """Have a run wanted; a pause that is asked for comes first."""
        self.leave_worker(run)
        run.epoch = run.epoch if epoch is None else epoch
        if run.pause:
            run.offer = None
            self.move(run, Status.PAUSED)
            return
        self.offer(run)
        self.move(run, Status.QUEUED)

    def offer(self, run: ModelRun) -> None:
        """Add a ready entry, the one that the record names."""
        run.offer = Offer(run.id, run.epoch)
        self.stream(run).append(run.offer)

    def withdraw(self, run: ModelRun) -> None:
        """Take the ready entry of a run out of its stream."""
        for stream in (self.ready, self.alone):
            if run.offer in stream:
                stream.remove(run.offer)

    def stir(self, run: ModelRun) -> None:
        """Have a run look at what has happened to it."""
        if run.status in WAITING:
            self.enqueue(run)
            self.timers.pop(run.id, None)
        elif run.status is Status.RUNNING and run.owner in self.workers:
            self.workers[run.owner].notices.add(run.id)

    def put_mail(self, run: ModelRun, message: bytes) -> None:
        """Put a message into a mailbox, under the number of the news that it is."""
        if not (run.status is Status.AWAITING_RETRY and run.is_put_off):
            self.stir(run)
        run.news += 1
        run.mailbox[run.news] = message

    def end(self, run: ModelRun, to: Status, payload: bytes, token: str = "") -> None:
        """End a run for good, and tell its family."""
        self.leave_worker(run)
        self.move(run, to)
        run.token = token
        if to is Status.COMPLETED:
            run.result = payload
        else:
            run.failure = payload
        parent = self.runs.get(run.parent or "")
        if parent is not None and (parent.status not in FINAL or parent.status is Status.FAILED):
            if run.parent_generation == parent.generation:
                self.put_mail(parent, f"end/{run.id}\n{to}".encode())
                run.held = True
            parent.children.pop(run.id, None)
        if run.children:
            self.cascades.add(run.id)

    def drop_timers(self, run: ModelRun) -> None:
        """Forget when a run is due, and its deadlines."""
        for name in (run.id, f"{run.id}!start", f"{run.id}!finish"):
            self.timers.pop(name, None)

    def close(self, run: ModelRun, key: str, step: Step) -> bytes | None:
        """Close a free or open entry; else say why not. The same once more changes nothing."""
        old = run.journal.get(key)
        if old is None or old.kind == "o":
            run.journal[key] = step
            if old is not None:
                run.progress = None
            return None
        if old.token != step.token:
            return b"DIVERGED"
        return b"ABANDONED" if old.kind == "a" else None

    def cancelled(self, run: ModelRun, reason: str) -> Status:
        """Ask a run to end. Where no handler would clean up, it ends here."""
        if run.status in FINAL:
            return run.status
        if run.status is Status.STALLED or (
            run.status is not Status.RUNNING and (run.epoch == 0 or not self.is_served)
        ):
            run.cancel = run.cancel or reason
            self.end(run, Status.CANCELLED, run.cancel.encode())
            self.drop_timers(run)
            self.withdraw(run)
        elif run.status is Status.RUNNING:
            if run.cancel_at is None:
                self.stir(run)
                run.cancel, run.pause = run.cancel or reason, False
        elif run.cancel is None:
            run.cancel = reason
            if run.status is Status.PAUSED:
                run.pause = False
                self.enqueue(run)
            else:
                self.stir(run)
            run.pause = False
        return run.status

    def again(self, stream: list[Offer], offer: Offer) -> None:
        """Add an offer anew, if its run is still wanted by it, and drop the old one."""
        stream.remove(offer)
        run = self.runs.get(offer.run_id)
        if run is not None and run.status is Status.QUEUED and run.epoch == offer.epoch:
            new = Offer(offer.run_id, offer.epoch)
            stream.append(new)
            if run.offer is offer:
                run.offer = new

    def is_awaited(self, run: ModelRun) -> bool:
        """Whether the end of a child is still to be taken by its parent."""
        parent = self.runs.get(run.parent or "")
        return run.held and parent is not None and parent.status not in FINAL

    def remove(self, run: ModelRun) -> None:
        """Forget a run that is over."""
        del self.runs[run.id]
        if run.key:
            del self.keys[run.key]
        self.timers.pop(f"{run.id}!start", None)
        self.timers.pop(f"{run.id}!finish", None)
        if run.id in self.cascades:
            self.orphans[run.id] = run.children

    def untell(self, run: ModelRun) -> None:
        """Take back what a child has told of its end."""
        parent = self.runs.get(run.parent or "")
        if run.held and parent is not None:
            told = f"end/{run.id}\n".encode()
            for number in [n for n, mail in parent.mailbox.items() if mail.startswith(told)]:
                del parent.mailbox[number]
        run.held = False
        if parent is not None and parent.status not in FINAL and run.policy:
            parent.children[run.id] = run.policy

    def checkpoint(self, run: ModelRun, dropped: Sequence[str], loosened: Sequence[str]) -> None:
        """Take out of a journal what the next attempt does without; tell ends of children again."""
        for key in dropped:
            run.journal.pop(key, None)
            child = self.runs.get(key.removeprefix("end/").rpartition("#")[0])
            if key.startswith("end/") and child and child.status in FINAL and not child.held:
                run.news += 1
                run.mailbox[run.news] = f"end/{child.id}\n{child.status}".encode()
                child.held = True
        for key in loosened:
            if key in run.journal:
                run.journal[key].seq = 0

    def held(self, run: ModelRun) -> bool:
        """Hold a run, or end it where a cancel is wanted that its handler has not met."""
        if run.has_unheard_cancel and run.cancel is not None:
            self.end(run, Status.CANCELLED, run.cancel.encode())
            return False
        self.leave_worker(run)
        self.move(run, Status.STALLED)
        return True

    def start(self, run_id: str, key: str, digest: str, when: When, payload: bytes) -> str:
        """Store a run and offer it, once per id, and once per key while its run is kept."""
        if run_id in self.runs or run_id in self.deleted:
            return "gone" if run_id in self.deleted else run_id
        if key in self.keys:
            known, known_digest = self.keys[key]
            return known if known_digest == digest else f"conflict with {known}"
        run = self.runs[run_id] = ModelRun(run_id, payload, key=key)
        if key:
            self.keys[key] = run_id, digest
        due = self.now + when.at
        if when.start is not None:
            run.start_by = self.timers[f"{run_id}!start"] = due + when.start
        if when.finish is not None:
            run.finish_by = self.timers[f"{run_id}!finish"] = due + when.finish
        run.since = run.listed_at = self.now
        if when.at:
            run.status, run.wake = Status.SCHEDULED, due
            self.timers[run_id] = due
        else:
            self.offer(run)
        return run_id
