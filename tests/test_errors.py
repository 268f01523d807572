"""Every error says what it knows, and is the same in another process."""

import copy
import inspect
import pickle
from datetime import timedelta
from typing import Any

import cloudpickle
import pytest

from aiki import errors
from aiki.errors import (
    AikiError,
    AskFailed,
    ConfigError,
    Conflict,
    DataError,
    DefinitionError,
    Failure,
    InvalidTransition,
    LimitExceeded,
    NonRetryable,
    NotFound,
    Rejected,
    RetryAfter,
    RunCancelled,
    RunFailed,
    StoreRefused,
    StoreReplaced,
    StoreUnavailable,
    Tampered,
    TaskFailed,
    UnknownKey,
)

FAILURE = Failure("ValueError", "no", "Traceback ...", Failure("OSError", "disk", ""))


class OutOfStock(NonRetryable):
    """One of the user's own, with arguments that are not its message."""

    def __init__(self, item: str, *, left: int) -> None:
        super().__init__(f"{left} of {item} left")
        self.item = item
        self.left = left


EVERY = [
    DefinitionError("bad"),
    DataError("bad"),
    DataError("bad", path="$.items[3].price"),
    ConfigError("bad"),
    Conflict("taken", run_id="r1"),
    NotFound("none"),
    InvalidTransition("from completed to running"),
    LimitExceeded("big"),
    TaskFailed("task 'charge' failed", task="charge", attempts=3, failure=FAILURE),
    RunFailed("run r1 failed", run_id="r1", failure=FAILURE),
    RunCancelled("run r1 was cancelled", run_id="r1", reason="by hand"),
    Rejected("too late"),
    AskFailed("query state of run r1 failed", run_id="r1", failure=FAILURE),
    UnknownKey("no such key", key_id="2030-01"),
    Tampered("changed"),
    StoreUnavailable("away"),
    StoreRefused("full"),
    StoreReplaced("flushed"),
    NonRetryable("no use"),
    RetryAfter(timedelta(minutes=1), "busy"),
    OutOfStock("shoe", left=0),
]


def described(error: AikiError) -> tuple[Any, ...]:
    return type(error), str(error), error.args, vars(error)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__ + str(error))
def test_an_error_is_the_same_after_pickling_and_copying(error: AikiError) -> None:
    error.add_note("seen on the way")
    for again in (
        pickle.loads(pickle.dumps(error)),
        pickle.loads(cloudpickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert described(again) == described(error)


def test_the_errors_are_the_documented_ones_and_share_a_base() -> None:
    defined = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BaseException)
    }
    assert defined == {AikiError} | {type(error) for error in EVERY} - {OutOfStock}
    assert all(issubclass(kind, AikiError) for kind in defined)
    assert all(kind.__doc__ for kind in defined)


def test_a_data_error_shows_where_the_fault_is() -> None:
    assert str(DataError("nan is not a number", path="$.items[3].price")) == (
        "nan is not a number (at $.items[3].price)"
    )
    assert str(DataError("nan is not a number")) == "nan is not a number"


@pytest.mark.parametrize(
    ("delay", "expected"), [(0, 0.0), (5, 5.0), (0.5, 0.5), (timedelta(minutes=2), 120.0)]
)
def test_retry_after_holds_its_delay_in_seconds(delay: float | timedelta, expected: float) -> None:
    assert RetryAfter(delay).delay == expected
    assert str(RetryAfter(delay)) == f"try again after {expected:g} s"
    assert str(RetryAfter(delay, "the bank is closed")) == "the bank is closed"


@pytest.mark.parametrize(
    "delay", [-1, float("nan"), float("inf"), 1e12, "5", None, timedelta(days=-1), timedelta.max]
)
def test_retry_after_refuses_what_is_no_delay(delay: Any) -> None:
    with pytest.raises(DataError, match="RetryAfter takes 0 seconds to 10 years, not "):
        RetryAfter(delay)
