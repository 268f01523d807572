"""What is stored about runs, steps and workers, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from aiki.errors import DataError
from aiki.states import Status


class EntryKind(StrEnum):
    """How a journal entry stands; the letter is what is stored."""

    OPEN = "o"  # attempts only, or a wait that is not over
    RESULT = "r"
    FAILURE = "f"
    CANCELLED = "c"  # of a child
    TIMEOUT = "t"
    NOTE = "n"  # known at once when it is asked for again; nothing waits for it
    ABANDONED = "a"


_LETTERS = {kind: kind.encode() for kind in EntryKind}
_KINDS = {kind.value: kind for kind in EntryKind}  # called, it takes as long as all the rest


class Entry(NamedTuple):  # of all values the one that is made by thousands
    """One recorded step. Times are the server's, in milliseconds.

    `spent` is the time from the start of the first attempt to `written`; for an abandoned step
    it is how long its actor had been running the run. A `seq` of 0 is that of a result which was
    kept when the run failed: it is given when it is asked for, and waited for by nobody.
    """

    kind: EntryKind
    token: str
    written: int
    due: int
    seq: int
    attempts: int
    spent: int
    worker: str
    payload: bytes

    @property
    def failure(self) -> bytes:
        """How the last attempt of an open entry failed; empty before the first has."""
        return self.payload.partition(b"\n")[0]

    @property
    def details(self) -> bytes:
        """What an attempt of an open entry said last by a heartbeat; empty for nothing."""
        return self.payload.partition(b"\n")[2]

    @classmethod
    def parse(cls, raw: bytes) -> Entry:
        """Read the stored form: `kind token written due seq attempts spent worker`, payload.

        Raises:
            DataError: it is none.
        """
        head, _, payload = raw.partition(b"\n")
        try:
            kind, token, *numbers, worker = head.decode().split(" ", 7)
            written, due, seq, attempts, spent = map(int, numbers)
            return cls(_KINDS[kind], token, written, due, seq, attempts, spent, worker, payload)
        except (KeyError, ValueError):
            raise DataError(f"a journal entry is damaged: it begins with {raw[:80]!r}") from None


def parse_journal(flat: Sequence[bytes]) -> dict[str, Entry]:
    """Read a stored journal: keys `address#n`, each before its entry.

    Raises:
        DataError: some of it is damaged.
    """
    entries: dict[str, Entry] = {}
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        address, _, number = key.rpartition(b"#")
        if not address or not number.isdigit():
            raise DataError(f"the journal has an entry with the damaged key {key[:80]!r}")
        entries[key.decode(errors="replace")] = Entry.parse(value)
    return entries


def entry_rest(seq: int, attempts: int, spent: int, worker: str, payload: bytes) -> bytes:
    """Give the part of an open entry that its writer knows; the script puts the rest before."""
    return b"%d %d %d %b\n%b" % (seq, attempts, spent, worker.encode(), payload)


def open_payload(failure: bytes, details: bytes) -> bytes:
    """Give the payload of an open entry. Both are JSON on one line, so a line break parts them."""
    return failure + b"\n" + details if details else failure


def closed_entry(kind: EntryKind, token: str, written: int, rest: bytes) -> bytes:
    """Give the stored form of a closed entry. Nothing is decided by when it was written."""
    return b"%b %b %d 0 %b" % (_LETTERS[kind], token.encode(), written, rest)


@dataclass(frozen=True, slots=True)
class Ownership:
    """What every write of an actor is fenced by. The token is `epoch:random`."""

    run_id: str
    epoch: str
    token: str
    incarnation: str
    origin: str = ""
    """The run at the origin of the forks, if this is one."""

    @property
    def bound_to(self) -> str:
        """Whose payloads what is recorded of the run is bound to, where it is sealed."""
        return self.origin or self.run_id


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """The next attempt of a handler that failed: which, when, why, and without which entries.

    `begun` is when the first one began, in milliseconds of the server's clock.
    """

    number: int
    begun: int
    delay_ms: int
    reason: str
    dropped: Sequence[str]
    loosened: Sequence[str]


@dataclass(frozen=True, slots=True)
class Message:
    """One message in a run's mailbox. Topics say who may take it, such as `event/paid`."""

    number: int
    topic: str
    payload: bytes

    @classmethod
    def parse(cls, number: bytes, raw: bytes) -> Message:
        """Read the stored form: the topic, a line break, the payload.

        Raises:
            ValueError: it is none.
        """
        topic, separator, payload = raw.partition(b"\n")
        if not separator:
            raise ValueError(f"message {number!r} has no topic")
        return cls(int(number), topic.decode(), payload)


def parse_mailbox(flat: Sequence[bytes]) -> list[Message]:
    """Read a stored mailbox, numbers before messages, in the order in which they came.

    Raises:
        ValueError: some of it is damaged.
    """
    pairs = zip(flat[::2], flat[1::2], strict=True)
    messages = [Message.parse(number, raw) for number, raw in pairs]
    return sorted(messages, key=lambda message: message.number)


@dataclass(frozen=True, slots=True)
class News:
    """What has happened to a run from outside, up to the `count`th time.

    `wakes` is how often its sleeps were ended early, and `mail` what came into its mailbox and is
    not taken; of a later telling, what came since. `is_pausing` says that it is to be paused.
    """

    count: int = 0
    wakes: int = 0
    mail: Sequence[Message] = ()
    is_pausing: bool = False


@dataclass(frozen=True, slots=True)
class StreamNote:
    """What a run's owner notes of one stream: how many chunks it has, and of what size in all.

    `told` of them are the handler's own, which are not published again when it is repeated.
    """

    told: int = 0
    chunks: int = 0
    size: int = 0
    is_closed: bool = False


def parse_streams(raw: bytes) -> dict[str, StreamNote]:
    """Read the stored form, a line for each topic: `told chunks size topic`.

    The size of one that is closed has a dot behind it. Raises `ValueError` where it is damaged.
    """
    notes: dict[str, StreamNote] = {}
    for line in raw.decode().split("\n")[:-1]:
        told, chunks, size, topic = line.split(" ", 3)
        number = int(size.rstrip("."))
        notes[topic] = StreamNote(int(told), int(chunks), number, size.endswith("."))
    return notes


def stream_lines(notes: Mapping[str, StreamNote]) -> bytes:
    """Give the stored form of what is noted of a run's streams."""
    return b"".join(
        b"%d %d %d%b %b\n"
        % (note.told, note.chunks, note.size, b"." if note.is_closed else b"", topic.encode())
        for topic, note in notes.items()
    )


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run as its new owner receives it. `now` is the server's time of the claim."""

    ownership: Ownership
    workflow: str
    version: str
    created: int
    now: int
    input: bytes
    cancel: str | None
    cancel_at: str | None
    news: News
    journal: dict[str, Entry]
    generation: int = 0
    """How often it has begun anew, with a fresh journal."""
    attempt: int = 1
    begun: int = 0
    """When the first attempt of this generation began, if there was one before this."""
    seed: str = ""
    """What it draws its random numbers from, if that is not its id: the run it was forked from."""
    streams: Mapping[str, StreamNote] = field(default_factory=dict[str, StreamNote])
    secret: bytes = b""
    """What the inputs in the addresses of its steps are hashed with, where they are secret."""

    @property
    def scope(self) -> str:
        """What the names of its effects begin with: no generation has those of another."""
        run_id = self.ownership.run_id
        return f"{run_id}~{self.generation}" if self.generation else run_id


@dataclass(frozen=True, slots=True)
class DamagedRun:
    """A claimed run whose record or journal cannot be read."""

    ownership: Ownership
    reason: str
    is_sealed: bool = False
    """Whether it is sound as far as is known, and cannot be opened here."""


@dataclass(frozen=True, slots=True)
class ReadyEntry:
    """What a ready stream delivered: a hint that a run wants a worker."""

    stream: str
    entry: str
    run_id: str
    epoch: str


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run's record at one moment. Times are the server's, in milliseconds.

    Where several are read at once, they are read without their payloads: input, result, failure.
    """

    id: str
    workflow: str
    version: str
    pool: str
    status: Status
    created: int
    since: int
    epoch: int
    owner: str
    wake: int | None
    waits: list[str]
    cancel: str | None
    reason: str
    deaths: int
    quarantined: bool
    input: bytes
    result: bytes | None
    failure: bytes | None
    start_by: int | None
    finish_by: int | None
    tags: tuple[str, ...]
    memo: bytes
    details: str
    attempt: int = 1
    generation: int = 0
    forked_from: str = ""
    cancel_at: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A registered worker, as it describes itself, and the time left of its lease in seconds."""

    incarnation: str
    label: str
    host: str
    pid: int
    create_time: float
    expires_in: float


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule's definition as it is stored."""

    id: str
    digest: str
    workflow: str
    version: str
    pool: str
    input: bytes
    overlap: str
    timing: str
    more: str = ""
    """Tags, memo and deadlines of each run, as `aiki.options.packed` writes them."""


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule that is to be looked at. Times are planned ones, in milliseconds of UTC."""

    id: str
    digest: str
    planned: int
    due: int
    timing: bytes
    has_buffer: bool


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule's record at one moment. `buffer` and `recent` are runs and their occurrences."""

    id: str
    workflow: str
    version: str
    pool: str
    overlap: str
    digest: str
    planned: int
    paused: bool
    note: str
    created: int
    buffer: list[tuple[str, int]]
    recent: list[tuple[str, int]]
    started: int
    skipped: int
    dropped: int
    missed: int
    timing: bytes
    input: bytes
