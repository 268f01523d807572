"""Storing an exception cannot fail, whatever the exception does, and stays bounded."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.errors import DataError, Failure, RunFailed, TaskFailed
from aiki.failures import failure_from_exception, failure_from_json, failure_to_json

STORED_AT_MOST = 9 * (8 + 32 + 1) * 1024


def caught(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:  # noqa: BLE001  (whatever it is)
        return error
    raise AssertionError("nothing was raised")


def raising(error: BaseException) -> BaseException:
    def raise_it() -> None:
        raise error

    return caught(raise_it)


def causes(failure: Failure | None) -> Iterator[Failure]:
    while failure is not None:
        yield failure
        failure = failure.cause


class OutOfStock(Exception):
    pass


def raising_disk() -> None:
    raise OSError("disk")


def test_a_failure_holds_type_message_and_traceback() -> None:
    failure = failure_from_exception(raising(ValueError("no such order")))
    assert failure.type == "ValueError"
    assert failure.message == "no such order"
    assert failure.traceback.startswith("Traceback (most recent call last):\n")
    assert "in raise_it\n    raise error\n" in failure.traceback
    assert failure.traceback.endswith("\nValueError: no such order\n")
    assert failure.cause is None


def test_a_type_that_is_not_builtin_has_its_full_name() -> None:
    assert failure_from_exception(OutOfStock()).type == "tests.test_failures.OutOfStock"


def test_an_exception_that_was_never_raised_has_no_traceback() -> None:
    assert failure_from_exception(KeyError("a")) == Failure("KeyError", "'a'", "", None)


def test_explicit_and_implicit_causes_are_kept() -> None:
    def fail() -> None:
        try:
            explicit()
        except OutOfStock:
            raise RuntimeError("late")  # noqa: B904

    def explicit() -> None:
        try:
            raising_disk()
        except OSError as error:
            raise OutOfStock("shoe") from error

    found = list(causes(failure_from_exception(caught(fail))))
    assert [failure.message for failure in found] == ["late", "shoe", "disk"]


def test_a_suppressed_context_is_left_out() -> None:
    def fail() -> None:
        try:
            raising_disk()
        except OSError:
            raise OutOfStock("shoe") from None

    assert failure_from_exception(caught(fail)).cause is None


def test_notes_are_part_of_the_traceback() -> None:
    error = raising(ValueError("no"))
    error.add_note("while packing")
    assert failure_from_exception(error).traceback.endswith("ValueError: no\nwhile packing\n")


async def test_the_members_of_a_group_are_listed_and_the_first_is_its_cause() -> None:
    async def fail(message: str) -> None:
        raise OutOfStock(message)

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail("shoe"))
            group.create_task(fail("hat"))

    with pytest.raises(BaseExceptionGroup) as raised:
        await together()
    failure = failure_from_exception(raised.value)
    assert failure.message == "unhandled errors in a TaskGroup (2 sub-exceptions)"
    assert "\n  + tests.test_failures.OutOfStock: shoe\n" in failure.traceback
    assert "\n  + tests.test_failures.OutOfStock: hat\n" in failure.traceback
    assert failure.cause is not None
    assert failure.cause.message == "shoe"
    assert "in fail\n" in failure.cause.traceback


def test_a_large_group_is_shortened() -> None:
    group = raising(BaseExceptionGroup("all", [KeyboardInterrupt(n) for n in range(1000)]))
    assert failure_from_exception(group).traceback.endswith("  + 980 more\n")


@pytest.mark.parametrize(
    "error",
    [
        TaskFailed("task 't' failed", task="t", attempts=1, failure=Failure("OSError", "disk", "")),
        RunFailed("run r failed", run_id="r", failure=Failure("OSError", "disk", "")),
    ],
    ids=["task", "run"],
)
def test_the_stored_failure_of_a_task_or_a_run_stays_the_cause(error: Exception) -> None:
    failure = failure_from_exception(raising(error))
    assert failure.cause == Failure("OSError", "disk", "")


# Whatever the exception does


def fails(*_: object) -> Any:
    raise ValueError("even this")


def exits(*_: object) -> Any:
    sys.exit(3)


def repeats(error: object) -> str:
    return str(error)


def returns(value: object) -> Callable[[object], object]:
    return lambda _: value


def hostile(base: type[BaseException] = Exception, /, **attributes: object) -> BaseException:
    """Make an exception that no type checker would let anybody write."""
    kind: Callable[..., BaseException] = type("Hostile", (base,), attributes)
    return kind("text", [ValueError()]) if base is ExceptionGroup else kind("text")


# A text that fails as soon as one looks at it.
SLY = type("Sly", (str,), dict.fromkeys(("__getitem__", "encode", "__len__", "__format__"), fails))


class Demanding(Exception):
    def __init__(self, one: int, *, other: int) -> None:
        super().__init__(one, other)


class Reserved(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__qualname__", "__module__", "__name__"}:
            raise ValueError
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=Reserved):
    pass


BROKEN = "(the message of this tests.test_failures.Hostile is broken)"


def endless() -> int:
    return endless() + 1


def in_a_circle() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def caused_by_itself() -> None:
    error = ValueError("own")
    error.__cause__ = error
    raise error


def caused_a_thousand_times() -> None:
    error = ValueError("first")
    for number in range(1000):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later
    raise error


def deep_group() -> None:
    group: Exception = ValueError("inner")
    for _ in range(1000):
        group = ExceptionGroup[Exception]("group", [group])
    raise group


def with_stored_causes() -> None:
    failure: Failure | None = None
    for _ in range(100):
        failure = Failure("ValueError" * 100, "m" * 100_000, "t" * 100_000, failure)
    assert failure is not None
    raise TaskFailed("failed", task="t", attempts=1, failure=failure)


HOSTILE = [
    pytest.param(raising(hostile(__str__=fails, __repr__=fails)), BROKEN, id="__str__ raises"),
    pytest.param(raising(hostile(__str__=exits)), BROKEN, id="__str__ exits"),
    pytest.param(raising(hostile(__str__=returns(5))), BROKEN, id="__str__ gives an int"),
    pytest.param(raising(hostile(__str__=repeats)), BROKEN, id="__str__ never ends"),
    pytest.param(raising(hostile(__str__=returns(SLY("sly")))), "sly", id="sly text"),
    pytest.param(raising(Demanding(1, other=2)), "(1, 2)", id="own arguments"),
    *(
        pytest.param(raising(hostile(**{name: property(fails)})), "text", id=f"{name} raises")
        for name in ("__cause__", "__context__", "__traceback__", "__class__", "__notes__")
    ),
    *(
        pytest.param(raising(hostile(**{name: value})), "text", id=f"{name} is {value}")
        for name in ("__cause__", "__traceback__", "__notes__", "__module__")
        for value in (5, "x", [BaseException, 5])
    ),
    pytest.param(raising(hostile(__getattribute__=fails)), "text", id="all attributes raise"),
    pytest.param(raising(hostile(__notes__=[hostile(__str__=fails)])), "text", id="a bad note"),
    pytest.param(raising(hostile(__reduce_ex__=fails)), "text", id="unpicklable"),
    pytest.param(hostile(ExceptionGroup, exceptions=property(fails)), "text (1 sub", id="group"),
    pytest.param(hostile(ExceptionGroup, exceptions=()), "text (1 sub", id="empty group"),
    pytest.param(raising(Nameless("x")), "x", id="its class raises"),
    pytest.param(caught(endless), "maximum recursion depth exceeded", id="RecursionError"),
    pytest.param(caught(in_a_circle), "one", id="causes in a circle"),
    pytest.param(caught(caused_by_itself), "own", id="its own cause"),
    pytest.param(caught(caused_a_thousand_times), "999", id="a thousand causes"),
    pytest.param(caught(deep_group), "group (1 sub-exception)", id="a thousand groups"),
    pytest.param(caught(with_stored_causes), "failed", id="a hundred stored causes"),
    pytest.param(raising(ValueError("x" * 10**7)), "xxx", id="10 MB"),
    pytest.param(raising(ValueError("é" * 10_000)), "é", id="long and not ASCII"),
    pytest.param(raising(ValueError("\ud800 a\0b")), "\\ud800 a\0b", id="surrogate and NUL"),
    pytest.param(raising(SystemExit(3)), "3", id="SystemExit"),
    pytest.param(raising(KeyboardInterrupt()), "", id="KeyboardInterrupt"),
    pytest.param(raising(asyncio.CancelledError("stop")), "stop", id="CancelledError"),
    pytest.param(type("X" * 10_000, (Exception,), {})("long"), "long", id="long name"),
]


@pytest.mark.parametrize(("error", "message"), HOSTILE)
def test_any_exception_can_be_stored_and_read(error: BaseException, message: str) -> None:
    failure = failure_from_exception(error)
    assert failure.message.startswith(message)
    data = failure_to_json(failure)
    assert failure_from_json(data) == failure
    assert len(data) <= STORED_AT_MOST
    found = list(causes(failure))
    assert len(found) <= 9
    for part in found:
        assert len(part.type.encode()) <= 200
        assert len(part.message.encode()) <= 8 * 1024
        assert len(part.traceback.encode()) <= 32 * 1024


def test_what_is_cut_says_so() -> None:
    assert failure_from_exception(ValueError("x" * 10_000)).message.endswith("x...")


def test_the_place_where_it_was_raised_survives_a_deep_stack() -> None:
    def descend(depth: int) -> None:
        if depth == 0:
            raise ValueError("bottom")
        descend(depth - 1)

    failure = failure_from_exception(caught(lambda: descend(500)))
    assert 'raise ValueError("bottom")' in failure.traceback


def test_an_exception_is_described_also_on_an_exhausted_stack() -> None:
    def descend() -> Failure:
        try:
            return descend()
        except RecursionError as error:
            return failure_from_exception(error)

    assert descend().type in {"RecursionError", "Exception"}


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.builds(Failure, texts, texts, texts, st.none() | st.builds(Failure, texts, texts, texts)))
def test_a_failure_comes_back_as_it_was_stored(failure: Failure) -> None:
    assert failure_from_json(failure_to_json(failure)) == failure


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'{"type":"E"}',
        b'{"type":1,"message":"","traceback":"","cause":null}',
        b'{"type":"E","message":"","traceback":"","cause":5}',
        b"[" * 100_000,
    ],
    ids=lambda data: data[:60].decode(errors="replace"),
)
def test_what_is_no_stored_failure_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="a stored failure cannot be read"):
        failure_from_json(data)


def test_a_stored_failure_is_plain_json() -> None:
    stored = json.loads(failure_to_json(Failure("E", "m", "t", Failure("F", "n", "u"))))
    assert stored == {
        "type": "E",
        "message": "m",
        "traceback": "t",
        "cause": {"type": "F", "message": "n", "traceback": "u", "cause": None},
    }
