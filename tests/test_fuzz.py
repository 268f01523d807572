"""Anything at all, at every door: it is taken as it is meant, or refused in a typed way."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from aiki.cli import Exit, command
from aiki.cli_options import moment, past, payload, start_options
from aiki.codec import Arguments, Codec
from aiki.durations import seconds, written_seconds
from aiki.errors import (
    LONGEST_SECONDS,
    AikiError,
    ConfigError,
    DataError,
    DefinitionError,
    LimitExceeded,
)
from aiki.failures import failure_from_json
from aiki.names import (
    checked_key,
    checked_name,
    checked_reason,
    checked_run_id,
    checked_tag,
    checked_version,
    kebab_case,
)
from aiki.options import checked_memo, checked_tags, deadline, due
from aiki.records import Entry
from aiki.schedule import Timing, cron, every, timing
from aiki.store.connection import Address
from aiki.supervisor import Settings
from aiki.supervisor.settings import OPTIONS

# With halves of surrogate pairs, NUL and all else that a str may hold.
texts = st.text(st.characters(exclude_categories=()), max_size=80)
keys = (
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=20)
    | st.dates() | st.datetimes() | st.timedeltas() | st.uuids() | st.complex_numbers()
)  # fmt: skip
scalars = keys | st.decimals()
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.frozensets(keys, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


# Names and all that is like them


def utf8(text: str) -> bytes:
    return text.encode()


@given(anything | texts)
def test_a_name_is_its_own_normal_form_and_part_of_a_key_or_refused(value: Any) -> None:
    try:
        name = checked_name(value, "task")
    except DefinitionError:
        return
    assert checked_name(name, "task") == name == unicodedata.normalize("NFC", value)
    assert 1 <= len(utf8(name)) <= 200
    assert not set(name) & set(":/{}\n\r\0")


@given(texts | st.from_regex(r"\d{0,3}\.\d{0,3}\.\d{0,3}"))
def test_a_version_is_three_numbers_that_compare_or_refused(value: str) -> None:
    with contextlib.suppress(DefinitionError):
        version = checked_version(value, "workflow")
        assert [str(int(part)) for part in version.split(".")] == version.split(".")


@pytest.mark.parametrize("checked", [checked_key, checked_tag, checked_reason, checked_run_id])
@given(value=anything | texts)
def test_a_key_a_tag_a_reason_and_an_id_are_kept_as_they_are_or_refused(
    checked: Callable[[object], str], value: Any
) -> None:
    with contextlib.suppress(DataError):
        assert checked(value) == value
        assert utf8(value) or checked is checked_reason


@given(st.from_regex(r"\A[^\W\d]\w{0,40}\Z"))
def test_the_name_of_any_function_is_a_name_or_refused(identifier: str) -> None:
    with contextlib.suppress(DefinitionError):
        assert checked_name(kebab_case(identifier), "task")


# Durations and times


@given(anything)
def test_a_duration_is_in_range_or_refused(value: Any) -> None:
    with contextlib.suppress(DataError):
        assert 0 <= seconds(value, what="timeout") <= LONGEST_SECONDS


@given(texts | st.from_regex(r"\A *\d{0,20}(\.\d{0,9})? *[a-z]{0,3} *\Z"))
def test_a_written_duration_is_in_range_or_refused(text: str) -> None:
    with contextlib.suppress(DataError):
        assert 0 <= written_seconds(text, what="--delay") <= LONGEST_SECONDS


fields = st.from_regex(r"\A(\*|\d{1,3})(-\d{1,3})?(/\d{1,3})?(,\d{1,2}){0,3}[L#W?]?\d?\Z")


@settings(max_examples=60)
@given(st.lists(fields, min_size=5, max_size=5).map(" ".join), st.integers(0, 4_000_000_000_000))
def test_a_cron_expression_fires_later_and_later_or_is_refused(expression: str, at: int) -> None:
    with contextlib.suppress(DefinitionError):
        rule = cron(expression, "Europe/Amsterdam")
        first = rule.next_after(at)
        assert at < first < rule.next_after(first)


@given(anything, anything, anything)
def test_the_timing_of_a_schedule_is_read_again_as_it_was_or_refused(
    interval: Any, window: Any, jitter: Any
) -> None:
    with contextlib.suppress(DefinitionError):
        rule = timing(every(interval), catch_up_window=window, jitter=jitter)
        assert Timing.from_json(rule.to_json()) == rule


# Values


@dataclass(frozen=True)
class Line:
    item: str
    price: Decimal
    at: datetime | None
    tags: frozenset[str]


ANNOTATIONS: list[Any] = [
    Any, object, int, str, float, bool, bytes, None, UUID, datetime, timedelta, Decimal,
    list[int], dict[str, Any], dict[str, float], tuple[int, str], set[bytes], int | str | None,
    Literal["a", 1], Line, list[Line],
]  # fmt: skip
CODECS = [Codec(annotation, "result") for annotation in ANNOTATIONS]
lines = st.builds(Line, texts, st.decimals(), st.datetimes() | st.none(), st.frozensets(texts))


@settings(max_examples=200)
@given(st.sampled_from(CODECS), anything | lines | st.lists(lines, max_size=2))
def test_a_value_comes_back_from_one_canonical_form_or_is_refused(codec: Codec, value: Any) -> None:
    try:
        data, seen = codec.encode(value)
    except (DataError, LimitExceeded):
        return
    assert codec.decode(data) == seen
    assert codec.encode(seen) == (data, seen)
    plain = json.loads(data)
    assert json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":")) == (
        data.decode()
    )


@settings(max_examples=200)
@given(st.sampled_from(CODECS), st.binary(max_size=60) | texts.map(ascii).map(str.encode))
def test_stored_bytes_are_read_or_refused(codec: Codec, data: bytes) -> None:
    with contextlib.suppress(DataError):
        codec.decode(data)


def order(lines: list[int], note: str = "", *, total: float | None = None) -> None:
    """Take arguments of several kinds."""


ORDER = Arguments(order, skip=0, where="task 'order'")


@given(st.lists(anything, max_size=4), st.dictionaries(texts | st.just("note"), anything))
def test_arguments_are_bound_and_come_back_or_are_refused(
    args: list[Any], kwargs: dict[str, Any]
) -> None:
    with contextlib.suppress(DataError, LimitExceeded):
        data, found, named = ORDER.encode(tuple(args), kwargs)
        assert ORDER.decode(data) == (found, named)


@given(
    st.binary(max_size=100) | st.from_regex(rb"\A[a-z] [\w:-]{0,9} \d{0,9} \d{0,9}[ \d]*\n?.*\Z")
)
def test_what_is_read_from_a_record_is_what_it_should_be_or_refused(data: bytes) -> None:
    for read in (Entry.parse, failure_from_json, Timing.from_json):
        with contextlib.suppress(DataError):
            read(data)


# Options and settings


@given(anything, anything, anything, anything)
def test_options_of_a_start_are_lines_that_a_script_can_read_or_are_refused(
    delay: Any, when: Any, tags: Any, memo: Any
) -> None:
    makers: list[Callable[[], str]] = [
        lambda: due(delay, None),
        lambda: due(None, when),
        lambda: deadline(when, "finish_by"),
        lambda: "\n".join(checked_tags(tags)),
        lambda: checked_memo(memo).decode(),
    ]
    for make in makers:
        with contextlib.suppress(DataError, LimitExceeded):
            assert isinstance(make(), str)


SECRET = "hush-hush"
urls = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["redis://", "rediss://", "unix://", "redis:", "http://", ""]) | texts,
    st.sampled_from(["", f":{SECRET}@", f"user:{SECRET}@", f"{SECRET}@"]),
    st.sampled_from(["localhost", "[::1]", "h:6379", "h:99999", "a/b", "/run/x.sock"]) | texts,
    st.sampled_from(["", "/0", "/x", "?db=1", "?ssl_cert_reqs=none", "#f"]) | texts,
)


@given(urls)
def test_an_address_is_used_or_refused_and_tells_no_password(url: str) -> None:
    try:
        told = Address(url).described
    except ConfigError as error:
        told = str(error)
    assert SECRET not in told


@given(
    st.dictionaries(
        st.sampled_from(["host", "port", "db", "username", "password", "ssl"]), anything
    )
)
def test_the_parts_of_an_address_are_used_or_refused(parts: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        Address(parts)


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from([option.name for option in OPTIONS]), anything, max_size=3),
    st.dictionaries(
        st.sampled_from([f"AIKI_{option.name.upper()}" for option in OPTIONS]), texts, max_size=3
    ),
)
def test_settings_of_a_supervisor_are_used_or_refused(
    flags: dict[str, object], environ: dict[str, str]
) -> None:
    with contextlib.suppress(ConfigError):
        Settings.load(flags, flags=True, environ=environ, directory=Path("/"))


# The command line

words = (
    st.sampled_from(["start", "runs", "show", "audit", "-h", "--", "-", "shop", "0-x"])
    | st.sampled_from(["--json", "--wait", "--limit", "--status", "--since", "--tag", "--count"])
    | st.sampled_from(["--input", "--delay", "--start-at", "--finish-by", "--memo", "--repair"])
    | st.sampled_from(["{}", "5m", "2030-01-01", "NaN", "[" * 500, "1e400", "-5"])
    | texts
)


@settings(max_examples=100)
@given(st.lists(words, max_size=6))
def test_any_command_line_ends_with_a_code_and_a_sentence(line: list[str]) -> None:
    result = CliRunner().invoke(command, [*line, "--data-dir", "/no/such/place"], env={})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in set(Exit)
    assert "Traceback" not in result.output


@given(texts)
def test_what_is_written_on_a_command_line_is_read_or_refused(text: str) -> None:
    readers: list[Callable[[str], object]] = [payload, past, partial(moment, what="--start-at")]
    for read in readers:
        if text != "-":
            with contextlib.suppress(AikiError):
                read(text)
    for name in ("delay", "start_at", "start_by", "finish_by", "memo"):
        given_options: dict[str, Any] = dict.fromkeys(
            ("idempotency_key", "delay", "start_at", "start_by", "finish_by", "memo")
        )
        with contextlib.suppress(AikiError):
            start_options(pool="default", tags=(text,), **given_options | {name: text})
