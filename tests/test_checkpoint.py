"""What of a failed attempt's journal the next one begins with."""

from collections.abc import Sequence

import pytest

from aiki import DataError, Failure
from aiki.checkpoint import Checkpoint, before, checkpoint
from aiki.failures import failure_from_exception, failure_to_json, task_failed
from aiki.records import Entry, EntryKind

STORED = failure_to_json(Failure("ValueError", "broken", ""))


def entry(letter: str, seq: int) -> Entry:
    payload = STORED if letter == "f" else b"1"
    return Entry(EntryKind(letter), "1:x", 1, 0, seq, 1, 0, "a worker", payload)


def journal(text: str) -> dict[str, Entry]:
    """Make a journal of `name letter` pairs, in their order."""
    pairs = [each.split("=") for each in text.split()]
    return {f"{name}:hash#0": entry(letter, n) for n, (name, letter) in enumerate(pairs, 1)}


def failed_by(*tasks: str) -> Failure:
    errors = [task_failed(task, 1, STORED) for task in tasks]
    if len(errors) == 1:
        return failure_from_exception(errors[0])
    with pytest.raises(ExceptionGroup) as group:
        raise ExceptionGroup("several", errors)
    return failure_from_exception(group.value)


def names(keys: Sequence[str]) -> str:
    return " ".join(key.partition(":")[0] for key in keys)


def told(point: Checkpoint) -> tuple[str, str, str]:
    return names(point.kept), names(point.loosened), names(point.dropped)


CASES = {
    "the last step": ("a=r b=f", failed_by("b"), ("a", "", "b")),
    "an aftermath": ("a=r b=f c=r", failed_by("b"), ("a", "c", "b")),
    "a sibling that was given up": ("a=r b=f c=a d=r", failed_by("b"), ("a", "d", "b c")),
    "a failure that was caught": ("a=f b=r c=f", failed_by("c"), ("a b", "", "c")),
    "notes and open entries": ("a=f n=n o=o", failed_by("a"), ("n o", "", "a")),
    "several in a group": ("a=f b=r c=f", failed_by("a", "c"), ("", "b", "a c")),
    "code, after a caught failure": ("a=f b=r", Failure("KeyError", "x", ""), ("a b", "", "")),
    "code, with what it left": ("a=r b=a t=t", Failure("KeyError", "x", ""), ("a", "", "b t")),
    "a hidden cause": ("a=r b=f", Failure("KeyError", "x", ""), ("a", "", "b")),
    "a decision of somebody else": ("promise/x=f", Failure("Rejected", "no", ""), None),
    "an answer": ("a=r b=f answer/x=f", Failure("KeyError", "x", ""), ("a b answer/x", "", "")),
    "nothing": ("a=r", None, ("a", "", "")),
}


@pytest.mark.parametrize("name", CASES)
def test_what_has_a_result_keeps_it_and_the_failure_is_tried_again(name: str) -> None:
    text, failure, expected = CASES[name]
    found = told(checkpoint(journal(text), failure))
    assert found == (expected or ("", "promise/x", ""))


def test_the_last_of_equal_failures_is_meant() -> None:
    entries = journal("a=f b=r") | {"a:hash#1": entry("f", 3)}
    assert checkpoint(entries, failed_by("a")).dropped == ["a:hash#1"]


def test_what_was_recorded_before_a_step_is_kept_and_what_stands_in_no_order() -> None:
    entries = journal("a=r b=f c=r d=r") | {"kept:hash#0": entry("r", 0)}
    point = before(entries, "c:hash#0")
    assert told(point) == ("a b kept", "", "c d")
    for key in ("unknown#0", "kept:hash#0"):
        with pytest.raises(DataError):
            before(entries, key)
