"""A run's journal: which recorded entry a step that is asked for continues."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.errors import DataError
from aiki.journal import Journal
from aiki.records import Entry, EntryKind, closed_entry, entry_rest


def entry(seq: int, kind: EntryKind = EntryKind.RESULT, payload: bytes = b"1") -> Entry:
    return Entry(kind, "1:token", 1000 + seq, 0, seq, 1, 5, "a label", payload)


def test_a_new_run_finds_nothing_recorded() -> None:
    journal = Journal({}, None)
    assert (journal.size, journal.unconsumed()) == (0, [])
    assert journal.take("a:x") == ("a:x#0", None)
    assert not journal.is_repeated


def test_equal_steps_are_numbered_as_they_are_asked_for_and_others_do_not_count() -> None:
    journal = Journal({}, None)
    keys = [journal.take(address)[0] for address in ("a:x", "a:x", "b:x", "a:y", "a:x")]
    assert keys == ["a:x#0", "a:x#1", "b:x#0", "a:y#0", "a:x#2"]


def test_of_two_equal_steps_whose_second_alone_was_recorded_the_first_runs_again() -> None:
    second = entry(1)
    journal = Journal({"a:x#1": second}, None)
    assert [journal.take("a:x") for _ in range(3)] == [
        ("a:x#0", None),
        ("a:x#1", second),
        ("a:x#2", None),
    ]


def test_a_step_whose_attempts_were_recorded_continues_them() -> None:
    attempts = entry(1, EntryKind.OPEN)
    journal = Journal({"a:x#0": attempts}, None)
    assert journal.take("a:x") == ("a:x#0", attempts)


def test_recorded_steps_are_found_in_whatever_order_they_are_asked_for() -> None:
    recorded = {"a:x#0": entry(1), "b:x#0": entry(2), "a:x#1": entry(3)}
    journal = Journal(recorded, None)
    for address in ("b:x", "a:x", "a:x"):
        key, found = journal.take(address)
        assert found is recorded[key]
    assert journal.unconsumed() == []


def test_an_address_may_contain_the_sign_that_numbers_it() -> None:
    recorded = entry(1)
    journal = Journal({"a#1:x#0": recorded}, None)
    assert journal.take("a#1:x") == ("a#1:x#0", recorded)


def test_unconsumed_are_the_outcomes_not_asked_for_in_the_order_of_their_making() -> None:
    journal = Journal(
        {
            "d:x#0": entry(4),
            "a:x#0": entry(3, EntryKind.FAILURE),
            "b:x#0": entry(1),
            "open:x#0": entry(2, EntryKind.OPEN),
            "abandoned:x#0": entry(5, EntryKind.ABANDONED),
            "point:x#0": entry(6, EntryKind.ABANDONED),
        },
        "point:x#0",
    )
    assert journal.unconsumed() == ["b:x#0", "a:x#0", "d:x#0", "point:x#0"]
    journal.take("a:x")
    assert journal.unconsumed() == ["b:x#0", "d:x#0", "point:x#0"]


def test_a_run_is_repeated_until_it_asks_for_something_new() -> None:
    journal = Journal({"a:x#0": entry(1), "b:x#0": entry(2)}, None)
    repeated = [journal.is_repeated]
    for address in ("a:x", "new:x", "b:x"):
        journal.take(address)
        repeated.append(journal.is_repeated)
    assert repeated == [True, True, False, False]


def test_a_journal_knows_how_much_is_recorded() -> None:
    journal = Journal({"a:x#0": entry(1, payload=b"12345"), "b:x#0": entry(2)}, None)
    assert journal.size == 6
    journal.take("a:x")
    assert journal.size == 6


ADDRESSES = st.sampled_from(["a:x", "a:y", "b:x"])


@given(st.lists(ADDRESSES, max_size=20), st.data())
def test_whatever_was_recorded_is_given_once_to_the_step_it_belongs_to(
    asked: list[str], data: st.DataObject
) -> None:
    first_life = Journal({}, None)
    keys = [first_life.take(address)[0] for address in asked]
    done = data.draw(st.sets(st.sampled_from(keys))) if keys else set[str]()
    recorded = {key: entry(seq) for seq, key in enumerate(sorted(done))}

    second_life = Journal(recorded, None)
    taken = [second_life.take(address) for address in asked]

    assert [key for key, _ in taken] == keys
    assert {key: found for key, found in taken if found is not None} == recorded
    assert second_life.unconsumed() == []


# The stored form


@given(st.sampled_from([EntryKind.RESULT, EntryKind.FAILURE, EntryKind.ABANDONED]), st.binary())
def test_an_entry_is_read_as_it_was_written(kind: EntryKind, payload: bytes) -> None:
    rest = entry_rest(7, 2, 1500, "a label with  blanks", payload)
    written = closed_entry(kind, "3:token", 1_700_000_000_000, rest)
    assert Entry.parse(written) == Entry(
        kind, "3:token", 1_700_000_000_000, 0, 7, 2, 1500, "a label with  blanks", payload
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"x 1:token 1 0 1 1 5 a label\n1",
        b"r 1:token then 0 1 1 5 a label\n1",
        b"r 1:token 1 0 1 1\n5 a label",
    ],
)
def test_what_is_no_entry_is_told_as_such(raw: bytes) -> None:
    with pytest.raises(DataError, match="damaged"):
        Entry.parse(raw)
