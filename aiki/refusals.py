"""Why a value cannot be stored: the place in it, and the reason in words.

Nothing here runs for a value that is stored, save one comparison. The codec sees that
something is wrong (pydantic raises, or the bytes do not give the value back) and asks
here what it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypeGuard

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaSerializer, from_json

MAX_DEPTH = 200  # of pydantic's JSON parser, which cannot be told another

_SHOWN = 60  # characters of a value in a message

# What code of the user may change on the way, such as a validator that rounds.
_PLAIN = (
    str, bytes, int, float, Decimal, date, time, timedelta, dict, list, tuple, set, frozenset,
)  # fmt: skip

# Stands for what has no stored form; begins unlike any text that a person would write.
_MARK = "\0no stored form\0"


class Finding(NamedTuple):
    """What is wrong, and where: a path such as `$.items[3].price`."""

    path: str
    reason: str


# What JSON cannot hold, whatever the annotation says


@dataclass(frozen=True, slots=True)
class _Place:
    value: object
    path: str
    depth: int
    outer: _Place | None

    def lies_in_itself(self) -> bool:
        outer = self.outer
        while outer is not None and outer.value is not self.value:
            outer = outer.outer
        return outer is not None


def hazard(value: object, *, depth: int = 1) -> Finding | None:
    """Find a non-finite number, a key that is no string, a lone surrogate, a cycle or depth.

    `depth` is the one at which the value itself lies.
    """
    pending = [_Place(value, "$", depth, None)]
    while pending:
        place = pending.pop()
        if reason := _hazard_at(place):
            return Finding(place.path, reason)
        parts = [
            _Place(part, place.path + step, place.depth + 1, place)
            for step, part in _parts(place.value)
        ]
        pending.extend(reversed(parts))
    return None


def _hazard_at(place: _Place) -> str | None:
    value = place.value
    if isinstance(value, str):
        return _text_hazard(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a number in JSON"
    if isinstance(value, int):
        return _digits_hazard(value)
    if _is_container(value):
        if place.lies_in_itself():
            return f"the {_type_name(value)} contains itself"
        if place.depth > MAX_DEPTH:
            return f"it is nested deeper than {MAX_DEPTH}"
    return _key_hazard(value) if _is_dict(value) else None


def _text_hazard(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the text is not Unicode: a lone surrogate at character {error.start}"
    return None


def _digits_hazard(number: int) -> str | None:
    try:
        str(number)
    except ValueError as error:
        return str(error)
    return None


def _key_hazard(mapping: dict[Any, Any]) -> str | None:
    for key in mapping:
        text = key.value if isinstance(key, Enum) else key
        if not isinstance(text, str):
            return f"the key {_shown(key)} is not a string, and JSON has no other keys"
        if reason := _text_hazard(text):
            return f"in a key, {reason}"
    return None


# What pydantic could not write or read


def unwritable(serializer: SchemaSerializer, value: object) -> Finding | None:
    """Find the part of a value that has no stored form."""
    found: list[object] = []

    def mark(part: object) -> str:
        found.append(part)
        return f"{_MARK}{len(found) - 1}"

    # What else is wrong has been looked for, or is in the error that led here.
    with contextlib.suppress(Exception):
        pending = [("$", from_json(serializer.to_json(value, warnings=False, fallback=mark)))]
        while pending:
            path, part = pending.pop()
            if isinstance(part, str) and part.startswith(_MARK):
                return Finding(path, _no_form(found[int(part.removeprefix(_MARK))]))
            pending.extend((path + step, inner) for step, inner in _parts(part))
    return None


def _no_form(value: object) -> str:
    if inspect.iscoroutine(value):
        return "it is a coroutine that was never awaited"
    return (
        f"a {_type_name(value)} has no stored form; pass plain data, and annotate it as a "
        "dataclass, a pydantic model or another type of data"
    )


def unreadable(error: ValidationError, plain: object) -> Finding:
    """Say what pydantic did not accept, and where in the parsed JSON."""
    problems = error.errors(include_url=False, include_context=False)
    paths = [_path(problem["loc"], plain) for problem in problems]
    # Each choice of a union has its own complaint; those of the one that was meant lie
    # deepest.
    deepest = max(paths, key=len)
    reasons: list[str] = []
    for path, problem in zip(paths, problems, strict=True):
        reason = problem["msg"]
        if problem["type"] not in {"missing", "json_invalid"}:
            reason += f", not {_shown(problem['input'])}"
        if path == deepest and reason not in reasons:
            reasons.append(reason)
    return Finding(deepest, " / ".join(reasons[:3]))


def _path(location: tuple[int | str, ...], plain: object) -> str:
    """Turn pydantic's location, which also names choices and validators, into a path."""
    path = "$"
    for index, step in enumerate(location):
        if isinstance(step, int):
            path += f"[{step}]"
            plain = plain[step] if _is_sequence(plain) and step < len(plain) else None
        elif _is_dict(plain) and (step in plain or index == len(location) - 1):
            path += _step(step)
            plain = plain.get(step)
    return path


# What would come back changed


def difference(value: Any, decoded: Any, *, normalises: bool, path: str = "$") -> Finding | None:
    """Find where the decoded value is not the one that was encoded.

    With `normalises`, code of the user may change plain values on the way, and only a
    change of type counts. A class that does not define equality is compared by its fields.
    """
    if _equal(value, decoded):
        return None
    pairs = _pairs(value, decoded)
    if isinstance(pairs, list):
        found = (
            difference(part, other, normalises=normalises, path=path + step)
            for step, part, other in pairs
        )
        return next(filter(None, found), None)
    if type(value) is not type(decoded):
        return Finding(
            path,
            f"{_shown(value)} would come back as {_shown(decoded)}; annotate it as "
            f"{_type_name(value)} alone, or pass {_type_name(decoded)}",
        )
    if _may_differ(value, decoded, normalises=normalises):
        return None
    return Finding(path, pairs or f"{_shown(value)} would come back as {_shown(decoded)}")


def _equal(value: object, decoded: object) -> bool:
    try:
        return bool(value == decoded)
    except Exception:  # noqa: BLE001  (of the user's class)
        return False


def _pairs(value: object, decoded: object) -> list[tuple[str, Any, Any]] | str:
    """Pair the parts of two containers; if they cannot be paired, say why or nothing."""
    same = type(value) is type(decoded)
    if _is_dict(value) and _is_dict(decoded):
        if lost := [key for key in value if key not in decoded]:
            return f"the key {_key_shown(lost[0])} would be lost: the annotation has no such key"
        return [(_step(key), part, decoded[key]) for key, part in value.items()]
    # Under Any or Sequence, a tuple may come back as a list.
    if _is_sequence(value) and _is_sequence(decoded) and (same or type(value) is tuple):
        if len(value) != len(decoded):
            return f"{len(value)} items would come back as {len(decoded)}"
        steps = (step for step, _ in _parts(value))
        return list(zip(steps, value, decoded, strict=True))
    if same and _has_fields(value):
        others = _fields(decoded)
        return [(f".{name}", part, others.get(name)) for name, part in _fields(value).items()]
    return ""


def _may_differ(value: Any, decoded: Any, *, normalises: bool) -> bool:
    if isinstance(value, datetime | time) and value.isoformat() == decoded.isoformat():
        return True  # in the hour that a clock change repeats, equal times compare unequal
    return type(value).__eq__ is _same_object or (normalises and isinstance(value, _PLAIN))


_same_object: object = object.__eq__


# Containers and paths


def _is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _is_sequence(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, list | tuple)


def _is_set(value: object) -> TypeGuard[set[Any] | frozenset[Any]]:
    return isinstance(value, set | frozenset)


def _has_fields(value: object) -> bool:
    return isinstance(value, BaseModel) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _is_container(value: object) -> bool:
    return _is_dict(value) or _is_sequence(value) or _is_set(value) or _has_fields(value)


def _parts(value: object) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, each with its step of the path."""
    if _is_dict(value):
        yield from ((_step(key), part) for key, part in value.items())
    elif _is_sequence(value):
        names: tuple[str, ...] = getattr(value, "_fields", ())  # of a NamedTuple
        for index, part in enumerate(value):
            yield (f".{names[index]}" if names else f"[{index}]"), part
    elif _is_set(value):
        yield from (("[*]", part) for part in value)
    elif _has_fields(value):
        yield from ((f".{name}", part) for name, part in _fields(value).items())


def _fields(value: Any) -> dict[str, Any]:
    """Return the stored fields of a pydantic model or a dataclass."""
    if isinstance(value, BaseModel):
        stored = {name for name, field in type(value).model_fields.items() if not field.exclude}
        extra = value.model_extra or {}
    else:
        stored, extra = {field.name for field in dataclasses.fields(value)}, {}
    return {name: getattr(value, name, None) for name in sorted(stored)} | extra


def _step(key: object) -> str:
    text = key.value if isinstance(key, Enum) else key
    is_name = isinstance(text, str) and text.isidentifier() and len(text) <= _SHOWN
    return f".{text}" if is_name else f"[{_key_shown(text)}]"


def _key_shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _type_name(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _shown(value: object) -> str:
    """Describe a value by its type and the beginning of its repr."""
    if value is None:
        return "None"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (of the user's class; int also has a limit on digits)
        return _type_name(value)
    return f"{_type_name(value)} {text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'}"
