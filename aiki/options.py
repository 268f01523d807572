"""Options of a start, checked: when, by when, tags, memo; and how they are sent.

A time is sent as `+MS`, a length of time from now or from when the run is due, or as `MS`, a moment
of the server's clock: the server alone decides whether it has come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

from aiki.codec import Codec
from aiki.durations import Seconds, seconds
from aiki.errors import DataError, LimitExceeded
from aiki.names import checked_tag

When: TypeAlias = Seconds | datetime
OnParentClose: TypeAlias = Literal["cancel", "abandon", "wait"]
OnConflict: TypeAlias = Literal["error", "return_existing"]

MAX_TAGS = 20
MAX_MEMO = 4096  # bytes of JSON: it is read whenever the run is listed

_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
_MEMO = Codec(dict[str, Any], "memo")


def due(delay: Seconds | None, start_at: datetime | None) -> str:
    """Return when a run is to start; empty for at once.

    Raises `DataError` for a naive datetime, and where both are given.
    """
    if delay is not None and start_at is not None:
        raise DataError("give delay or start_at, not both: each says when the run is to start")
    if start_at is not None:
        return _moment(start_at, "start_at")
    return "" if delay is None else _span(delay, "delay")


def deadline(value: When | None, what: str) -> str:
    """Return by when something must have happened: a length of time or a moment.

    Raises `DataError` for a naive datetime and for no length of time.
    """
    if value is None:
        return ""
    return _moment(value, what) if isinstance(value, datetime) else _span(value, what)


def check_order(at: str, **deadlines: str) -> None:
    """Raise `DataError` if a run would be over before it is to start."""
    for what, by in deadlines.items():
        if at.isdigit() and by.isdigit() and int(by) <= int(at):
            raise DataError(f"{what} comes before start_at: the run would end before it begins")


def checked_tags(given: Sequence[str], known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return these tags, after those that there are.

    Raises `DataError` for what is no list of tags, and `LimitExceeded` for too many.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise DataError(f'tags are a list of texts, such as ["customer:7"], not {given!r:.100}')
    tags = tuple(dict.fromkeys((*known, *map(checked_tag, given))))
    if len(tags) > MAX_TAGS:
        raise LimitExceeded(f"a run has at most {MAX_TAGS} tags, and these are {len(tags)}")
    return tags


def checked_memo(given: Mapping[str, Any], known: bytes = b"") -> bytes:
    """Return what there is with these entries added, as JSON.

    Raises `DataError` for what is no JSON object, and `LimitExceeded` for more than 4 KiB.
    """
    if not isinstance(given, Mapping):
        raise DataError(f"memo is an object, such as {{'asked by': 'Ada'}}, not {given!r:.100}")
    together: dict[str, Any] = {**(json.loads(known) if known else {}), **given}
    return _MEMO.encode(together, limit=MAX_MEMO)[0] if together else b""


def packed(*, at: str, start_by: str, finish_by: str, tags: Sequence[str], memo: bytes) -> str:
    """Write what few runs have as the scripts read it: lines of a name and a value."""
    lines = [("at", at), ("start", start_by), ("finish", finish_by), ("memo", memo.decode())]
    lines += [("tag", tag) for tag in tags]
    return "\n".join(f"{name} {value}" for name, value in lines if value)


def _span(value: Seconds, what: str) -> str:
    return f"+{round(seconds(value, what=what) * 1000)}"


def _moment(value: datetime, what: str) -> str:
    given: object = value
    if not isinstance(given, datetime):
        raise DataError(f"{what} is a datetime, not {given!r:.100}")
    if given.utcoffset() is None:
        raise DataError(
            f"{what} {given.isoformat()} has no time zone, so it is not known which moment it is; "
            "give it one: datetime(…, tzinfo=ZoneInfo(…))"
        )
    # Upwards: what is to happen at a moment never happens before it.
    return str(max(0, -((_BEGIN - given) // timedelta(milliseconds=1))))


def checked_on_conflict(value: object) -> OnConflict:
    """Return what becomes of a second start with an idempotency key. Raises `DataError`."""
    if value == "error":
        return "error"
    if value == "return_existing":
        return "return_existing"
    raise DataError(f'on_conflict is "error" or "return_existing", not {value!r:.100}')


def checked_on_close(value: object) -> OnParentClose:
    """Return what becomes of a child when its parent ends. Raises `DataError`."""
    for known in get_args(OnParentClose):
        if value == known:
            choice: OnParentClose = known
            return choice
    raise DataError(f'on_parent_close is "cancel", "abandon" or "wait", not {value!r:.100}')
