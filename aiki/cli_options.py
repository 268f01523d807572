"""What is written on a command line, as values: input, times, deadlines, tags, memo."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from aiki.call import StartOptions
from aiki.codec import Codec
from aiki.durations import written_seconds
from aiki.errors import DataError
from aiki.options import When, check_order, checked_memo, checked_tags, deadline, due


def start_options(
    *,
    pool: str,
    idempotency_key: str | None,
    delay: str | None,
    start_at: str | None,
    start_by: str | None,
    finish_by: str | None,
    tags: Sequence[str],
    memo: str | None,
) -> StartOptions:
    """Read the options of a start. Raises `DataError` for what cannot be read."""
    options = StartOptions(
        pool=pool,
        idempotency_key=idempotency_key,
        at=due(
            None if delay is None else written_seconds(delay, what="--delay"),
            None if start_at is None else moment(start_at, "--start-at"),
        ),
        start_by=deadline(_when(start_by, "--start-by"), "--start-by"),
        finish_by=deadline(_when(finish_by, "--finish-by"), "--finish-by"),
        tags=checked_tags(tags),
        memo=b"" if memo is None else checked_memo(_object(memo)),
    )
    check_order(options.at, **{"--start-by": options.start_by, "--finish-by": options.finish_by})
    return options


def payload(given: str) -> bytes:
    """Read the input as what a client would send for the same arguments."""
    try:
        value: object = json.loads(sys.stdin.read() if given == "-" else given)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"--input is not JSON: {error}; it is the object of the handler's arguments, such as "
            """'{"order": {"id": 7}}'"""
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            "--input is an object that has each argument of the handler by its name, such as "
            f"""'{{"order": …}}'; this is {json.dumps(value):.60}"""
        )
    return Codec(object, "--input").encode(value)[0]


def moment(text: str, what: str) -> datetime:
    """Read a moment in ISO 8601; without a time zone, it is that of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise DataError(
            f"{what} is a moment such as 2030-01-31T09:00+01:00, not {text!r:.100}"
        ) from None


def past(text: str) -> datetime:
    """Read how long ago something was, or when."""
    when = _when(text, "--since")
    if isinstance(when, datetime):
        return when
    return datetime.now(UTC) - timedelta(seconds=cast("float", when))


def _when(text: str | None, what: str) -> When | None:
    """Read a length of time where it looks like one, else a moment."""
    if text is None:
        return None
    is_span = len(text) < len("2030-01-31") and "-" not in text and ":" not in text
    return written_seconds(text, what=what) if is_span else moment(text, what)


def _object(text: str) -> dict[str, object]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"--memo is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"--memo is an object, such as '{{\"ticket\": 7}}'; this is {text:.60}")
    return cast("dict[str, object]", value)
