"""Each test is a cell of the table: who died, how often, how close together; what follows."""

import pytest

from aiki.supervisor.restarts import (
    BUDGET,
    FIRST_DELAY,
    LONGEST_DELAY,
    WINDOW,
    Death,
    GiveUp,
    Restart,
    decide,
    remembered,
)


def deaths(*times: float, slot: int = 1, charged: bool = True) -> list[Death]:
    return [Death(slot, at, charged) for at in times]


def delay(history: list[Death], slot: int = 1) -> float:
    decision = decide(history, slot, max(death.at for death in history))
    assert isinstance(decision, Restart)
    return decision.after


def test_the_first_death_of_a_slot_is_followed_by_a_restart_at_once() -> None:
    assert decide(deaths(100.0), 1, 100.0) == Restart(after=0.0)


def test_the_second_death_within_the_window_waits_a_little() -> None:
    assert delay(deaths(100.0, 101.0)) == FIRST_DELAY


def test_each_further_death_within_the_window_waits_longer() -> None:
    delays = [delay(deaths(*range(count))) for count in range(1, BUDGET + 1)]
    assert delays == sorted(set(delays))


def test_no_delay_is_longer_than_the_longest() -> None:
    assert delay(deaths(*range(50), charged=False)) == LONGEST_DELAY


def test_a_death_is_forgotten_after_the_window() -> None:
    assert delay(deaths(0.0, WINDOW)) == 0.0
    assert remembered(deaths(0.0, WINDOW - 1, WINDOW), WINDOW) == deaths(WINDOW - 1, WINDOW)


def test_the_deaths_of_another_slot_delay_nobody() -> None:
    assert delay([*deaths(1.0, 2.0, 3.0, slot=2), *deaths(4.0, slot=1)]) == 0.0


def test_as_many_deaths_as_the_budget_allows_are_followed_by_restarts() -> None:
    assert isinstance(decide(deaths(*range(BUDGET)), 1, BUDGET - 1), Restart)


def test_one_death_more_than_the_budget_ends_the_supervisor_with_a_reason() -> None:
    decision = decide(deaths(*range(BUDGET + 1)), 1, BUDGET)
    assert decision == GiveUp(
        "worker processes died 11 times within 60 s; 10 are allowed",
    )


def test_the_budget_is_shared_by_all_slots() -> None:
    history = [Death(slot, float(slot)) for slot in range(1, BUDGET + 2)]
    assert isinstance(decide(history, BUDGET + 1, BUDGET + 1.0), GiveUp)


def test_deaths_spread_over_more_than_the_window_never_spend_the_budget() -> None:
    history = deaths(*(WINDOW / BUDGET * count for count in range(100)))
    assert isinstance(decide(history, 1, history[-1].at), Restart)


def test_workers_found_dead_at_the_same_moment_are_charged_once() -> None:
    history = [Death(slot, 5.0) for slot in range(1, 65)]
    assert decide(history, 64, 5.0) == Restart(after=0.0)


def test_uncharged_deaths_delay_their_slot_and_leave_the_budget_alone() -> None:
    history = deaths(*(count * 0.1 for count in range(BUDGET + 5)), charged=False)
    assert isinstance(decide(history, 1, history[-1].at), Restart)
    assert delay(history) > delay(history[:3])


@pytest.mark.parametrize("boot", [0.3, 1.0, 3.0])
def test_a_single_worker_that_dies_whenever_it_has_booted_spends_the_budget(boot: float) -> None:
    now, history = 0.0, list[Death]()
    while now < 10 * WINDOW:
        now += boot
        history.append(Death(1, now))
        decision = decide(history, 1, now)
        if isinstance(decision, GiveUp):
            return
        now += decision.after
    pytest.fail("it was restarted for ever")
