"""A function's arguments are stored by name, as the function will see them."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest
from pydantic import BaseModel

from aiki.codec import Arguments, Codec
from aiki.errors import DataError, LimitExceeded


@dataclass(frozen=True)
class Item:
    id: str
    quantity: int


@dataclass(frozen=True)
class Order:
    items: list[Item]
    total: float
    email: str


def ship(
    order: Order, to: str, /, weight: float = 1, *, tags: frozenset[str] = frozenset()
) -> Item:
    return Item(order.email + to, round(weight) + len(tags))


ORDER = Order([Item("a", 1)], 9.5, "a@b")
SHIPPED = (
    b'{"order":{"email":"a@b","items":[{"id":"a","quantity":1}],"total":9.5},'
    b'"tags":["x","y"],"to":"me","weight":2.0}'
)


def test_arguments_are_stored_by_name_with_the_defaults_filled_in() -> None:
    arguments = Arguments(ship, skip=0, where="task 'ship'")
    data, args, kwargs = arguments.encode((ORDER, "me", 2), {"tags": {"y", "x"}})
    assert data == SHIPPED
    assert (args, kwargs) == ((ORDER, "me", 2.0), {"tags": frozenset("xy")})
    assert arguments.decode(data) == (args, kwargs)
    assert ship(*args, **kwargs) == Item("a@bme", 4)
    data, args, kwargs = arguments.encode((ORDER, "me"), {})
    assert json.loads(data)["weight"] == 1
    assert (args, kwargs) == ((ORDER, "me", 1.0), {"tags": frozenset()})


def test_the_same_arguments_have_the_same_bytes_however_they_are_passed() -> None:
    def move(a: int, b: int = 2) -> None: ...

    arguments = Arguments(move, skip=0, where="task 'move'")
    ways: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((1, 2), {}),
        ((1,), {}),
        ((1,), {"b": 2}),
        ((), {"b": 2, "a": 1}),
        ((), {"a": 1}),
    ]
    assert {arguments.encode(args, kwargs)[0] for args, kwargs in ways} == {b'{"a":1,"b":2}'}


def test_the_first_parameters_can_be_left_out() -> None:
    async def handler(run: Any, number: int) -> None:
        await run.sleep(number)

    arguments = Arguments(handler, skip=1, where="workflow 'w'")
    assert arguments.encode((3,), {}) == (b'{"number":3}', (3,), {})
    assert arguments.decode(b'{"number":3}') == ((3,), {})


def test_no_arguments_are_an_empty_object() -> None:
    def nothing() -> None: ...

    arguments = Arguments(nothing, skip=0, where="task")
    assert arguments.encode((), {}) == (b"{}", (), {})
    assert arguments.decode(b"{}") == ((), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'order'"),
        ((ORDER, "me", 1, 2), {}, "too many positional arguments"),
        ((ORDER, "me"), {"wieght": 1}, "got an unexpected keyword argument 'wieght'"),
        ((ORDER, "me", 1), {"weight": 1}, "multiple values for argument 'weight'"),
        ((ORDER,), {"to": "me"}, "positional"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_are_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=r"^task 'ship': .*it takes \(order: ") as caught:
        Arguments(ship, skip=0, where="task 'ship'").encode(args, kwargs)
    assert message in str(caught.value)


def test_a_parameter_that_was_added_since_gets_its_default() -> None:
    def before(a: int) -> None: ...
    def after(a: int, b: str = "b", *, c: float | None = None) -> None: ...

    data, _, _ = Arguments(before, skip=0, where="task").encode((1,), {})
    assert Arguments(after, skip=0, where="task").decode(data) == ((1, "b"), {"c": None})


def test_what_was_encoded_is_a_copy_of_mutable_arguments_and_defaults() -> None:
    shared = [1]

    def add(to: list[int], also: list[int] = shared) -> None: ...

    mine = [5]
    _, (to, also), _ = Arguments(add, skip=0, where="task").encode((mine,), {})
    assert (to, also) == ([5], [1])
    assert to is not mine
    assert also is not shared


def test_the_limit_is_given_by_the_caller_and_holds_for_all_arguments_together() -> None:
    def join(first: str, second: str) -> None: ...

    arguments = Arguments(join, skip=0, where="task 'join'")
    assert arguments.encode(("a", "b"), {}, limit=26)[0] == b'{"first":"a","second":"b"}'
    with pytest.raises(LimitExceeded, match=r"input of task 'join' .* limit of 25"):
        arguments.encode(("a", "b"), {}, limit=25)


# Definitions that are carried to another process

READ = """
import pickle, sys
codec, arguments = pickle.load(sys.stdin.buffer)
order = codec.decode(b'{"items":[{"id":"a"}],"note":"n"}')
print(type(order).__name__, order.items[0].quantity, order.note)
print(arguments.encode((order,), {"urgent": True})[0].decode())
"""


def test_a_codec_travels_by_pickle_also_with_classes_that_cannot_be_imported() -> None:
    class Note(BaseModel):
        text: str

    @dataclass
    class LocalItem:
        id: str
        quantity: int = 1

    @dataclass
    class LocalOrder:
        items: list[LocalItem]
        note: str | None = None

    def handle(order: LocalOrder, notes: list[Note] | None = None, *, urgent: bool) -> LocalOrder:
        assert urgent or not notes
        return order

    codec = Codec.of_result(handle, "task 'handle'")
    arguments = Arguments(handle, skip=0, where="task 'handle'")
    printed = subprocess.run(
        [sys.executable, "-c", READ],
        input=cloudpickle.dumps((codec, arguments)),
        capture_output=True,
        check=True,
    ).stdout.decode()
    assert printed.splitlines() == [
        "LocalOrder 1 n",
        '{"notes":null,"order":{"items":[{"id":"a","quantity":1}],"note":"n"},"urgent":true}',
    ]


def test_a_codec_of_importable_classes_travels_by_plain_pickle() -> None:
    carried: Codec = pickle.loads(pickle.dumps(Codec(Order, "result")))
    assert carried.encode(ORDER)[1] == ORDER
