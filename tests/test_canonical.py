"""Equal values have equal bytes, whatever they are, and few enough of them."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from aiki.codec import MAX_PAYLOAD, Codec, address
from aiki.errors import LimitExceeded


@dataclass(frozen=True)
class Item:
    id: str
    quantity: int


@dataclass(frozen=True)
class Order:
    items: list[Item]
    total: float
    email: str


class Patch(TypedDict, total=False):
    name: str
    data: bytes


@pytest.mark.parametrize(
    ("annotation", "one", "other"),
    [
        (Any, {"b": 1, "a": {"d": 1, "c": 2}}, {"a": {"c": 2, "d": 1}, "b": 1}),
        (Any, "é", "\u00e9"),
        (set[str], {"a", "b", "c"}, {"c", "b", "a"}),
        (float, 100, 100.0),
        (Item, Item("a", 1), Item(quantity=1, id="a")),
        (Patch, {"name": "a", "data": b""}, {"data": b"", "name": "a"}),
    ],
    ids=["key order", "escapes", "set", "float", "dataclass", "TypedDict"],
)
def test_equal_values_have_one_address(annotation: object, one: object, other: object) -> None:
    codec = Codec(annotation, "input")
    assert address("task", codec.encode(one)[0]) == address("task", codec.encode(other)[0])


def test_an_address_is_the_name_and_a_hash_of_the_input() -> None:
    # In full, because it is what journals of running workflows hold.
    assert address("charge", b"{}") == "charge:2afb9b83f9314e5d029766197f539792"
    assert address("charge", b"[]") != address("charge", b"{}")
    assert address("refund", b"{}") != address("charge", b"{}")


# Limits


def test_a_payload_of_exactly_the_limit_is_stored() -> None:
    data, _ = Codec(str, "result").encode("x" * (MAX_PAYLOAD - 2))
    assert len(data) == MAX_PAYLOAD


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, "x" * (MAX_PAYLOAD - 1)),
        (Any, ["x" * MAX_PAYLOAD]),
        (bytes, b"x" * MAX_PAYLOAD),
        (list[bytes], [b"x" * 100 * MAX_PAYLOAD]),
    ],
    ids=["str", "Any", "bytes", "100 MiB"],
)
def test_a_payload_over_the_limit_is_refused(annotation: object, value: object) -> None:
    with pytest.raises(LimitExceeded, match=r"result of task 'x' .* over the limit of 1,048,576"):
        Codec(annotation, "result of task 'x'").encode(value)


def test_the_limit_is_one_on_the_canonical_form() -> None:
    codec = Codec(list[float], "result")
    assert codec.encode([1e-7], limit=7)[0] == b"[1e-07]"
    with pytest.raises(LimitExceeded):
        codec.encode([1e-7], limit=6)


# Any value

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_plain_json_comes_back_as_it_was(value: object) -> None:
    codec = Codec(Any, "result")
    data, seen = codec.encode(value)
    assert repr(codec.decode(data)) == repr(seen)
    assert seen == value
    assert (
        data
        == json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    )


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (float, st.floats(allow_nan=False, allow_infinity=False)),
        (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
        (datetime, st.datetimes(timezones=st.just(UTC) | st.none())),
        (date, st.dates()),
        (time, st.times()),
        (timedelta, st.timedeltas()),
        (UUID, st.uuids()),
        (bytes, st.binary()),
        (frozenset[bytes], st.frozensets(st.binary())),
        (dict[str, set[int]], st.dictionaries(st.text(), st.sets(st.integers()))),
        (Order, st.from_type(Order).filter(lambda order: abs(order.total) < float("inf"))),
    ],
    ids=str,
)
def test_every_value_of_a_type_comes_back_exactly(
    annotation: object, values: st.SearchStrategy[Any]
) -> None:
    codec = Codec(annotation, "result")

    @given(values)
    def round_trip(value: object) -> None:
        data, seen = codec.encode(value)
        assert seen == value
        assert codec.decode(data) == value
        assert codec.encode(seen)[0] == data

    round_trip()
