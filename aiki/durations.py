"""Durations: seconds as a number or a `timedelta`, 0 to 10 years."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TypeAlias

from aiki.errors import LONGEST_SECONDS, DataError

Seconds: TypeAlias = float | timedelta

UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*")


def seconds(value: Seconds, *, what: str) -> float:
    """Return a duration in seconds.

    `what` names the duration in the error, such as `"timeout"`. Raises `DataError` for
    anything but a finite number (no bool) or `timedelta` between 0 and 10 years.
    """
    given: object = value
    if isinstance(given, timedelta):
        number = given.total_seconds()
    elif isinstance(given, int | float) and not isinstance(given, bool):
        number = given
    else:
        raise DataError(
            f"{what} must be seconds (int or float) or a timedelta, not {_shown(given)}"
        )
    if not 0 <= number <= LONGEST_SECONDS:  # NaN is refused here as well
        raise DataError(f"{what} must be between 0 seconds and 10 years, not {_shown(given)}")
    return float(number)


def written_seconds(text: str, *, what: str) -> float:
    """Read a duration as people write it: 90, 500ms, 10s, 5m, 2h or 7d.

    Raises `DataError` for anything else, and for more than 10 years.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None or match[2] not in UNITS:
        raise DataError(f"{what} is a time such as 90s, 5m, 2h or 7d, not {text!r:.100}")
    return seconds(float(match[1]) * UNITS[match[2]], what=what)


def milliseconds(duration: float) -> int:
    """Give so many seconds in whole milliseconds, never fewer: no wait ends early."""
    # A float of 0.3 s is a little less or more than that; a nanosecond makes no millisecond.
    return math.ceil(duration * 1000 - 1e-6)


def _shown(value: object) -> str:
    """Describe a refused value in an error, however large or broken it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (also int's limit on digits)
        text = "..."
    return f"{type(value).__name__} {text[:80]}"
