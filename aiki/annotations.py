"""What an annotation means for storage: resolved, checked and compiled once.

pydantic turns an annotation into a *core schema*, a tree of plain dicts, and compiles
that. In between, the tree is copied and changed where pydantic's own choices would lose
data: settings given from outside do not reach into a user's models and dataclasses, so
they are written into each of them; sets get an order; names meant for the outside world
are dropped. What nothing could be read back from is refused here, where it is defined.
"""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import functools
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Never, NoReturn, TypeGuard, cast

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic_core import SchemaSerializer, SchemaValidator
from pydantic_core.core_schema import CoreConfig

from aiki.errors import DefinitionError


def _missing_by_name(_: object) -> str:
    return "MISSING"


# A dataclass that cloudpickle carries by value would arrive with a copy of this marker,
# which pydantic would then take for the default of every field that has none.
copyreg.pickle(type(dataclasses.MISSING), _missing_by_name)

# Bytes need not be text; NaN must show up instead of turning into null; times in full.
_SETTINGS: CoreConfig = {
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "constants",
    "allow_inf_nan": False,
    "ser_json_timedelta": "iso8601",
    "ser_json_temporal": "iso8601",
}

# Keys of a schema under which further schemas lie; everything else is copied as it is.
_INNER = frozenset({
    "arguments_schema", "choices", "definitions", "extras_keys_schema", "extras_schema", "fields",
    "items_schema", "json_schema", "keys_schema", "lax_schema", "return_schema", "schema",
    "serialization", "steps", "strict_schema", "values_schema", "var_args_schema",
    "var_kwargs_schema",
})  # fmt: skip

# Stored data is read by the code that wrote it, by field name: an alias may be one for
# writing and another for reading. Computed fields are computed again.
_DROPPED = frozenset({"alias", "validation_alias", "serialization_alias", "computed_fields"})

_CHANGES_TEXT = frozenset({"strip_whitespace", "to_lower", "to_upper"})
_CHANGES_ALL_TEXT = frozenset({"str_strip_whitespace", "str_to_lower", "str_to_upper"})

_UNREADABLE = {
    "callable": "a function cannot be stored",
    "generator": "storing an iterator uses it up; annotate it as list[...]",
    "is-instance": "its values cannot be read back from JSON; use a dataclass or a pydantic model",
    "is-subclass": "a class cannot be stored",
}


_Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one annotation are written as JSON and read back."""

    serializer: SchemaSerializer
    validator: SchemaValidator
    normalises: bool
    """Code of the user may change a value on the way, such as a validator that rounds."""


class _UnreadableError(Exception):
    pass


def compiled(annotation: object, where: str) -> Form:
    """Compile an annotation.

    `where` opens the message of the `DefinitionError` that an unusable one raises.
    """
    if annotation is Never or annotation is NoReturn:
        annotation = None  # nothing will ever be stored
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", annotation))
        adapter.rebuild()  # raises if a name in it is still unknown
        copy = _SchemaCopy()
        schema = copy.of(adapter.core_schema, "")
        # Prebuilt are those of the user's classes, which do not have our settings.
        return Form(
            serializer=SchemaSerializer(schema, _SETTINGS, _use_prebuilt=False),
            validator=SchemaValidator(schema, _SETTINGS, _use_prebuilt=False),
            normalises=copy.normalises,
        )
    # pydantic raises errors of four families here, and calls code of the user's classes.
    except Exception as error:
        raise DefinitionError(
            f"{where}: {inspect.formatannotation(annotation)} is not usable here: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0]  # links follow
    if not isinstance(error, PydanticSchemaGenerationError):
        return text
    unknown = text.removeprefix("Unable to generate pydantic-core schema for ").partition(". ")[0]
    return f"{unknown} has no stored form; use a dataclass or a pydantic model"


def resolved(fn: Callable[..., Any], where: str) -> inspect.Signature:
    """Return a function's signature with every annotation evaluated.

    Raises `DefinitionError`, naming the parameter, for one given as text that cannot be.
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError, NameError) as error:
        raise DefinitionError(f"{where}: its signature cannot be read: {error}") from error
    names = _names_seen_by(fn)
    return signature.replace(
        parameters=[
            p.replace(annotation=_evaluated(p.annotation, names, f"{where}: parameter {p.name!r}"))
            for p in signature.parameters.values()
        ],
        return_annotation=_evaluated(signature.return_annotation, names, f"{where}: its result"),
    )


def _names_seen_by(fn: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    if isinstance(fn, functools.partial):
        fn = fn.func
    function = inspect.unwrap(fn)
    names: dict[str, Any] = {p.__name__: p for p in getattr(function, "__type_params__", ())}
    # With no closure to look into, a callable object or one not filled yet, these are all.
    with contextlib.suppress(TypeError, ValueError):
        names |= inspect.getclosurevars(function).nonlocals
    return getattr(function, "__globals__", {}), names


def _evaluated(
    annotation: object, names: tuple[dict[str, Any], dict[str, Any]], where: str
) -> object:
    if annotation is inspect.Signature.empty:
        return annotation
    holder = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, *names, include_extras=True)["it"]
    except Exception as error:  # the text may be any expression
        raise DefinitionError(
            f"{where}: its annotation {annotation!r} cannot be resolved: {error}; define what "
            "it names at the top level of the module"
        ) from error


class _SchemaCopy:
    """One pass over a core schema; `path` is for messages."""

    def __init__(self) -> None:
        self.normalises = False
        self._definitions: dict[str, _Schema] = {}

    def of(self, node: object, path: str) -> Any:
        if not _is_schema(node):
            return node  # a name among schemas
        kind = node.get("type")
        if kind in _UNREADABLE:
            raise _UnreadableError(_UNREADABLE[kind] + (path and f" (at {path})"))
        if kind == "definitions":
            self._definitions |= {found["ref"]: found for found in node["definitions"]}
        written_by_user = "serialization" in node
        if "keys_schema" in node and not (written_by_user or self._is_text(node["keys_schema"])):
            raise _UnreadableError(
                "keys are strings in JSON; use dict[str, ...] or a list of pairs"
                + (path and f" (at {path})")
            )
        copy = {
            key: self._inner(node, key, path) if key in _INNER else value
            for key, value in node.items()
            if key not in _DROPPED
        }
        if "config" in node or kind == "model":
            copy["config"] = {**node.get("config", {}), **_SETTINGS}
        if kind in {"set", "frozenset"} and not written_by_user:
            copy["serialization"] = {"type": "function-wrap", "function": _in_order}
        self.normalises |= _may_change_values(node)
        return copy

    def _inner(self, node: _Schema, key: str, path: str) -> Any:
        value = node[key]
        if key in {"fields", "choices"} and _is_schema(value):  # by name, or by tag
            return {name: self.of(inner, f"{path}.{name}") for name, inner in value.items()}
        if key == "schema" and "name" in node:
            path += f".{node['name']}"
        elif key == "items_schema":
            path += "[]"
        if not _is_list(value):
            # The strict half of a schema that is read through the other one.
            unread = key == "strict_schema" and _is_instance(value)
            return value if unread else self.of(value, path)
        items: list[Any] = []
        for item in value:
            if isinstance(item, tuple):  # a choice and its label
                choice, label = cast("tuple[Any, Any]", item)
                items.append((self.of(choice, path), label))
            elif key == "choices" and _is_instance(item):
                # One of the forms that Python code may pass; the stored one is another.
                items.append(item)
            else:
                items.append(self.of(item, path))
        return items

    def _is_text(self, schema: _Schema) -> bool:
        """Tell whether all values of a schema are stored as strings."""
        inner: list[Any] = []
        match schema:
            case {"type": "any" | "str"}:  # under `any`, each key is looked at
                return True
            case {"type": "literal", "expected": values}:
                return all(isinstance(value, str) for value in values)
            case {"type": "enum", "members": members}:
                return all(isinstance(member.value, str) for member in members)
            case {"type": "definition-ref", "schema_ref": name}:
                inner = [self._definitions[name]]
            case {"type": "union", "choices": choices}:
                for choice in choices:
                    inner.append(choice[0] if isinstance(choice, tuple) else choice)
            case _:
                inner = [schema["schema"]] if "schema" in schema else []
        return bool(inner) and all(self._is_text(choice) for choice in inner)


def _is_schema(value: object) -> TypeGuard[_Schema]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_instance(schema: object) -> bool:
    return _is_schema(schema) and schema.get("type") == "is-instance"


def _may_change_values(node: _Schema) -> bool:
    function: Any = node.get("function")
    if _is_schema(function):
        function = function["function"]
    if isinstance(function, functools.partial):
        function = function.func  # a partial of a partial is one
    module = str(getattr(function, "__module__", ""))
    config: _Schema = node.get("config") or {}
    return (
        (function is not None and not module.startswith("pydantic"))
        or any(node.get(name) for name in _CHANGES_TEXT)
        or any(config.get(name) for name in _CHANGES_ALL_TEXT)
    )


def _in_order(value: object, dump: Callable[[object], object]) -> object:
    """Dump a set so that equal sets give equal lists."""
    items = dump(value)
    if not _is_list(items):
        return items  # no set, and refused when something else comes back
    kinds = set(map(type, items))
    if kinds <= {str} or kinds <= {int, float}:
        return sorted(items)
    return sorted(items, key=functools.partial(json.dumps, sort_keys=True))
