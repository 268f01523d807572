"""Exceptions ⇄ stored failures.

What is stored is text, so that reading it runs no code and needs no class. Storing must
succeed whatever the exception is: its class is the user's, and whatever one asks of an
exception may raise in turn, or be as large as a payload that a message quotes.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aiki.envelope import check_readable
from aiki.errors import AskFailed, DataError, Failure, RunFailed, TaskFailed

_T = TypeVar("_T")

# In bytes. A run that fails stores one failure, and its journal one per failed step.
_NAME = 200
_MESSAGE = 8 * 1024
_TRACEBACK = 32 * 1024

_CAUSES = 8
_FRAMES = 100  # the innermost, where it was raised
_MEMBERS = 20  # of an exception group

_OURS = str(Path(__file__).parent) + os.sep


def failure_from_exception(exc: BaseException) -> Failure:
    """Describe an exception and what caused it, up to eight causes deep; never raises."""
    return _safely(lambda: _described(exc, []), Failure("Exception", "(not describable)", ""))


def failure_to_json(failure: Failure) -> bytes:
    """Return the stored form of a failure."""
    return json.dumps(_written(failure), ensure_ascii=False).encode("utf-8", "backslashreplace")


def failure_from_json(data: bytes) -> Failure:
    """Read a stored failure; raises `DataError` for anything else."""
    try:
        return _read(json.loads(data))
    except (ValueError, RecursionError) as error:
        check_readable(data, "a failure")
        raise DataError(f"a stored failure cannot be read: {error}") from error


def _safely(ask: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return ask()
    # An exception may answer with any other, SystemExit included.
    except BaseException:  # noqa: BLE001
        return otherwise


def _described(exc: BaseException, outer: list[BaseException]) -> Failure:
    name = _safely(lambda: _name(exc), "Exception")
    message = _safely(lambda: _cut(str(exc), _MESSAGE), f"(the message of this {name} is broken)")
    outer = [*outer, exc]
    cause = _safely(lambda: _cause(exc), None)
    described: Failure | None = None
    if isinstance(cause, Failure):
        described = _shortened(cause, _CAUSES - len(outer))
    elif cause is not None and len(outer) <= _CAUSES and all(cause is not e for e in outer):
        described = _described(cause, outer)
    return Failure(
        type=name,
        message=message,
        traceback=_safely(lambda: _traceback(exc, f"{name}: {message}"), ""),
        cause=described,
    )


def _name(exc: BaseException) -> str:
    kind = type(exc)
    module = kind.__module__
    return _cut(
        kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}", _NAME
    )


def _cause(exc: BaseException) -> BaseException | Failure | None:
    kind = type(exc)  # asking isinstance would ask the exception
    cause: Any = exc.__cause__
    if issubclass(kind, TaskFailed | RunFailed | AskFailed):
        cause = getattr(exc, "failure", None)
    elif cause is None and not exc.__suppress_context__:
        cause = exc.__context__
    if cause is None and issubclass(kind, BaseExceptionGroup):
        cause = getattr(exc, "exceptions", (None,))[0]
    return cause if issubclass(type(cause), BaseException | Failure) else None


def _traceback(exc: BaseException, last_line: str) -> str:
    """Format as Python does, except that a group lists its members in a line each."""
    if exc.__traceback__ is None:
        return ""
    frames = traceback.extract_tb(exc.__traceback__, limit=-_FRAMES)
    # Ours led to the user's code and are the same every time; where all are ours, all tell.
    first = next((n for n, frame in enumerate(frames) if not frame.filename.startswith(_OURS)), 0)
    lines = _encoded("".join(traceback.format_list(frames[first:])))
    trace = lines[-_TRACEBACK // 2 :].decode("utf-8", "ignore")
    notes: list[str] = []
    end = "\n".join([last_line, *_safely(lambda: _notes(exc), notes), *_members(exc)])
    return f"Traceback (most recent call last):\n{trace}{_cut(end, _TRACEBACK // 2 - 100)}\n"


def _notes(exc: BaseException) -> list[str]:
    return [_cut(str(note), _MESSAGE) for note in getattr(exc, "__notes__", ())]


def _members(exc: BaseException) -> list[str]:
    if not issubclass(type(exc), BaseExceptionGroup):
        return []
    members: tuple[BaseException, ...] = getattr(exc, "exceptions", ())
    lines = [f"  + {_summary(member)}" for member in members[:_MEMBERS]]
    left_out = len(members) - _MEMBERS
    return [*lines, f"  + {left_out} more"] if left_out > 0 else lines


def _summary(exc: BaseException) -> str:
    return _safely(lambda: f"{_name(exc)}: {_cut(str(exc), _NAME)}", "(broken)")


def _shortened(failure: Failure, causes: int) -> Failure | None:
    if causes < 0:
        return None
    return Failure(
        type=_cut(failure.type, _NAME),
        message=_cut(failure.message, _MESSAGE),
        traceback=_cut(failure.traceback, _TRACEBACK),
        cause=failure.cause and _shortened(failure.cause, causes - 1),
    )


def _encoded(text: str) -> bytes:
    return str.encode(text, "utf-8", "backslashreplace")


def _cut(text: str, limit: int) -> str:
    """Return plain text of at most `limit` bytes, and of what can be encoded."""
    text = str.__str__(text)  # a subclass may answer its slices itself
    encoded = _encoded(text[: limit + 1])
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - len("...")].decode("utf-8", "ignore") + "..."


def _written(failure: Failure) -> dict[str, Any]:
    return {
        "type": failure.type,
        "message": failure.message,
        "traceback": failure.traceback,
        "cause": failure.cause and _written(failure.cause),
    }


def _read(stored: Any) -> Failure:
    match stored:
        case {"type": str(name), "message": str(message), "traceback": str(trace), "cause": cause}:
            return Failure(name, message, trace, None if cause is None else _read(cause))
        case _:
            raise ValueError("it is not an object of type, message, traceback and cause")


def task_failed(task: str, attempts: int, payload: bytes) -> TaskFailed:
    """Return what a recorded failure raises in a handler."""
    failure = failure_from_json(payload)
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return TaskFailed(
        f"task {task!r} failed after {tries}: {failure.type}: {failure.message}",
        task=task,
        attempts=attempts,
        failure=failure,
    )
