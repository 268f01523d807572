"""Stored data that is not what its annotation says is refused, with the place and the reason."""

from dataclasses import dataclass
from typing import Any

import pytest

from aiki.codec import Arguments, Codec
from aiki.errors import DataError


@dataclass
class Item:
    id: str
    price: float


@dataclass
class Order:
    items: list[Item]


def charge(order: Order, amount: float = 1.0) -> None:
    """Take what is wrong at either place."""


@pytest.mark.parametrize(
    ("annotation", "data", "path", "reason"),
    [
        (Order, b'{"items":[{"id":"a","price":"?"}]}', "$.items[0].price", "a valid number"),
        (Order, b'{"items":[{"id":"a"}]}', "$.items[0].price", "Field required"),
        (Order, b"[]", "$", "Input should be an object"),
        (Order, b'{"items":', "$", "Invalid JSON"),
        (Any, b"", "$", "Invalid JSON"),
        (str, b'"\xff"', "$", "Invalid JSON"),
        (str, b'"\\ud800"', "$", "Invalid JSON"),
        (float, b"NaN", "$", "finite number"),
        (Any, b"[" * 100_000, "$", "recursion limit"),
        (
            dict[str, Item],
            b'{"a b":{"id":1,"price":1}}',
            "$['a b'].id",
            "a valid string, not int 1",
        ),
        (list[int | str], b"[1,2,null]", "$[2]", "a valid integer"),
    ],
)
def test_stored_data_that_does_not_decode_is_refused_with_its_path(
    annotation: object, data: bytes, path: str, reason: str
) -> None:
    with pytest.raises(DataError, match=r"^input of workflow 'w' cannot be read: ") as caught:
        Codec(annotation, "input of workflow 'w'").decode(data)
    assert caught.value.path == path
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("data", "path", "reason"),
    [
        (b"{}", "$.order", "Field required"),
        (b'{"order":{"items":[]},"amuont":2}', "$.amuont", "Extra inputs are not permitted"),
        (b'{"order":{"items":[{"id":"a","price":[]}]}}', "$.order.items[0].price", "valid number"),
        (b"[]", "$", "should be an object"),
    ],
)
def test_stored_arguments_that_do_not_decode_are_refused_with_their_path(
    data: bytes, path: str, reason: str
) -> None:
    with pytest.raises(DataError, match=r"^input of task 'charge' cannot be read: ") as caught:
        Arguments(charge, skip=0, where="task 'charge'").decode(data)
    assert caught.value.path == path
    assert reason in str(caught.value)
