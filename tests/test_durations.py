"""Durations are seconds or a timedelta, from nothing to ten years."""

import contextlib
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.durations import seconds
from aiki.errors import LONGEST_SECONDS, DataError


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (1, 1.0),
        (0.5, 0.5),
        (timedelta(), 0.0),
        (timedelta(hours=24), 86400.0),
        (timedelta(microseconds=1), 1e-6),
        (timedelta(days=3653), LONGEST_SECONDS),
    ],
)
def test_a_duration_is_read_as_seconds(duration: float | timedelta, expected: float) -> None:
    result = seconds(duration, what="timeout")
    assert result == expected
    assert type(result) is float


@pytest.mark.parametrize(
    "duration",
    [
        -1,
        -1e-9,
        float("nan"),
        float("inf"),
        float("-inf"),
        LONGEST_SECONDS + 1,
        pytest.param(10**400, id="10^400"),
        pytest.param(10**5000, id="5,000 digits"),
        timedelta(seconds=-1),
        timedelta(days=3654),
        timedelta.max,
    ],
)
def test_a_duration_out_of_range_is_refused(duration: float | timedelta) -> None:
    with pytest.raises(DataError, match=r"^timeout must be between 0 seconds and 10 years, not "):
        seconds(duration, what="timeout")


@pytest.mark.parametrize("duration", [True, False, "1", None, b"1", Decimal(1), [1], 1j], ids=repr)
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    with pytest.raises(DataError, match=r"^delay must be seconds \(int or float\) or a timedelta"):
        seconds(duration, what="delay")


@given(st.floats() | st.integers() | st.timedeltas())
def test_every_duration_is_either_in_range_or_refused(duration: float | timedelta) -> None:
    with contextlib.suppress(DataError):
        assert 0 <= seconds(duration, what="timeout") <= LONGEST_SECONDS
