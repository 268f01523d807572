"""How settings are written: readers from what stands in a flag, a variable or a file to a value.

A reader takes what it finds (a `str` from flags and environment, what TOML or Python has from the
others) and returns the value, or raises `ValueError` with what is wrong and what would be right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import cast

from aiki.durations import UNITS
from aiki.errors import LONGEST_SECONDS

_UNITS_OF_SIZE = {
    unit.lower(): factor
    for power, prefix in enumerate("KMGT", 1)
    for unit, factor in (
        (prefix, 1024**power),
        (prefix + "iB", 1024**power),
        (prefix + "B", 1000**power),
    )
} | {"": 1, "b": 1}
_TOO_MUCH = 2**60  # of anything, and what floats hold exactly enough; NaN is not less either
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def text(value: object) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, not {value!r}")
    return value


def path(value: object) -> Path:
    """Read a path; it need not exist."""
    if isinstance(value, os.PathLike):
        return Path(cast("os.PathLike[str]", value))
    return Path(text(value))


def names(value: object) -> tuple[str, ...]:
    """Read one or several names: a list, or a text with commas."""
    if isinstance(value, str):
        found: tuple[object, ...] = tuple(part.strip() for part in value.split(","))
    elif isinstance(value, list | tuple):
        found = tuple(cast("list[object]", value))
    else:
        raise ValueError(f"expected names, not {value!r}")  # noqa: TRY004  (see above)
    if not found:
        raise ValueError("expected at least one name")
    return tuple(dict.fromkeys(text(name) for name in found))


def one_of(*allowed: str) -> Callable[[object], str]:
    """Make a reader of one of these words."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, not {value!r}")
        return value

    return read


def at_least(smallest: int) -> Callable[[object], int]:
    """Make a reader of whole numbers."""

    def read(value: object) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool) or number < smallest:
            raise ValueError(f"expected a whole number of at least {smallest}, not {value!r}")
        return number

    return read


def duration(shortest: float = 0.0) -> Callable[[object], float]:
    """Make a reader of durations: seconds, a `timedelta`, or a text such as 500ms, 10s, 5m, 7d."""

    def read(value: object) -> float:
        seconds: float
        if isinstance(value, timedelta):
            seconds = value.total_seconds()
        else:
            seconds = _quantity(value, UNITS, "seconds, or a text such as 500ms or 7d")
        if not shortest <= seconds <= LONGEST_SECONDS:
            raise ValueError(f"expected {shortest:g} s to 10 years, not {value!r}")
        return seconds

    return read


def size(smallest: int) -> Callable[[object], int]:
    """Make a reader of sizes: bytes, or a text such as 512MiB or 2G."""

    def read(value: object) -> int:
        count = _quantity(value, _UNITS_OF_SIZE, "bytes, or a text such as 512MiB or 1GiB")
        if count < smallest:
            raise ValueError(f"expected at least {smallest // 2**20} MiB, not {value!r}")
        return int(count)

    return read


def _quantity(value: object, units: dict[str, float] | dict[str, int], expected: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _TOO_MUCH:
        return float(value)
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) is not None:
        factor = units.get(match[2].lower())
        if factor is not None:
            return float(match[1]) * factor
    raise ValueError(f"expected {expected}, not {value!r}")
