"""What a worker serves: duplicates, redefinitions, and definitions that travel as bytes."""

import importlib
import pickle
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiki.definition import identity
from aiki.errors import DefinitionError
from aiki.registry import Registry
from aiki.run import Run
from aiki.task import task
from aiki.workflow import workflow

HERE = Path(__file__).name

LOCK = threading.Lock()


@task
def double(number: int) -> int:
    with LOCK:
        return 2 * number


twice = double.with_options(once=True)

counting = workflow("counting")


@counting.v("1.0.0")
async def counting_v1(run: Run, number: int) -> int:
    return await double.start(run, number)


@counting.v("2.0.0")
async def counting_v2(run: Run, number: int) -> int:
    return await twice.start(run, number)


async def another(_: Run, number: int) -> int:
    return number


SHOP = """
from aiki.run import Run
from aiki.task import task
from aiki.workflow import workflow

rate = 2

@task
def price(amount: int) -> int:
    return rate * amount

shop = workflow("shop")

@shop.v("1.0.0")
async def shop_v1(run: Run, amount: int) -> int:
    if amount < 0:
        await shop_v1(run, -amount)  # it knows itself
    return await price.start(run, amount)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make a module that can be imported and reloaded."""
    (tmp_path / "aiki_test_shop.py").write_text(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "aiki_test_shop", raising=False)
    module = importlib.import_module("aiki_test_shop")
    monkeypatch.setitem(sys.modules, "aiki_test_shop", module)
    return module


def test_a_registry_finds_versions_by_name_and_version() -> None:
    registry = Registry()
    registry.add(counting)
    other = workflow("other").v("1.0.0", exec=another)
    registry.add(other)
    assert registry.versions() == [counting_v1, counting_v2, other]
    assert registry.find("counting", "2.0.0") is counting_v2
    assert registry.find("counting", "3.0.0") is None
    assert registry.find("other", "1.0.0") is other


def test_versions_defined_later_are_served_once_they_are_added() -> None:
    growing = workflow("growing")
    growing.v("1.0.0", exec=another)
    registry = Registry()
    registry.add(growing)
    growing.v("2.0.0", exec=another)
    assert registry.find("growing", "2.0.0") is None
    registry.add(growing)
    assert registry.find("growing", "2.0.0") is not None


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (counting_v1.with_options(idempotency_key="a"), "options about one run"),
        (double, "takes workflows and their versions, not Task"),
        (another, "takes workflows and their versions, not function"),
        (None, "takes workflows and their versions, not NoneType"),
        (workflow("empty"), "<workflow empty: no versions>; define one"),
    ],
)
def test_a_registry_takes_nothing_else(definition: Any, reason: str) -> None:
    registry = Registry()
    with pytest.raises(DefinitionError, match=reason):
        registry.add(definition)
    assert registry.versions() == []


# Duplicates and redefinitions


def places(error: pytest.ExceptionInfo[DefinitionError]) -> list[str]:
    return re.findall(r"[^/]+\.py:\d+", str(error.value))


def test_two_handlers_of_one_version_are_refused_with_both_places() -> None:
    doubled = workflow("doubled")
    first = doubled.v("1.0.0", exec=another)
    with pytest.raises(DefinitionError, match=r"doubled 1\.0\.0 is defined twice") as caught:

        @doubled.v("1.0.0")
        async def second(run: Run) -> None: ...

    assert len(places(caught)) == 2
    assert doubled.versions == [first]


def test_a_second_workflow_of_one_name_and_version_is_refused_and_nothing_is_added() -> None:
    registry = Registry()
    registry.add(counting_v2)
    rival = workflow("counting")
    rival.v("1.0.0", exec=another)
    rival.v("2.0.0", exec=another)
    with pytest.raises(DefinitionError, match=r"counting 2\.0\.0 is defined twice") as caught:
        registry.add(rival)
    assert len(places(caught)) == 2
    assert registry.versions() == [counting_v2]


def test_a_copy_with_other_options_replaces_the_version() -> None:
    registry = Registry()
    registry.add(counting)
    elsewhere = counting_v1.with_options(pool="gpu")
    registry.add(elsewhere)
    assert registry.versions() == [elsewhere, counting_v2]


def test_a_reload_redefines(shop: ModuleType) -> None:
    registry = Registry()
    registry.add(shop.shop)
    before = shop.shop_v1
    importlib.reload(shop)
    registry.add(shop.shop)
    assert registry.versions() == [shop.shop_v1]
    assert shop.shop_v1 is not before


def test_a_cell_that_is_run_again_redefines_its_version(shop: ModuleType) -> None:
    again = SHOP.partition('shop = workflow("shop")')[2]
    exec(compile(again, "<cell>", "exec"), vars(shop))
    assert shop.shop.versions == [shop.shop_v1]


def test_the_main_module_imported_again_by_a_child_is_the_same(shop: ModuleType) -> None:
    path = str(shop.__file__)
    registry = Registry()
    for name in ("__main__", "__mp_main__"):
        registry.add(runpy.run_path(path, run_name=name)["shop"])
    assert [version.identity for version in registry.versions()] == [("__main__", "shop_v1")]


def test_lambdas_are_told_apart_by_their_line() -> None:
    first: Any = lambda: 1  # noqa: E731
    second: Any = lambda: 2  # noqa: E731
    assert identity(first)[0] == __name__
    assert identity(first)[1] != identity(second)[1]


# Definitions that travel


def test_what_can_be_imported_travels_as_a_reference() -> None:
    registry = Registry()
    registry.add(counting)
    arrived: Registry = pickle.loads(pickle.dumps(registry))
    assert [version.handler for version in arrived.versions()] == [
        counting_v1.handler,
        counting_v2.handler,
    ]
    copy = pickle.loads(pickle.dumps(twice))
    assert copy(2) == 4
    assert (copy._spec.fn, copy._spec.once) == (double._spec.fn, True)


MAIN = (
    SHOP
    + """
import sys
from dataclasses import dataclass
import cloudpickle
from aiki.registry import Registry

@dataclass(frozen=True)
class Parcel:
    weight: int
    inside: "list[Parcel]"

def closure(factor: int):
    @task(name="weigh")
    def weigh(parcel: Parcel) -> int:
        return factor * (parcel.weight + sum(weigh(inner) for inner in parcel.inside))
    return weigh

weighing = closure(3)

@shop.v("2.0.0")
async def shop_v2(run: Run, parcel: Parcel) -> int:
    return await weighing.start(run, parcel) if run else weighing(parcel)

registry = Registry()
registry.add(shop)
sys.stdout.buffer.write(cloudpickle.dumps(registry))
"""
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write a script whose definitions nobody else can import."""
    path = tmp_path / "script.py"
    path.write_text(MAIN)
    return path


@pytest.fixture
def sent(script: Path) -> bytes:
    """Run the script and take the registry that it pickled."""
    return subprocess.run([sys.executable, script], capture_output=True, check=True).stdout


async def test_what_cannot_be_imported_travels_by_value(script: Path, sent: bytes) -> None:
    registry: Registry = pickle.loads(sent)
    first, second = registry.versions()
    assert (first.identity, second.identity) == (("__main__", "shop_v1"), ("__main__", "shop_v2"))
    assert second.source.startswith(f"{script}:")

    stored = b'{"parcel":{"inside":[{"inside":[],"weight":2}],"weight":1}}'
    args, _ = second.arguments.decode(stored)
    nobody: Any = None
    assert await second(nobody, *args) == 3 * (1 + 3 * 2)
    assert second.bind(*args).payload == stored

    # Sent twice, it is a redefinition, not a second one.
    registry.add(pickle.loads(sent).versions()[0])
    assert len(registry.versions()) == 2
