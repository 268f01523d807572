"""With what of a failed attempt's journal the next one begins, and a fork.

The rule: what has a result keeps it. The failure that ended the run is tried again, and with it
whatever was recorded from then on that is no result: siblings that were given up, waits that ran
out. Failures before it were caught by the handler, which went on from there, so they stay.

Results that were recorded after the failure may belong to its aftermath (a clean-up in `finally`),
which the next attempt may ask for later or not at all. So they are *loosened*: given when they are
asked for, and waited for by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiki.codec import address
from aiki.errors import DataError, Failure
from aiki.failures import failure_from_json, task_failed
from aiki.records import Entry, EntryKind

COMPENSATING = "compensate"
"""The address of the note that a run makes before it undoes what it did."""

ON_FAILURE = b"on_failure"
"""What the step is called that is told of a run's failure: that of another attempt is another."""

_TOLD = 150  # characters by which a message is known again where it was cut
_HOOK = address("", ON_FAILURE)
_FAILED = (EntryKind.FAILURE, EntryKind.CANCELLED)  # the second of a child
_SETTLED = ("promise/", "answer/")
_KEPT = (EntryKind.RESULT, EntryKind.NOTE, EntryKind.OPEN)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What becomes of the entries of a journal: kept as they are, loosened, or dropped."""

    kept: Sequence[str]
    loosened: Sequence[str]
    dropped: Sequence[str]


def is_undone(journal: Mapping[str, Entry]) -> bool:
    """Tell whether the run has begun to undo what it did."""
    return f"{COMPENSATING}#0" in journal


def checkpoint(journal: Mapping[str, Entry], failure: Failure | None) -> Checkpoint:
    """Decide with what the next attempt begins; `failure` is that of the handler, if it failed."""
    told = {key for key in journal if key.rpartition("#")[0].endswith(_HOOK)}
    journal = {key: entry for key, entry in journal.items() if key not in told}
    since = _since(journal, failure)
    late = {key: entry for key, entry in journal.items() if entry.seq >= since}
    # What somebody else has decided, or was told, is not tried again.
    dropped = [
        key
        for key, entry in late.items()
        if entry.kind not in _KEPT and not (entry.kind in _FAILED and key.startswith(_SETTLED))
    ]
    stays = [key for key in late if key not in set(dropped)]
    loosened = [key for key in stays if late[key].kind in (EntryKind.RESULT, EntryKind.FAILURE)]
    gone = {*dropped, *loosened}
    return Checkpoint([key for key in journal if key not in gone], loosened, [*dropped, *told])


def before(journal: Mapping[str, Entry], key: str) -> Checkpoint:
    """Keep what was recorded before this entry. Raises `DataError` where there is none such."""
    at = journal.get(key)
    if at is None:
        raise DataError(f"nothing is recorded under {key!r}; handle.journal() tells the keys")
    if at.seq == 0:
        raise DataError(
            f"{key!r} was kept from an attempt that failed, and has no place among the others; "
            "take another step"
        )
    kept = [each for each, entry in journal.items() if entry.seq < at.seq]
    return Checkpoint(kept, [], [each for each in journal if each not in set(kept)])


def _since(journal: Mapping[str, Entry], failure: Failure | None) -> int:
    """Give the `seq` from which on what is recorded is the failure's doing."""
    told = list(_texts(failure))
    guilty = [
        entry.seq
        for key, entry in journal.items()
        if entry.kind in _FAILED and any(_message(key, entry) in text for text in told)
    ]
    if guilty and failure is not None:
        # A group tells of several; else the last of those that say the same is meant.
        return min(guilty) if _is_group(failure) else max(guilty)
    # The handler failed by itself, or hides why: what nothing was built on is in doubt.
    settled = [
        entry.seq
        for key, entry in journal.items()
        if entry.kind is EntryKind.RESULT or (entry.kind in _FAILED and key.startswith("answer/"))
    ]
    return max(settled, default=0) + 1


def _message(key: str, entry: Entry) -> str:
    """Give what the failure of a step says in a handler, as far as every mention of it does."""
    kind, _, child_id = key.rpartition("#")[0].partition("/")
    if kind == "end":
        return f"run {child_id} "
    try:
        if kind in {"map", "send"}:  # recorded as what was raised
            return failure_from_json(entry.payload).message.partition("\n")[0][:_TOLD]
        error = task_failed(key.partition(":")[0], entry.attempts, entry.payload)
    except DataError:
        return key
    return str(error).partition("\n")[0][:_TOLD]


def _texts(failure: Failure | None) -> Iterator[str]:
    while failure is not None:
        yield failure.message
        if _is_group(failure):
            yield failure.traceback  # it lists the members
        failure = failure.cause


def _is_group(failure: Failure) -> bool:
    return "ExceptionGroup" in failure.type
