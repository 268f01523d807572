"""What cannot be stored or read is refused, with its place, the reason and what to do."""

import asyncio
import socket
from collections import Counter
from collections.abc import Generator
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer, field_validator
from typing_extensions import TypedDict

from aiki.codec import Arguments, Codec
from aiki.errors import DataError


@dataclass
class Item:
    id: str
    price: float


@dataclass
class Order:
    items: list[Item]
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    tags: frozenset[str] = frozenset()


@dataclass
class Gift(Order):
    card: str = ""


@dataclass
class Left:
    number: int


@dataclass
class Right:
    number: int


@dataclass
class Restless:
    number: int

    def __post_init__(self) -> None:
        self.number += 1


@dataclass
class Growing:
    numbers: list[int]

    def __post_init__(self) -> None:
        self.numbers = [*self.numbers, 0]


@dataclass
class Unshowable:
    number: int

    def __repr__(self) -> str:
        raise RuntimeError


@dataclass
class Scaled:
    scale: InitVar[int]


class Point(NamedTuple):
    x: float
    y: float


class Patch(TypedDict, total=False):
    name: str


class Account(BaseModel):
    balance: int = 0
    password: SecretStr = SecretStr("")

    @field_validator("balance")
    @classmethod
    def is_covered(cls, balance: int) -> int:
        if balance < 0:
            raise ValueError("overdrawn")
        return balance


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Broken(BaseModel):
    number: int

    @field_serializer("number")
    def write(self, number: int) -> int:
        raise RuntimeError(f"cannot write {number}")


class Colour(Enum):
    RED = "red"


class Opaque:
    pass


class Hostile:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        raise RuntimeError


def counting() -> Generator[int]:
    yield 1


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = {"a": value}
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


def order(**changes: Any) -> Order:
    return Order([Item("a", 1), Item("b", 2)], **changes)


def refusal(annotation: object, value: object) -> DataError:
    with pytest.raises(DataError) as caught:
        Codec(annotation, "result of task 'x'").encode(value)
    assert str(caught.value).startswith("result of task 'x' cannot be stored: ")
    return caught.value


NOT_JSON = [
    pytest.param(float, float("nan"), "$", "nan is not a number in JSON", id="NaN"),
    pytest.param(Item, Item("a", float("inf")), "$.price", "inf is not", id="Infinity"),
    pytest.param(
        Any, {"a": [1, {"b": float("-inf")}]}, "$.a[1].b", "-inf is not", id="-Infinity under Any"
    ),
    pytest.param(Point, Point(0, float("nan")), "$.y", "nan is not", id="NaN in a NamedTuple"),
    pytest.param(Decimal, Decimal("NaN"), "$", "should be a finite number", id="Decimal NaN"),
    pytest.param(Any, [{1: 2}], "$[0]", "the key int 1 is not a string", id="int key"),
    pytest.param(dict, {True: 1, "true": 2}, "$", "the key bool True is not", id="bool key"),
    pytest.param(dict[str, Any], {"a": {None: 1}}, "$.a", "the key None is not", id="None key"),
    pytest.param(Order, order(notes={(1, 2): 3}), "$.notes", "key tuple (1, 2) is", id="tuple key"),
    pytest.param(dict, {1: "a", "1": "b"}, "$", "the key int 1 is not", id="colliding keys"),
    pytest.param(
        dict[Colour | str, int], {Colour.RED: 1, "red": 2}, "$", "would be lost", id="Enum collides"
    ),
    pytest.param(str, "a\ud800", "$", "a lone surrogate at character 1", id="lone surrogate"),
    pytest.param(Item, Item("\udfff", 1), "$.id", "a lone surrogate", id="surrogate inside"),
    pytest.param(Any, {"a b": {"\ud800": 1}}, "$['a b']", "in a key, the text is", id="in a key"),
    pytest.param(set[str], {"\ud800"}, "$[*]", "a lone surrogate", id="surrogate in a set"),
    pytest.param(int, 10**5000, "$", "Exceeds the limit (4300 digits)", id="5,000 digits"),
    pytest.param(Any, [10**5000], "$[0]", "Exceeds the limit", id="5,000 digits under Any"),
    pytest.param(Any, cyclic(), "$[0].again", "the list contains itself", id="cycle"),
    pytest.param(Any, nested(201), "$" + ".a" * 200, "nested deeper than 200", id="depth 201"),
    pytest.param(Any, nested(10_000), "$" + ".a" * 200, "nested deeper than 200", id="10,000"),
    pytest.param(
        list[Any], [nested(200)], "$[0]" + ".a" * 199, "nested deeper than 200", id="in a list"
    ),
]


@pytest.mark.parametrize(("annotation", "value", "path", "reason"), NOT_JSON)
def test_what_json_cannot_hold_is_refused_with_its_path(
    annotation: object, value: object, path: str, reason: str
) -> None:
    error = refusal(annotation, value)
    assert error.path == path
    assert reason in str(error)


def test_two_hundred_levels_are_stored_and_read_also_as_an_argument() -> None:
    codec = Codec(Any, "result")
    assert codec.decode(codec.encode(nested(200))[0]) == nested(200)

    def take(value: Any) -> None: ...

    arguments = Arguments(take, skip=0, where="task 'take'")
    assert arguments.decode(arguments.encode((nested(199),), {})[0]) == ((nested(199),), {})
    with pytest.raises(DataError, match="nested deeper than 200") as caught:
        arguments.encode((nested(200),), {})
    assert caught.value.path == "$.value" + ".a" * 199


NOT_AS_ANNOTATED = [
    pytest.param(int, "1", "$", "str '1' would come back as int 1; annotate it as str", id="str"),
    pytest.param(int, 1.5, "$", "Input should be a valid integer", id="fraction"),
    pytest.param(int, None, "$", "Input should be a valid integer, not None", id="None"),
    pytest.param(str, 5, "$", "Input should be a valid string, not int 5", id="int for str"),
    pytest.param(float, 2**53 + 1, "$", "would come back as float 9007199254740992.0", id="2^53+1"),
    pytest.param(
        list[float], [10**30], "$[0]", "would come back as float 1e+30", id="large int for float"
    ),
    pytest.param(None, 0, "$", "Input should be null", id="something for None"),
    pytest.param(
        Order,
        Order([Item("a", 1), Item("b", "2")]),  # type: ignore[arg-type]
        "$.items[1].price",
        "would come back as float 2.0",
        id="str for float",
    ),
    pytest.param(
        Order,
        Order([Item("a", 1), {"id": "b", "price": 2.0}]),  # type: ignore[list-item]
        "$.items[1]",
        "would come back as tests.test_refusals.Item",
        id="dict for a dataclass",
    ),
    pytest.param(
        Order,
        Order([Item("a", socket)]),  # type: ignore[arg-type]
        "$.items[0].price",
        "a module has no stored form",
        id="module for float",
    ),
    pytest.param(
        int | Item, Item("a", "?"), "$.price", "valid number", id="in a union"  # type: ignore[arg-type]
    ),
    pytest.param(
        int | str, 1.5, "$", "valid integer, got a number with a fractional part", id="no choice"
    ),
    pytest.param(Order, Gift([]), "$", "Gift alone, or pass tests.test_refusals.Order", id="sub"),
    pytest.param(list[Order], [Gift([])], "$[0]", "would come back as", id="subclass inside"),
    pytest.param(Left | Right, Right(1), "$", "would come back as", id="ambiguous union"),
    pytest.param(str | bytes, b"x", "$", "bytes b'x' would come back as str", id="bytes|str"),
    pytest.param(list[int] | set[int], {1}, "$", "set {1} would come back as list", id="set|list"),
    pytest.param(str | datetime, datetime.now(UTC), "$", "would come back as str", id="time|str"),
    pytest.param(date, datetime(2026, 1, 2, tzinfo=UTC), "$", "would come back", id="no date"),
    pytest.param(UUID, str(UUID(int=1)), "$", "would come back as uuid.UUID", id="str for UUID"),
    pytest.param(Path, "/a", "$", "would come back as pathlib", id="str for Path"),
    pytest.param(tuple[int, str], (1,), "$[1]", "Field required", id="short tuple"),
    pytest.param(Literal["a"], "b", "$", "Input should be 'a', not str 'b'", id="Literal"),
    pytest.param(
        datetime,
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(seconds=3208))),
        "$",
        "would come back as datetime",
        id="zone with seconds",
    ),
    pytest.param(Patch, {"name": "a", "age": 1}, "$", "the key 'age' would be lost", id="key"),
    pytest.param(dict[Colour, int], {"red": 1}, "$", "the key 'red' would be lost", id="str key"),
    pytest.param(Restless, Restless(1), "$.number", "would come back as int 3", id="restless"),
    pytest.param(Growing, Growing([1]), "$.numbers", "2 items would come back as 3", id="growing"),
    pytest.param(set[int], 5, "$", "Input should be a valid array", id="int for a set"),
    pytest.param(Scaled, Scaled(2), "$.scale", "Field required", id="InitVar"),
    pytest.param(
        Account, Account(password=SecretStr("hidden")), "$.password", "would come back", id="secret"
    ),
    pytest.param(
        Account, Account.model_construct(balance=-1), "$.balance", "overdrawn", id="validator"
    ),
    pytest.param(Open, Open(at=date(2026, 1, 2)), "$.at", "would come back as str", id="extra"),  # type: ignore[call-arg]
    pytest.param(Broken, Broken(number=7), "$", "RuntimeError: cannot write 7", id="serializer"),
    pytest.param(int, Hostile(), "$", "a tests.test_refusals.Hostile has no stored", id="hostile"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "path", "reason"), NOT_AS_ANNOTATED)
def test_what_its_annotation_does_not_describe_is_refused_with_its_path(
    annotation: object, value: object, path: str, reason: str
) -> None:
    error = refusal(annotation, value)
    assert error.path == path
    assert reason in str(error)


UNDER_ANY = [
    pytest.param({"a": [Opaque()]}, "$.a[0]", "a tests.test_refusals.Opaque has no", id="object"),
    pytest.param({"a": Item("a", 1)}, "$.a", "annotate it as tests.test_refusals.Item", id="data"),
    pytest.param([Account()], "$[0]", "annotate it as tests.test_refusals.Account", id="model"),
    pytest.param([1, date(2026, 1, 2)], "$[1]", "annotate it as datetime.date alone", id="date"),
    pytest.param({1, 2}, "$", "annotate it as set alone, or pass list", id="set"),
    pytest.param(b"x", "$", "annotate it as bytes alone, or pass str", id="bytes"),
    pytest.param(Decimal(1), "$", "annotate it as decimal.Decimal alone", id="Decimal"),
    pytest.param([Colour.RED], "$[0]", "annotate it as tests.test_refusals.Colour", id="Enum"),
    pytest.param({"p": Point(1, 2)}, "$.p", "annotate it as tests.test_refusals.Point", id="tuple"),
    pytest.param(counting(), "$", "generator", id="generator"),
    pytest.param(range(3), "$", "a range has no stored form", id="range"),
    pytest.param({"k": Item}, "$.k", "a type has no stored form", id="class"),
    pytest.param(nested, "$", "a function has no stored form", id="function"),
    pytest.param([socket.SocketType], "$[0]", "a type has no stored form", id="socket"),
    pytest.param(Unshowable(1), "$", "tests.test_refusals.Unshowable would come", id="no repr"),
    pytest.param([Hostile()], "$[0]", "a tests.test_refusals.Hostile has", id="hostile"),
]


@pytest.mark.parametrize("annotation", [Any, object], ids=["Any", "object"])
@pytest.mark.parametrize(("value", "path", "reason"), UNDER_ANY)
def test_under_any_only_plain_json_is_stored(
    annotation: object, value: object, path: str, reason: str
) -> None:
    error = refusal(annotation, value)
    assert error.path == path
    assert reason in str(error)


def test_a_subclass_of_dict_that_equals_one_is_stored_as_one() -> None:
    assert Codec(Any, "result").encode(Counter("aab"))[1] == {"a": 2, "b": 1}


@pytest.mark.parametrize("annotation", [Any, dict[str, int]], ids=["Any", "typed"])
async def test_a_coroutine_that_was_not_awaited_is_called_that(annotation: object) -> None:
    forgotten = asyncio.sleep(0)
    error = refusal(annotation, {"a": forgotten})
    forgotten.close()
    assert error.path == "$.a"
    assert "a coroutine that was never awaited" in str(error)


def test_an_open_socket_is_refused() -> None:
    with socket.socket() as opened:
        error = refusal(Any, {"conn": opened})
    assert error.path == "$.conn"
    assert "a socket.socket has no stored form" in str(error)


def test_long_values_and_keys_are_shortened_in_messages() -> None:
    assert len(str(refusal(int, "x" * 100_000))) < 300
    assert len(str(refusal(Any, {"k" * 100_000: float("nan")}))) < 300


# Arguments


def charge(order: Order, amount: float = 1.0) -> None:
    """Take what is wrong at either place."""


@pytest.mark.parametrize(
    ("args", "path", "message"),
    [
        ((Order([Item("a", float("nan"))]),), "$.order.items[0].price", "parameter 'order' of"),
        ((order(notes={"a": Opaque()}),), "$.order.notes.a", "has no stored form"),
        ((order(), "12"), "$.amount", "parameter 'amount' of task 'charge' cannot be stored"),
        (("order",), "$.order", "Input should be an object"),
    ],
)
def test_the_path_of_an_argument_begins_with_its_parameter(
    args: tuple[Any, ...], path: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        Arguments(charge, skip=0, where="task 'charge'").encode(args, {})
    assert caught.value.path == path
    assert message in str(caught.value)
