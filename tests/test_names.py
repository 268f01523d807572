"""Names, versions and idempotency keys: what they may be, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from aiki.errors import DataError, DefinitionError
from aiki.run import Run
from aiki.task import task
from aiki.workflow import workflow

HERE = Path(__file__).name


def plain(number: int) -> int:
    return number


@workflow("stock").v("1.0.0")
async def stock_v1(run: Run) -> str:
    return run.id


BAD_NAMES = [
    pytest.param("", id="empty"),
    pytest.param(" ", id="white space"),
    pytest.param(" a", id="white space before"),
    pytest.param("a\u00a0", id="white space after"),
    pytest.param("a:b", id="colon"),
    pytest.param("a/b", id="slash"),
    pytest.param("{a", id="opening brace"),
    pytest.param("a}", id="closing brace"),
    pytest.param("a\nb", id="newline"),
    pytest.param("a\x00", id="NUL"),
    pytest.param("a\x7f", id="delete"),
    pytest.param("a\u2028b", id="line separator"),
    pytest.param("a\ud800", id="half a surrogate pair"),
    pytest.param("é" * 101, id="202 bytes"),
    pytest.param(b"a", id="bytes"),
    pytest.param(7, id="int"),
    pytest.param(["a"], id="list"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_wherever_a_name_is_given(name: Any) -> None:
    with pytest.raises(DefinitionError, match=f"^task .*{HERE}.*name"):
        task(name=name, exec=plain)
    with pytest.raises(DefinitionError, match=r"^workflow: .*name"):
        workflow(name)
    with pytest.raises(DefinitionError, match=r"^workflow stock 1\.0\.0 .*pool.*name"):
        stock_v1.with_options(pool=name)


def test_none_is_not_the_name_of_a_workflow() -> None:
    with pytest.raises(DefinitionError, match="a name is a str, not NoneType None"):
        workflow(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_name_has_at_most_200_bytes_once_it_is_normalised() -> None:
    assert workflow("x" * 200).name == "x" * 200
    assert workflow("e\u0301" * 100).name == "\u00e9" * 100
    with pytest.raises(DefinitionError, match="is 201 bytes long in UTF-8; at most 200"):
        workflow("x" * 201)


def test_a_name_may_hold_what_people_write() -> None:
    for name in ["Order Processing", "bestellung-größe", "注文", "a.b_c@2", "👩‍🚀"]:
        assert workflow(name).name == name


@pytest.mark.parametrize(
    "version",
    [
        "", "1", "1.0", "v1", "v1.0.0", "1.0.0 ", " 1.0.0", "1.0.0\n", "latest", "1.0.0-rc1",
        "1.0.0.0", "01.0.0", "1.-1.0", "1.0.x", "\uff11.0.0", "1.0.1234567890",
        1, 1.0, None, b"1.0.0",
    ],
    ids=repr,
)  # fmt: skip
def test_a_version_is_three_numbers(version: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^workflow orders: a version is MAJOR.MINOR.PATCH"):
        workflow("orders").v(version)


def test_a_definition_without_a_name_has_its_functions_in_kebab_case() -> None:
    def fetchURLAgain() -> None: ...  # noqa: N802
    def _private__name_2() -> None: ...

    assert task(plain).name == "plain"
    assert stock_v1.name == "stock"
    assert task(fetchURLAgain).name == "fetch-url-again"
    assert task(_private__name_2).name == "private-name-2"


def test_what_gives_no_name_needs_one() -> None:
    def _() -> None: ...

    for fn in (lambda: None, _):
        with pytest.raises(DefinitionError, match=f"{HERE}.* gives no name; add name="):
            task(fn)
    assert task(name="nothing", exec=lambda: None).name == "nothing"


@pytest.mark.parametrize(
    "key",
    ["", " ", "a ", "\ta", "a\nb", "a\x00b", "a\u2029b", "\ud800", "é" * 129, b"order", 7, True],
)
def test_a_bad_idempotency_key_is_refused(key: Any) -> None:
    with pytest.raises(DataError, match="idempotency key"):
        stock_v1.with_options(idempotency_key=key)


def test_an_idempotency_key_is_kept_as_it_is() -> None:
    for key in ["x" * 256, "order:{1}/2", "e\u0301"]:
        assert stock_v1.with_options(idempotency_key=key).options.idempotency_key == key
