"""What the table of moves must be like, whatever rows it has."""

from __future__ import annotations

from graphlib import TopologicalSorter

import pytest

from aiki.states import FINAL, MOVES, Reason, Status


def test_nothing_moves_a_run_that_is_over_but_a_person_one_that_has_failed() -> None:
    moves = {move for move in MOVES if move[0] in FINAL}
    assert moves == {(Status.FAILED, Reason.RETRY)}
    assert {status for status in Status if status.is_final} == FINAL


@pytest.mark.parametrize("status", Status)
def test_every_status_is_reached_from_the_first_and_leads_to_an_end(status: Status) -> None:
    assert status in reached_from(Status.SCHEDULED)
    assert reached_from(status) & FINAL


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_cancel_is_accepted_wherever_a_run_may_be(status: Status) -> None:
    moved = MOVES[status, Reason.CANCEL]
    assert moved is Status.CANCELLED or Status.CANCELLED in reached_from(moved)


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_termination_ends_a_run_wherever_it_is(status: Status) -> None:
    assert MOVES[status, Reason.TERMINATE] is Status.CANCELLED


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_moves_something(reason: Reason) -> None:
    assert reason in {each for _, each in MOVES}


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_a_deadline_to_finish_does_what_a_cancel_does(status: Status) -> None:
    assert MOVES[status, Reason.NOT_FINISHED] is MOVES[status, Reason.CANCEL]


def test_only_a_worker_a_person_and_a_deadline_end_a_run() -> None:
    ending = {reason for (_, reason), to in MOVES.items() if to in FINAL}
    assert ending == {
        Reason.COMPLETE,
        Reason.FAIL,
        Reason.ACKNOWLEDGE_CANCEL,
        Reason.CANCEL,
        Reason.CANCEL_UNSERVED,
        Reason.HOLD_CANCELLED,
        Reason.TERMINATE,
        Reason.NOT_STARTED,
        Reason.NOT_FINISHED,
        Reason.TERMINATE,
    }


def test_only_a_claim_gives_a_run_an_owner() -> None:
    running = {(status, reason) for (status, reason), to in MOVES.items() if to is Status.RUNNING}
    assert running == {
        (Status.QUEUED, Reason.CLAIM),
        (Status.RUNNING, Reason.CANCEL),
        (Status.RUNNING, Reason.NOT_FINISHED),
        (Status.RUNNING, Reason.PAUSE),
    }


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MOVES[Status.COMPLETED, Reason.WAKE] = Status.QUEUED  # type: ignore[index]


def reached_from(start: Status) -> set[Status]:
    """Follow every move from a status, itself included."""
    found = {start}
    while more := {to for (status, _), to in MOVES.items() if status in found} - found:
        found |= more
    return found


def test_a_run_cannot_go_round_in_circles_without_a_worker_or_a_person() -> None:
    moves = {status: set[Status]() for status in Status}
    for (status, reason), to in MOVES.items():
        person_or_worker = (Reason.CLAIM, Reason.PAUSE, Reason.RESUME, Reason.RETRY)
        if reason not in person_or_worker and to is not status:
            moves[to].add(status)
    TopologicalSorter(moves).prepare()
