"""Whom a death is charged to: each test is a cell of the table."""

import pytest

from aiki.supervisor.child import Ending
from aiki.supervisor.messages import Failed, NotBooted
from aiki.supervisor.recovery import INNOCENT, TOGETHER, Verdict, judge


def ending(
    *,
    asked: str | None = None,
    hung: bool = False,
    not_booted: NotBooted | None = None,
    failed: Failed | None = None,
) -> Ending:
    return Ending("was killed", -9, asked, hung, not_booted, failed)


def test_a_death_alone_is_charged_to_all_runs_of_the_worker() -> None:
    assert judge(ending(), 0, None) == Verdict(counted=True)


def test_a_worker_that_hung_is_charged_like_one_that_died() -> None:
    assert judge(ending(hung=True), 0, None) == Verdict(counted=True)


@pytest.mark.parametrize(
    "planned",
    [
        ending(asked="reload"),
        ending(not_booted=NotBooted("definition", "", "")),
        ending(failed=Failed("")),
    ],
    ids=["it was told to end", "it did not boot", "it failed by itself"],
)
def test_what_no_run_did_is_charged_to_none(planned: Ending) -> None:
    assert judge(planned, 0, None) == judge(planned, 3, 0.1) == INNOCENT


def test_workers_found_dead_together_are_charged_to_none() -> None:
    assert judge(ending(), 1, None) == judge(ending(), 1, 0.5) == INNOCENT


def test_a_death_soon_after_another_is_charged_to_runs_that_came_from_there() -> None:
    verdict = judge(ending(), 0, 0.3)
    assert not verdict.counted
    # Longer ago than the other death, since that one's runs were given back a little after it.
    assert verdict.suspects_after is not None
    assert verdict.suspects_after > 0.3


def test_a_death_long_after_another_is_charged_to_all() -> None:
    assert judge(ending(), 0, TOGETHER) == Verdict(counted=True)
