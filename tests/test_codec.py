"""What is stored is JSON in canonical form, and gives back the value that went in."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    StringConstraints,
    Tag,
    computed_field,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType, TypedDict

from aiki.codec import Codec

T = TypeVar("T")

BINARY = b"\xff\x00\xfe"


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    SMALL = "s"


class Priority(IntEnum):
    HIGH = 1


@dataclass(frozen=True)
class Item:
    id: str
    quantity: int


@dataclass(frozen=True)
class Order:
    items: list[Item]
    total: float
    email: str


@dataclass(slots=True, kw_only=True)
class Parcel:
    kind: ClassVar[str] = "parcel"
    weight: Decimal
    size: Size = Size.SMALL
    labels: set[str] = field(default_factory=set[str])
    content: bytes = b""
    volume: int = field(init=False)

    def __post_init__(self) -> None:
        self.volume = len(self.content)


@dataclass
class Node:
    data: bytes
    children: "list[Node]" = field(default_factory=list["Node"])


@dataclass
class Box(Generic[T]):
    content: T


@dataclass(eq=False)
class Incomparable:
    number: int


@dataclass(eq=False)
class BadlyComparable:
    number: int

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


class Money:
    """A class of somebody else's, made known to pydantic as its documentation says."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        from_cents = core_schema.no_info_after_validator_function(cls, core_schema.int_schema())
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), from_cents],
            serialization=core_schema.plain_serializer_function_ser_schema(attrgetter("cents")),
        )


@dataclass
class Palette:
    light: dict[Colour, int]
    dark: dict[Colour, int]


class Point(NamedTuple):
    x: float
    data: bytes = b""


class Patch(TypedDict, total=False):
    name: str
    data: bytes


class Model(BaseModel):
    """Has settings of its own, which would lose data."""

    model_config = ConfigDict(
        extra="forbid", ser_json_bytes="hex", ser_json_timedelta="float", ser_json_inf_nan="strings"
    )

    data: bytes
    wait: timedelta = timedelta(0)
    order_id: str = Field(default="", alias="orderId")
    number: int = Field(default=1, validation_alias="in", serialization_alias="out")
    inner: "Model | None" = None
    _cached: int = PrivateAttr(default=0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.number


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Tidy(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True)]
    price: float

    @field_validator("price")
    @classmethod
    def to_cents(cls, price: float) -> float:
        return round(price, 2)


class Numbers(RootModel[list[int]]):
    pass


@pydantic_dataclass
class Photo:
    data: bytes


Key = TypeAliasType("Key", str)
BERLIN = ZoneInfo("Europe/Berlin")
ORDER = Order([Item("a", 1)], 9.5, "a@b")

STORED = [
    pytest.param(None, None, "null", id="None"),
    pytest.param(bool, True, "true", id="bool"),
    pytest.param(int, 3, "3", id="int"),
    pytest.param(int, True, "1", id="bool for int"),
    pytest.param(int, 2**53 + 1, "9007199254740993", id="int over 2^53"),
    pytest.param(int, -(2**64), "-18446744073709551616", id="int over 2^63"),
    pytest.param(int, 10**400, "1" + "0" * 400, id="10^400"),
    pytest.param(Any, 10**400, "1" + "0" * 400, id="10^400 under Any"),
    pytest.param(dict[str, int], {"n": -(2**64)}, '{"n":-18446744073709551616}', id="int inside"),
    pytest.param(float, 0.1, "0.1", id="float"),
    pytest.param(float, 3, "3.0", id="int for float"),
    pytest.param(list[float], [3, -0.0, 1e16], "[3.0,-0.0,1e+16]", id="floats"),
    pytest.param(float | None, 3, "3.0", id="int for an optional float"),
    pytest.param(str, "é\0\n\u2028😀", '"é\\u0000\\n\u2028😀"', id="str"),
    pytest.param(bytes, BINARY, '"_wD-"', id="bytes"),
    pytest.param(list[bytes], [BINARY, b""], '["_wD-",""]', id="list of bytes"),
    pytest.param(dict[str, bytes], {"a": BINARY}, '{"a":"_wD-"}', id="dict of bytes"),
    pytest.param(Item, Item("a", 1), '{"id":"a","quantity":1}', id="dataclass"),
    pytest.param(
        Parcel,
        Parcel(weight=Decimal("1.50"), labels={"b", "a"}, content=BINARY),
        '{"content":"_wD-","labels":["a","b"],"size":"s","weight":"1.50"}',
        id="dataclass with everything",
    ),
    pytest.param(
        Node,
        Node(BINARY, [Node(b"x")]),
        '{"children":[{"children":[],"data":"eA=="}],"data":"_wD-"}',
        id="recursive dataclass",
    ),
    pytest.param(Box[bytes], Box(BINARY), '{"content":"_wD-"}', id="generic dataclass"),
    pytest.param(
        Model,
        Model.model_validate(
            {"data": BINARY, "wait": timedelta(microseconds=1), "orderId": "o", "in": 7}
        ),
        '{"data":"_wD-","inner":null,"number":7,"order_id":"o","wait":"PT0.000001S"}',
        id="model",
    ),
    pytest.param(
        list[Model | None],
        [None, Model(data=b"", inner=Model(data=BINARY))],
        '[null,{"data":"","inner":{"data":"_wD-","inner":null,"number":1,"order_id":"",'
        '"wait":"PT0S"},"number":1,"order_id":"","wait":"PT0S"}]',
        id="models inside",
    ),
    pytest.param(Numbers, Numbers([1, 2]), "[1,2]", id="root model"),
    pytest.param(Photo, Photo(BINARY), '{"data":"_wD-"}', id="pydantic dataclass"),
    pytest.param(Patch, {"data": BINARY}, '{"data":"_wD-"}', id="TypedDict"),
    pytest.param(Point, Point(1, BINARY), '[1.0,"_wD-"]', id="NamedTuple"),
    pytest.param(Colour, Colour.RED, '"red"', id="Enum"),
    pytest.param(Priority, Priority.HIGH, "1", id="IntEnum"),
    pytest.param(dict[Colour, Size], {Colour.RED: Size.SMALL}, '{"red":"s"}', id="Enum as key"),
    pytest.param(dict[Literal["a"], int], {"a": 1}, '{"a":1}', id="Literal as key"),
    pytest.param(
        Palette,
        Palette({Colour.RED: 1}, {}),
        '{"dark":{},"light":{"red":1}}',
        id="Enum as key of several",
    ),
    pytest.param(
        dict[Key, dict[Key, int]], {"a": {"b": 1}}, '{"a":{"b":1}}', id="named type as key"
    ),
    pytest.param(Money, Money(5), "5", id="somebody's class"),
    pytest.param(defaultdict[str, int], defaultdict(int, a=1), '{"a":1}', id="defaultdict"),
    pytest.param(
        Annotated[Item, Tag("item")] | Annotated[bytes, Tag("data")], BINARY, '"_wD-"', id="tags"
    ),
    pytest.param(Literal["a", 1], 1, "1", id="Literal"),
    pytest.param(datetime, datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"', id="UTC"),
    pytest.param(
        datetime,
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC).replace(tzinfo=None),
        '"2026-01-02T03:04:05.000006"',
        id="without a zone",
    ),
    pytest.param(
        datetime, datetime(2026, 7, 2, tzinfo=BERLIN), '"2026-07-02T00:00:00+02:00"', id="zone"
    ),
    pytest.param(date, date(2026, 1, 2), '"2026-01-02"', id="date"),
    pytest.param(time, time(1, 2, 3), '"01:02:03"', id="time"),
    pytest.param(timedelta, timedelta(days=-1), '"-P1D"', id="timedelta"),
    pytest.param(UUID, UUID(int=1), '"00000000-0000-0000-0000-000000000001"', id="UUID"),
    pytest.param(Decimal, Decimal("1.10"), '"1.10"', id="Decimal"),
    pytest.param(Path, Path("/a/b"), '"/a/b"', id="Path"),
    pytest.param(set[int], {10, 9, 1}, "[1,9,10]", id="set"),
    pytest.param(frozenset[str], frozenset("ba"), '["a","b"]', id="frozenset"),
    pytest.param(
        set[tuple[int, str | None]], {(2, "a"), (1, None)}, '[[1,null],[2,"a"]]', id="set of tuples"
    ),
    pytest.param(
        frozenset[Item],
        frozenset({Item("b", 1), Item("a", 2)}),
        '[{"id":"a","quantity":2},{"id":"b","quantity":1}]',
        id="set of dataclasses",
    ),
    pytest.param(set[int | str], {"a", 1}, '["a",1]', id="mixed set"),
    pytest.param(tuple[int, str], (1, "a"), '[1,"a"]', id="tuple"),
    pytest.param(tuple[int, ...], (1, 2), "[1,2]", id="tuple of any length"),
    pytest.param(Mapping[str, int], {"a": 1}, '{"a":1}', id="Mapping"),
    pytest.param(Sequence[int], [1], "[1]", id="Sequence"),
    pytest.param(Cat | Dog, Dog(), '{"kind":"dog"}', id="union"),
    pytest.param(int | str, "1", '"1"', id="str beside int"),
    pytest.param(int | float, 1.0, "1.0", id="float beside int"),
    pytest.param(UUID | str, UUID(int=1), '"00000000-0000-0000-0000-000000000001"', id="UUID|str"),
    pytest.param(Any, {"b": [1, 2.5, None], "a": True}, '{"a":true,"b":[1,2.5,null]}', id="Any"),
    pytest.param(object, ["a", 1], '["a",1]', id="object"),
    pytest.param(dict, {"b": 1, "a": 2}, '{"a":2,"b":1}', id="dict"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "stored"), STORED)
def test_a_value_is_stored_as_canonical_json_and_comes_back(
    annotation: object, value: object, stored: str
) -> None:
    codec = Codec(annotation, "result")
    data, seen = codec.encode(value)
    assert data.decode() == stored
    assert seen == value
    decoded = codec.decode(data)
    assert decoded == value
    assert type(decoded) is type(seen)
    assert codec.encode(seen)[0] == data, "what was read is written as before"


@pytest.mark.parametrize("kind", [Incomparable, BadlyComparable])
def test_objects_without_a_working_equality_are_compared_by_their_fields(
    kind: type[Incomparable | BadlyComparable],
) -> None:
    data, seen = Codec(list[kind], "result").encode([kind(1)])  # type: ignore[valid-type]
    assert data == b'[{"number":1}]'
    assert seen[0].number == 1


def test_what_is_no_field_is_not_stored() -> None:
    value = Model(data=b"")
    value._cached = 5
    _, seen = Codec(Model, "result").encode(value)
    assert seen._cached == 0


def test_validators_of_the_user_may_change_a_value_on_the_way() -> None:
    untidy = Tidy.model_construct(name=" a ", price=1.005)
    data, seen = Codec(Tidy, "result").encode(untidy)
    assert data == b'{"name":" a ","price":1.005}'
    assert seen == Tidy(name="a", price=1.0)


def test_the_hour_that_a_clock_change_repeats_is_stored() -> None:
    second = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)
    _, seen = Codec(datetime, "result").encode(second)
    assert seen == second.astimezone(timezone(timedelta(hours=1)))


def test_a_tuple_comes_back_as_a_list_where_nothing_says_that_it_is_one() -> None:
    assert Codec(Any, "result").encode({"a": (1, (2,))})[1] == {"a": [1, [2]]}
    assert Codec(Sequence[int], "result").encode((1, 2))[1] == [1, 2]


# Results


def returns_nothing() -> None:
    """Do something."""


def returns_order() -> Order:
    return ORDER


async def returns_later() -> list[Item]:
    await asyncio.sleep(0)
    return []


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (returns_nothing, None),
        (returns_order, ORDER),
        (returns_later, [Item("a", 1)]),
        (lambda: None, {"a": [None]}),
        (lambda: None, None),
    ],
)
def test_a_result_is_stored_by_the_return_annotation(fn: Callable[..., Any], value: object) -> None:
    data, seen = Codec.of_result(fn, "task 'x'").encode(value)
    assert seen == value
    assert Codec.of_result(fn, "task 'x'").decode(data) == value
