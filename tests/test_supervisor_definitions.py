"""How definitions reach a worker: by name, by reference, by value, or with a refusal."""

import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiki import DefinitionError, Registry, Run, Workflow, WorkflowVersion, task, workflow
from aiki.supervisor.definitions import Reference, Shipment, pack, unpack

Write = Callable[[str, str], None]

SHOP = """
    from aiki import Registry, Run, task, workflow

    @task
    async def pay(amount: int) -> int:
        return amount

    shop = workflow("shop")

    @shop.v("1.0.0")
    async def shop_v1(run: Run, amount: int) -> int:
        return await pay.start(run, amount)

    async def long_form(run: Run, amount: int) -> int:
        return amount

    shop.v("2.0.0", exec=long_form)
    registry = Registry()
    registry.add(shop_v1)
    several = [shop, registry]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module that can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return written


def named(versions: list[WorkflowVersion[..., Any]]) -> list[str]:
    return [f"{version.name} {version.version}" for version in versions]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("shop", ["shop 1.0.0", "shop 2.0.0"]),
        ("shop:shop", ["shop 1.0.0", "shop 2.0.0"]),
        ("shop:shop_v1", ["shop 1.0.0"]),
        ("shop:registry", ["shop 1.0.0"]),
        ("shop:several", ["shop 1.0.0", "shop 2.0.0", "shop 1.0.0"]),
    ],
)
def test_a_module_gives_what_it_holds_and_a_name_in_it_what_it_names(
    write: Write, given: str, found: list[str]
) -> None:
    write("shop", SHOP)
    assert named(unpack(pack([given]))) == found


def test_what_a_module_has_imported_is_served_too(write: Write) -> None:
    write("shop", SHOP)
    write("front", "from shop import shop, shop_v1")
    assert named(unpack(pack(["front"]))) == ["shop 1.0.0", "shop 2.0.0"]


def test_a_copy_with_other_options_is_not_served_twice(write: Write) -> None:
    write("shop", SHOP + "    fast = shop_v1.with_options(pool='fast')\n")
    (first, second) = unpack(pack(["shop"]))
    assert (first.pool, second.pool) == ("default", "default")


def test_the_supervisor_imports_no_module_that_it_is_given_the_name_of(write: Write) -> None:
    write("shop", "raise RuntimeError('imported')")
    assert pack(["shop"]) == Shipment(modules=("shop",))
    with pytest.raises(RuntimeError, match="imported"):
        unpack(pack(["shop"]))


def test_what_can_be_imported_travels_by_reference(write: Write) -> None:
    write("shop", SHOP)
    found = __import__("shop")
    shipment = pack([found.shop])
    assert shipment == Shipment(
        references=(Reference("shop", "shop", "1.0.0"), Reference("shop", "shop", "2.0.0"))
    )
    assert unpack(shipment) == found.shop.versions


def test_what_a_module_no_longer_holds_is_refused(write: Write) -> None:
    write("shop", "")
    shipment = Shipment(references=(Reference("shop", "shop", "1.0.0"),))
    with pytest.raises(DefinitionError, match=r"module shop no longer holds workflow shop 1\.0\.0"):
        unpack(shipment)


def made(suffix: object) -> Workflow:
    """Define a workflow where nobody can import it."""

    @task
    async def shout(name: str) -> str:
        return f"{name}{suffix}"

    local = workflow("local")

    @local.v("1.0.0")
    async def local_v1(run: Run, name: str) -> str:
        return await shout.start(run, name)

    return local


def test_a_closure_travels_by_value_into_a_process_that_has_not_its_module(tmp_path: Path) -> None:
    shipment = pack([made("!")])
    assert (shipment.modules, shipment.references) == ((), ())
    file = tmp_path / "shipment"
    file.write_bytes(pickle.dumps(shipment))
    script = """if True:
        import pickle, sys
        from aiki.supervisor.definitions import unpack
        (version,) = unpack(pickle.load(open(sys.argv[1], "rb")))
        print(version.name, version.version, version.arguments.decode(b'{"name":"x"}'))
    """
    told = subprocess.run(
        [sys.executable, "-c", script, file], capture_output=True, check=True, text=True
    )
    assert told.stdout == "local 1.0.0 (('x',), {})\n"


def test_what_a_closure_captured_is_named_when_it_cannot_be_sent() -> None:
    with pytest.raises(DefinitionError, match=r"shout captures suffix, a _thread\.lock\. Define"):
        pack([made(threading.Lock())])


def test_the_culprit_is_found_inside_of_what_was_captured() -> None:
    with pytest.raises(DefinitionError, match=r"captures suffix\['gate'\], a _thread\.lock"):
        pack([made({"name": "x", "gate": threading.Lock()})])


@pytest.mark.parametrize("given", [[], [workflow("bare")], [Registry()]])
def test_a_supervisor_without_workflows_is_refused(given: list[Any]) -> None:
    with pytest.raises(DefinitionError, match="at least one workflow"):
        pack(given)


def test_what_is_no_definition_is_refused() -> None:
    of_one_run = made("!").versions[0].with_options(idempotency_key="x")
    wrong: list[Any] = [3, made, of_one_run]
    for given in wrong:
        with pytest.raises(DefinitionError, match="expected a workflow, a version, a registry"):
            pack([given])
