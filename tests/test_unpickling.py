"""Nothing that came out of the store is ever unpickled: to be read is all that may happen to it."""

from __future__ import annotations

import ast
import base64
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

from aiki import event
from aiki.store.keys import prefix
from tests.support.supervised import Supervised, start
from tests.test_house import imports, library, within

LOADERS = ("pickle", "_pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib", "copyreg")

# Who may import what could execute bytes, and why that is no way in.
ALLOWED = {
    "aiki.supervisor.messages": {"pickle"},  # a private socket between one parent and its child
    "aiki.supervisor.definitions": {"pickle", "cloudpickle"},  # what the parent sends at the boot
    "aiki.annotations": {"copyreg"},  # to be written by others; it reads nothing
}


def test_who_imports_what_unpickles() -> None:
    found = {
        (module, imported.partition(".")[0])
        for module, tree in library().items()
        for imported in imports(tree)
        if any(within(imported, loader) for loader in LOADERS)
    }
    assert found == {(module, name) for module, names in ALLOWED.items() for name in names}


def test_who_unpickles() -> None:
    """One place for messages as they come, one for messages at the boot, one for definitions."""
    calls = [
        f"{module}.{function.name}"
        for module, tree in library().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("load", "loads", "Unpickler")
        if isinstance(node.func.value, ast.Name) and node.func.value.id in LOADERS
    ]
    assert sorted(calls) == [
        "aiki.supervisor.definitions.unpack",
        "aiki.supervisor.messages._deliver",
        "aiki.supervisor.messages.receive",
    ]


def test_nothing_is_evaluated() -> None:
    wrong = [
        f"{module}:{node.lineno}"
        for module, tree in library().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("eval", "exec", "compile", "__import__")
    ]
    assert wrong == []


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


WATCHED = """
import os, sys
from aiki import Run, TaskFailed, event, fixed, task, workflow

def watch(name, arguments):
    if name == "pickle.find_class":
        with open(os.environ["LEDGER"], "a") as ledger:
            ledger.write(f"found {arguments[0]}.{arguments[1]}\\n")

sys.addaudithook(watch)
sent = event("sent", str)

@task(retry=fixed(max_attempts=2, delay=0))
def echo(text: str) -> str:
    return text

@task
def fails(text: str) -> None:
    raise ValueError(text)

child = workflow("child")

@child.v("1.0.0")
async def child_v1(run: Run, text: str) -> str:
    return await echo.start(run, text)

watched = workflow("watched")

@watched.v("1.0.0")
async def watched_v1(run: Run, text: str) -> str:
    text = await echo.start(run, text)
    try:
        await fails.start(run, text)
    except TaskFailed as failed:
        text = failed.failure.message
    handle = await child_v1.start_as_child(run, text)
    text = await handle.wait_for_completion()
    await run.sleep("a while", 1.5)
    return text + await sent.wait(run)
"""


@pytest.mark.plain_only("a supervisor of its own")
async def test_a_worker_unpickles_nothing_but_what_its_supervisor_says(tmp_path: Path) -> None:
    """Given pickles in the input, an event, and in place of records, journals and messages."""
    mark = tmp_path / "executed"
    raw = pickle.dumps(Evil(mark))
    text = base64.b64encode(raw).decode()
    found = Supervised(tmp_path, "watched", "--workers", "1")
    found.write("watched", WATCHED)
    with found:
        await found.serves()
        async with found.client() as client:
            link, base = client.store.link, prefix("default", 0)
            whole = await start(client, "watched", text=text)
            # One run whose input, and one whose journal and mailbox, is a pickle as it is.
            broken = await start(client, "watched", version="9.0.0", text=text)
            await link.send(
                ("HSET", f"{base}run:{broken.id}", "input", raw, "result", raw, "failure", raw)
            )
            await link.send(("HSET", f"{base}run:{broken.id}:journal", "echo:x#0", raw))
            await link.send(("HSET", f"{base}run:{broken.id}:mailbox", "1", raw))
            for name in ("input", "journal"):
                each = await start(client, "watched", text=text)
                key = f"{base}run:{each.id}" + ("" if name == "input" else ":journal")
                await link.send(("HSET", key, "input" if name == "input" else "echo:x#0", raw))
            await event("sent", str).send(whole, text)
            assert await whole.wait_for_completion(60) == text * 2
            await client.handle(broken.id).cancel()
        found.send(signal.SIGTERM)
        assert await found.ends() == 0
    loaded = {line.removeprefix("found ") for line in found.effects() if line[:6] == "found "}
    assert {name for name in loaded if not name.startswith("aiki.supervisor.")} == set()
    assert not mark.exists()


def test_the_watch_sees_what_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()
