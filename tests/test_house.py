"""Who may import whom, read from the source: what keeps the rooms of this house apart."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import aiki.supervisor

ROOT = Path(__file__).resolve().parent.parent

# A module of aiki imports from its own layer and from those above it in this list.
LAYERS = (
    {"errors", "steering"},
    {"envelope"},
    {"encryption"},
    {"durations", "names", "process", "threads", "lock_file", "time_limit"},
    {"annotations", "refusals", "states"},
    {"codec"},
    {"failures", "retry", "schedule", "definition", "options"},
    {"topic", "asked"},
    {"records", "call"},
    {"context", "branches"},
    {"journal", "checkpoint", "rounds", "store", "valkey_setup", "valkey_server", "embedded"},
    {"mail", "publisher", "conditions", "revival"},
    {"newsdesk", "answers", "current_step"},
    {"step", "once", "ends"},
    {
        "operation",
        "completion",
        "hints",
        "controls",
        "heartbeat",
        "slots",
        "housekeeping",
        "firing",
        "claims",
    },
    {"question", "stream", "description"},
    {"replay", "commits", "handle", "schedule_handle", "life", "listing"},
    {"notes", "presence"},
    {"recording"},
    {"execution", "client"},
    {"attempts", "waits", "updates", "compensations", "mapping"},
    {"children"},
    {"run"},
    {"middleware"},
    {"task", "ask", "event", "awakeable"},
    {"workflow"},
    {"schedules"},
    {"registry", "ending", "handler", "lifespans"},
    {"actor", "actors"},
    {"worker"},
    {
        "cli_settings",
        "cli_options",
        "cli_output",
        "cli_exits",
        "cli_command",
        "cli_security",
        "cli",
        "__init__",
    },
)

# Values in, values out: these decide, and others act.
PURE = {
    "aiki.retry",
    "aiki.schedule",
    "aiki.states",
    "aiki.records",
    "aiki.journal",
    "aiki.checkpoint",
    "aiki.supervisor.restarts",
}
IMPURE = {"asyncio", "os", "random", "socket", "subprocess", "threading", "time"}

# What only few may import, and who.
DOORS = {
    "redis": ("aiki.store",),
    "hiredis": ("aiki.store",),
    "multiprocessing": ("aiki.supervisor.child", "aiki.supervisor.worker_process"),
    "signal": ("aiki.supervisor.signals", "aiki.supervisor.worker_process"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "supervisor":
        parts = ("aiki", *parts)
    return ".".join(part for part in parts if part != "__init__")


def sources(*folders: str, suffix: str = ".py") -> list[Path]:
    """Find the files of these folders, without entering the link aiki/supervisor."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob(f"*{suffix}"))]


@cache
def library() -> dict[str, ast.Module]:
    """Parse the library; not at once, for every process of the tests imports this file."""
    return {
        module_name(path): ast.parse(path.read_text()) for path in sources("aiki", "supervisor")
    }


@cache
def everything() -> dict[str, ast.Module]:
    found = {
        module_name(path): ast.parse(path.read_text()) for path in sources("tests", "examples")
    }
    return library() | found


def imports(tree: ast.AST) -> Iterator[str]:
    """Name every imported module in full, the submodule where one is imported from a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "." * node.level + (node.module or "")
            for alias in node.names:
                submodule = f"{package}.{alias.name}"
                yield submodule if submodule in everything() else package


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int:
    room = module.split(".")[1] if "." in module else "__init__"
    found = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    assert found, f"{module} has no layer yet: give it one in {Path(__file__).name}"
    return found[0]


def test_each_module_of_aiki_imports_only_from_its_own_layer_and_those_before_it() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, tree in library().items()
        if not within(module, "aiki.supervisor")
        for imported in imports(tree)
        if within(imported, "aiki")
        and (within(imported, "aiki.supervisor") or layer(imported) > layer(module))
    ]
    assert wrong == []


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {
        module: {imported for imported in imports(tree) if imported in library()}
        for module, tree in library().items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_redis_processes_and_signals_have_one_door_each() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, tree in library().items()
        for imported in imports(tree)
        for closed, doors in DOORS.items()
        if within(imported, closed) and not any(within(module, door) for door in doors)
    ]
    assert wrong == []


def test_what_is_pure_imports_no_clock_no_chance_no_process() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in PURE & library().keys()
        for imported in imports(library()[module])
        if imported.partition(".")[0] in IMPURE
    ]
    assert wrong == []


def test_imports_are_absolute_and_never_name_a_top_level_supervisor() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, tree in everything().items()
        for imported in imports(tree)
        if imported.startswith(".") or within(imported, "supervisor")
    ]
    assert wrong == []


def test_imports_stand_outside_of_functions_and_hold_at_run_time() -> None:
    inside = [
        f"{module}: {node.name} imports {imported}"
        for module, tree in everything().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for imported in imports(node)
    ]
    guarded = [
        f"{module} imports TYPE_CHECKING"
        for module, tree in everything().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.alias) and node.name == "TYPE_CHECKING"
    ]
    assert inside + guarded == []


def test_the_supervisor_is_the_top_level_folder() -> None:
    assert Path(aiki.supervisor.__file__).resolve().parent == ROOT / "supervisor"


def test_every_package_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        module_name(path / "x.py").removesuffix(".x")
        for path in {source.parent for source in sources("aiki", "supervisor")}
    }
    assert found == set(settings["packages"])


# One state machine each, whose parts share all their state: looked at, and not better in two.
LOOKED_AT = {
    "aiki/execution.py": 480,
    "aiki/run.py": 500,
    "aiki/worker.py": 500,
    "aiki/store/runs.py": 420,
    "aiki/workflow.py": 460,
    "tests/support/calls.py": 960,
}


def test_the_library_takes_no_partition_for_the_whole_store() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources("aiki", "supervisor", "examples")
        for line in path.read_text().splitlines()
        if re.search(r"client\.store\b", line)
    ]
    assert found == [], "client.store is the first partition: a run is in client.partitions.of(id)"


def test_no_file_is_longer_than_400_lines() -> None:
    files = sources("aiki", "supervisor", "tests", "examples")
    files += sources("aiki", suffix=".lua")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {
        name: lines for name, lines in lengths.items() if lines > LOOKED_AT.get(name, 400)
    } == {}
