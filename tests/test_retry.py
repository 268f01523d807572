"""When a failed attempt is followed by another, and after what delay."""

import functools
import pickle
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.errors import (
    LONGEST_SECONDS,
    AikiError,
    DataError,
    DefinitionError,
    LimitExceeded,
    NonRetryable,
    RetryAfter,
    StoreUnavailable,
)
from aiki.retry import RetryPolicy, exponential, fixed, jittered, never

ERROR = ValueError("no")


def delays(policy: RetryPolicy, *, error: BaseException = ERROR, rand: float = 0.0) -> list[float]:
    """Collect the delays of a task that always fails, at once."""
    result: list[float] = []
    while (delay := policy.next_delay(len(result) + 1, sum(result), error, rand)) is not None:
        result.append(delay)
    return result


async def asynchronous(_: BaseException) -> bool:
    return True


def only_timeouts(error: BaseException) -> bool:
    return isinstance(error, TimeoutError)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (never(), []),
        (fixed(1, 5), []),
        (fixed(4, 0.5), [0.5, 0.5, 0.5]),
        (fixed(3, timedelta(minutes=1)), [60, 60]),
        (fixed(3, 0), [0, 0]),
        (exponential(5, 0.5), [0.5, 1, 2, 4]),
        (exponential(4, 1, 3), [1, 3, 9]),
        (exponential(5, 1, max_delay=3), [1, 2, 3, 3]),
        (exponential(4, 1, 1), [1, 1, 1]),
        (fixed(10, 2, max_duration=5), [2, 2]),
        (exponential(10, 1, max_duration=timedelta(seconds=7)), [1, 2, 4]),
    ],
)
def test_the_delays_of_a_policy(policy: RetryPolicy, expected: list[float]) -> None:
    assert delays(policy) == expected


def test_jitter_only_lengthens_a_delay_and_stays_under_the_maximum() -> None:
    policy = jittered(5, 1, max_delay=5, jitter=0.5)
    assert delays(policy, rand=0) == [1, 2, 4, 5]
    assert delays(policy, rand=0.5) == [1.25, 2.5, 5, 5]
    assert delays(policy, rand=1) == [1.5, 3, 5, 5]
    assert delays(jittered(3, 1, jitter=0), rand=1) == delays(exponential(3, 1))


@given(st.integers(1, 10**6), st.floats(0, LONGEST_SECONDS), st.floats(1, 1000), st.floats(0, 1))
def test_no_delay_is_shorter_than_configured_or_longer_than_ten_years(
    attempt: int, base: float, factor: float, rand: float
) -> None:
    delay = jittered(10**7, base, factor).next_delay(attempt, 0, ERROR, rand)
    assert delay is not None
    assert base <= delay <= LONGEST_SECONDS


def test_the_time_that_attempts_took_counts_towards_the_duration() -> None:
    policy = fixed(10, 1, max_duration=60)
    assert policy.next_delay(1, 59, ERROR, 0) == 1
    assert policy.next_delay(1, 59.5, ERROR, 0) is None
    assert policy.next_delay(1, 0, RetryAfter(61), 0) is None


def test_only_errors_that_the_predicate_accepts_are_retried() -> None:
    policy = fixed(3, 1, retry_if=only_timeouts)
    assert delays(policy, error=TimeoutError()) == [1, 1]
    assert delays(policy, error=ERROR) == []


def test_a_predicate_that_fails_gives_up_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def fails(error: BaseException) -> bool:
        raise KeyError(error)

    assert delays(fixed(3, 1, retry_if=fails)) == []
    assert "retry_if failed for <class 'ValueError'>" in caplog.text
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        NonRetryable("no use"),
        DataError("the result cannot be stored", path="$.a"),
        LimitExceeded("the result is too large"),
        DefinitionError("a task was started inside a task"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_fail_again_is_not_retried(error: AikiError) -> None:
    assert delays(fixed(3, 1, retry_if=lambda _: True), error=error) == []


@pytest.mark.parametrize(
    "error", [SystemExit(1), StoreUnavailable("away"), BaseException()], ids=repr
)
def test_every_other_failure_is_retried(error: BaseException) -> None:
    assert delays(fixed(3, 1), error=error) == [1, 1]


def test_a_task_can_choose_its_delay_within_the_limits_of_the_policy() -> None:
    policy = exponential(3, 1, max_delay=2, retry_if=only_timeouts)
    assert delays(policy, error=RetryAfter(30)) == [30, 30]
    assert delays(policy, error=RetryAfter(timedelta(0))) == [0, 0]
    assert delays(never(), error=RetryAfter(1)) == []


@pytest.mark.parametrize("attempts", [0, -1, True, 2.0, "3", None, float("nan")], ids=repr)
def test_a_number_of_attempts_that_is_no_count_is_refused(attempts: Any) -> None:
    with pytest.raises(DefinitionError, match="max_attempts is an int of at least 1"):
        fixed(attempts, 1)


@pytest.mark.parametrize("duration", [-1, "1", True, float("nan"), float("inf"), 1e12], ids=repr)
def test_a_delay_that_is_no_duration_is_refused(duration: Any) -> None:
    with pytest.raises(DataError, match=r"^delay must be "):
        fixed(2, duration)
    with pytest.raises(DataError, match=r"^base_delay must be "):
        exponential(2, duration)
    with pytest.raises(DataError, match=r"^max_delay must be "):
        jittered(2, 1, max_delay=duration)
    with pytest.raises(DataError, match=r"^max_duration must be "):
        fixed(2, 1, max_duration=duration)


@pytest.mark.parametrize("factor", [0.5, 0, -2, True, "2", float("nan"), float("inf")], ids=repr)
def test_a_factor_that_would_shorten_delays_is_refused(factor: Any) -> None:
    with pytest.raises(DefinitionError, match="factor is a number from 1 to 1000, not"):
        exponential(2, 1, factor)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, True, "1", float("nan")], ids=repr)
def test_a_jitter_that_is_no_share_is_refused(jitter: Any) -> None:
    with pytest.raises(DefinitionError, match="jitter is a number from 0 to 1, not"):
        jittered(2, 1, jitter=jitter)


@pytest.mark.parametrize(
    "predicate", [True, ValueError("x"), asynchronous, functools.partial(asynchronous)]
)
def test_a_predicate_that_is_no_plain_function_is_refused(predicate: Any) -> None:
    with pytest.raises(DefinitionError, match="retry_if is a plain function"):
        fixed(2, 1, retry_if=predicate)


def test_policies_are_values() -> None:
    assert fixed(3, 60) == fixed(3, timedelta(minutes=1))
    policy = jittered(3, 1, retry_if=only_timeouts)
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_a_random_part_spreads_what_failed_together(rng: random.Random) -> None:
    policy = jittered(2, 10)
    spread = [policy.next_delay(1, 0, ERROR, rng.random()) or 0.0 for _ in range(100)]
    assert min(spread) >= 10
    assert max(spread) <= 15
    assert len(set(spread)) > 50
