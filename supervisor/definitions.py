"""Definitions on their way to worker processes: by name if they can be imported, else by value.

The supervisor never imports a module it was given the name of: only workers do, so that a reload
brings new code. What it was given as objects it describes by module, workflow and version, where
the worker finds the same object. The rest, from `__main__`, a closure or a notebook, is pickled
by cloudpickle, all at once, so that one class stays one class.
"""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias, cast

import cloudpickle

from aiki.errors import DefinitionError
from aiki.registry import Registry
from aiki.workflow import Workflow, WorkflowVersion

Version: TypeAlias = WorkflowVersion[..., Any]
Definition: TypeAlias = str | Workflow | Version | Registry


@dataclass(frozen=True, slots=True)
class Reference:
    """A version that the module `module` holds."""

    module: str
    workflow: str
    version: str


@dataclass(frozen=True, slots=True)
class Shipment:
    """Everything a worker serves, in the forms in which it travels."""

    modules: tuple[str, ...] = ()
    """Each MODULE or MODULE:NAME."""
    references: tuple[Reference, ...] = ()
    pickled: bytes = b""


def pack(definitions: Iterable[Definition]) -> Shipment:
    """Describe definitions for workers (supervisor process).

    Raises `DefinitionError` for what is no definition, for none at all, and for one that can
    neither be imported nor pickled, naming what it captured.
    """
    modules: list[str] = []
    references: list[Reference] = []
    by_value: list[Version] = []
    for definition in definitions:
        if isinstance(definition, str):
            modules.append(definition)
            continue
        for version in _versions(definition, "Supervisor(workflows=…)"):
            if _importable(version):
                name = version.identity[0]
                references.append(Reference(name, version.name, version.version))
            else:
                by_value.append(version)
    if not modules and not references and not by_value:
        raise DefinitionError("a supervisor needs at least one workflow with a version")
    return Shipment(tuple(modules), tuple(references), _pickled(by_value))


def unpack(shipment: Shipment) -> list[Version]:
    """Import and unpickle what a worker serves (worker process).

    Raises `DefinitionError`, and whatever the imported modules raise.
    """
    found = [version for module in shipment.modules for version in _from_module(module)]
    found += [_from_reference(reference) for reference in shipment.references]
    if shipment.pickled:
        found += cast("list[Version]", pickle.loads(shipment.pickled))  # noqa: S301  (our parent's)
    return found


def _from_module(given: str) -> list[Version]:
    name, _, attribute = given.partition(":")
    if "/" in name or name.endswith(".py"):
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise DefinitionError(f"{given} is a path; write the module's name, such as {dotted}")
    module = importlib.import_module(name)
    if not attribute:
        versions = _held(module)
        if not versions:
            raise DefinitionError(f"module {name} holds no workflow with a version")
        return versions
    value: object = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise DefinitionError(f"module {name} has no {attribute}")
        value = getattr(value, part)
    versions = list(_versions(value, given))
    if not versions:
        raise DefinitionError(f"{given} holds no workflow with a version")
    return versions


def _from_reference(reference: Reference) -> Version:
    version = _find(importlib.import_module(reference.module), reference)
    if version is None:
        raise DefinitionError(
            f"module {reference.module} no longer holds workflow {reference.workflow} "
            f"{reference.version}"
        )
    return version


def _versions(value: object, where: str) -> Iterator[Version]:
    if isinstance(value, WorkflowVersion):
        yield cast("Version", value)
    elif isinstance(value, Workflow):
        yield from value.versions
    elif isinstance(value, Registry):
        yield from value.versions()
    elif isinstance(value, list | tuple):
        for item in cast("Sequence[object]", value):
            yield from _versions(item, where)
    else:
        raise DefinitionError(
            f"{where}: expected a workflow, a version, a registry or a list of them, not a "
            f"{type(value).__qualname__}"
        )


def _held(module: ModuleType) -> list[Version]:
    """Return the versions at the top level of a module, defined or imported there."""
    values = list(vars(module).values())
    found = [version for w in values if isinstance(w, Workflow) for version in w.versions]
    known = {(version.name, version.version, version.identity) for version in found}
    for value in values:
        if isinstance(value, WorkflowVersion):
            version = cast("Version", value)
            # A copy with other options is the same definition once more.
            key = (version.name, version.version, version.identity)
            if key not in known:
                known.add(key)
                found.append(version)
    return list({id(version): version for version in found}.values())


def _find(module: ModuleType, wanted: Reference) -> Version | None:
    for version in _held(module):
        if (version.name, version.version) == (wanted.workflow, wanted.version):
            return version
    return None


def _importable(version: Version) -> bool:
    name = version.identity[0]
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return False
    try:
        if importlib.util.find_spec(name) is None:
            return False
    except ValueError:  # made at run time: it has no spec
        return False
    found = _find(module, Reference(name, version.name, version.version))
    return found is not None and found.identity == version.identity


def _pickled(versions: list[Version]) -> bytes:
    if not versions:
        return b""
    try:
        data: bytes = cloudpickle.dumps(versions)
    except Exception as error:
        for version in versions:
            _refuse_captured(version)
        raise DefinitionError(f"workflows cannot be sent to workers: {error}") from error
    return data


def _refuse_captured(version: Version) -> None:
    culprit = _culprit("handler", version.handler, version.handler.__qualname__, set())
    if culprit is not None:
        raise DefinitionError(
            f"{version} cannot be sent to workers: it is defined where they cannot import it, and "
            f"{culprit}. Define it in a module, or make that object inside the task that uses it"
        )


def _culprit(name: str, value: object, holder: str, seen: set[int]) -> str | None:
    """Return who holds what cannot be pickled, followed down to the variable itself."""
    if id(value) in seen or _pickles(value):
        return None
    seen.add(id(value))
    inner = getattr(value, "__qualname__", holder)
    for part_name, part in _captured(name, value):
        found = _culprit(part_name, part, inner, seen)
        if found is not None:
            return found
    return f"{holder} captures {name}, a {type(value).__module__}.{type(value).__qualname__}"


def _captured(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, FunctionType):
        yield from _variables(value)
    elif isinstance(value, dict):
        for key, part in cast("dict[object, object]", value).items():
            yield f"{name}[{key!r}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for part in cast("Iterable[object]", value):
            yield name, part
    elif not isinstance(value, type | ModuleType):
        slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
        for attribute in (*getattr(value, "__dict__", {}), *slots):
            if hasattr(value, attribute):
                yield f"{name}.{attribute}", getattr(value, attribute)


def _variables(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the variables of outer scopes that a function uses, those it is sent with."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for variable, cell in cells:
        with suppress(ValueError):  # not assigned yet
            yield variable, cell.cell_contents
    for variable in _global_names(function.__code__):
        if variable in function.__globals__:
            yield variable, function.__globals__[variable]


def _global_names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_global_names(each) for each in inner))


def _pickles(value: object) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001  (whatever an object's own reduction raises)
        return False
    return True
