"""Annotations without a stored form are refused where they stand, others are resolved."""

import functools
import socket
import typing
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, make_dataclass
from typing import Any, Never, TypeVar, cast
from uuid import UUID

import pytest
from pydantic import BaseModel

from aiki.codec import Arguments, Codec
from aiki.errors import DefinitionError

T = TypeVar("T")


@dataclass
class Item:
    id: str


@dataclass
class Job:
    name: str
    callbacks: list[Callable[[], None]]


class Ledger(BaseModel):
    # Names that schemas use for themselves.
    default: bytes
    metadata: dict[int, str] = {}
    schema_: "list[Ledger]" = []


Unfinished = make_dataclass("Unfinished", [("other", "Missing")])


UNUSABLE = [
    pytest.param(socket.socket, "<class 'socket.socket'> has no stored form", id="any class"),
    pytest.param(list[socket.socket], "has no stored form; use a", id="any class inside"),
    pytest.param(Callable[[], int], "a function cannot be stored", id="Callable"),
    pytest.param(Callable[[], int] | None, "a function cannot be stored", id="or None"),
    pytest.param(type[int], "a class cannot be stored", id="class"),
    pytest.param(type, "cannot be read back from JSON", id="type"),
    pytest.param(Hashable, "cannot be read back from JSON", id="Hashable"),
    pytest.param(Iterable[int], "annotate it as list", id="Iterable"),
    pytest.param(Iterator[int], "Iterator[int] has no stored form", id="Iterator"),
    pytest.param(Generator[int, None, None], "annotate it as list", id="Generator"),
    pytest.param(dict[int, str], "keys are strings in JSON", id="int keys"),
    pytest.param(dict[UUID, str], "keys are strings in JSON", id="UUID keys"),
    pytest.param(dict[str | int, str], "keys are strings in JSON", id="some int keys"),
    pytest.param(dict[str, dict[bool, str]], "keys are strings in JSON", id="inner keys"),
    pytest.param(Job, "a function cannot be stored (at .callbacks[])", id="field"),
    pytest.param(list[Ledger], "keys are strings in JSON; use dict[str, ...]", id="model"),
    pytest.param(Unfinished, "Missing", id="name in a field"),
    pytest.param("Nowhere", "Nowhere", id="text"),
    pytest.param(3, "not usable", id="no type"),
]


@pytest.mark.parametrize(("annotation", "reason"), UNUSABLE)
def test_an_annotation_without_a_stored_form_is_refused(annotation: object, reason: str) -> None:
    with pytest.raises(DefinitionError, match=r"^result of task 'x': .* is not ") as caught:
        Codec(annotation, "result of task 'x'")
    assert reason in str(caught.value)


def function(parameters: str, **annotations: object) -> Callable[..., Any]:
    """Define what a type checker would not let through."""
    fn: Callable[..., Any] = eval(f"lambda {parameters}: None")
    fn.__annotations__ = annotations
    return fn


@pytest.mark.parametrize(
    ("fn", "skip", "message"),
    [
        (function("a, b", a=int), 0, "task 'x': parameter 'b' has no annotation"),
        (
            function("a, b", a=int, b=socket.socket),
            0,
            "parameter 'b' of task 'x': socket.socket is not usable here",
        ),
        (function("a", a=3), 0, "parameter 'a' of task 'x': 3 is not usable here"),
        (function("*many", many=int), 0, "task 'x': *many: int has no name to be stored under"),
        (function("*many", many=int), 1, "task 'x': *many: int has no name to be stored under"),
        (function("a, **more", a=int), 0, "task 'x': **more has no name to be stored under"),
        (
            function("a", a="Absent"),
            0,
            "task 'x': parameter 'a': its annotation 'Absent' cannot be resolved: name 'Absent'",
        ),
        (function("a", a="what?"), 0, "parameter 'a': its annotation 'what?' cannot be resolved"),
        (
            function("a", a=int, **{"return": "Absent"}),
            0,
            "task 'x': its result: its annotation 'Absent' cannot be resolved",
        ),
        (function("a=None", a=int), 0, "the default of parameter 'a' of task 'x' cannot be stored"),
        (function("a=print", a=Any), 0, "a builtin_function_or_method has no stored form"),
        (function(""), 1, "task 'x': its first parameter is missing"),
        (function("*, run"), 1, "its first parameter is missing"),
        (dict.fromkeys, 0, "task 'x'"),
        (cast("Any", 3), 0, "task 'x': its signature cannot be read: 3 is not a callable object"),
    ],
)
def test_a_function_whose_arguments_cannot_be_stored_is_refused(
    fn: Callable[..., Any], skip: int, message: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        Arguments(fn, skip=skip, where="task 'x'")
    assert message in str(caught.value)


def test_what_is_skipped_needs_no_annotation() -> None:
    arguments = Arguments(function("run, item", item=Item), skip=1, where="task")
    assert arguments.encode((Item("a"),), {})[1] == (Item("a"),)


def quoted(items: "list[Item]", other: list["Item"], maybe: "Item | None" = None) -> "Item":
    return maybe or (items + other)[0]


def test_annotations_given_as_text_are_resolved_by_the_names_of_the_function() -> None:
    arguments = Arguments(quoted, skip=0, where="task")
    assert arguments.encode(([Item("a")], [Item("b")]), {})[1] == ([Item("a")], [Item("b")], None)
    assert Codec.of_result(quoted, "task").encode(Item("a"))[1] == Item("a")


def test_names_of_an_enclosing_function_are_seen_where_the_function_uses_them() -> None:
    @dataclass
    class Local:
        number: int

    def handle(value: "Local") -> int:
        return Local(value.number).number

    _, (value,), _ = Arguments(handle, skip=0, where="task").encode((Local(3),), {})
    assert value == Local(3)


def test_wrapped_and_partial_functions_are_read_as_what_they_are_called_with() -> None:
    @functools.wraps(quoted)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return quoted(*args, **kwargs)

    bound = functools.partial(quoted, [Item("a")], maybe=None)
    assert Arguments(wrapped, skip=2, where="task").decode(b"{}") == ((None,), {})
    data, args, kwargs = Arguments(bound, skip=0, where="task").encode(([Item("b")],), {})
    assert data == b'{"maybe":null,"other":[{"id":"b"}]}'
    assert bound(*args, **kwargs) == Item("a")


def test_methods_are_read_without_the_object_they_are_bound_to() -> None:
    class Shop:
        def sell(self, item: Item) -> None: ...

    assert Arguments(Shop().sell, skip=0, where="task").decode(b'{"item":{"id":"a"}}') == (
        (Item("a"),),
        {},
    )


@pytest.mark.parametrize("annotation", [Never, typing.NoReturn], ids=["Never", "NoReturn"])
def test_a_function_that_never_returns_has_a_usable_result(annotation: object) -> None:
    assert Codec(annotation, "result").encode(None) == (b"null", None)


def test_a_type_variable_stands_for_plain_json() -> None:
    def first(items: list[T]) -> T:
        return items[0]

    assert Codec.of_result(first, "task").encode({"a": 1})[1] == {"a": 1}


def test_the_class_of_a_user_keeps_its_own_form_elsewhere() -> None:
    class Photo(BaseModel):
        data: bytes

    before = Photo.model_validate({"data": "eA=="}).data
    Codec(Photo, "result")
    assert Photo.model_validate({"data": "eA=="}).data == before == b"eA=="
