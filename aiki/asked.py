"""What may be asked of a run from outside: queries and updates, as the run sees them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from aiki.annotations import resolved
from aiki.codec import Arguments, Codec, address
from aiki.definition import identity, portable, source
from aiki.errors import DataError, DefinitionError

QUERY, UPDATE = "query", "update"

# What an answer begins with, and stands for.
ANSWER, FAILURE, UNKNOWN, UNFIT, REJECTED = "r", "f", "n", "d", "j"


class Asked:
    """A query or an update of a version: its code, the state it is given, its stored form."""

    def __init__(self, kind: str, name: str, fn: Callable[..., Any]) -> None:
        before = {QUERY: 0, UPDATE: 1}[kind]  # an update is given the run first
        self.kind = kind
        self.name = name
        self.fn = fn
        self.source = source(fn)  # type: ignore[arg-type]
        self.identity = identity(fn)  # type: ignore[arg-type]
        where = f"{kind} {name} ({self.source})"
        self.where = where
        self.state = state_class(fn, before, where)
        self.arguments = Arguments(fn, skip=before + 1, where=where)
        self.result = Codec.of_result(fn, where)
        self.validator: Callable[..., None] | None = None

    @property
    def topic(self) -> str:
        """What its messages come under."""
        return f"{self.kind}/{self.name}"

    def decode(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Read its arguments; raises `DataError`."""
        return self.arguments.decode(payload)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"fn": portable(self.fn)}


def state_class(fn: Callable[..., Any], position: int, where: str) -> type[Any]:
    """Give the class of the state that a function is given at this position.

    Raises `DefinitionError` for anything but a class that can be made without arguments.
    """
    parameters = list(resolved(fn, where).parameters.values())
    kind: object = parameters[position].annotation if len(parameters) > position else None
    if not isinstance(kind, type) or kind is inspect.Parameter.empty:
        raise DefinitionError(
            f"{where} has no parameter for the run's state; annotate one with the class that the "
            "handler gives to run.state(…)"
        )
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            f"{where}: its state is a {kind.__qualname__}, which cannot be made without arguments "
            f"({error}); give each field a default"
        ) from error
    return kind


def answer_address(name: str, update_id: str) -> str:
    """Give the address under which the answer to an update is recorded, as number 0."""
    return address(f"answer/{name}", update_id.encode())


def answer_key(name: str, update_id: str) -> str:
    """Give the key of that answer, by which the update is known in its run's mailbox too."""
    return f"{answer_address(name, update_id)}#0"


def question(question_id: str, payload: bytes) -> bytes:
    """Give the stored form of a question."""
    return question_id.encode() + b"\n" + payload


def read_question(raw: bytes) -> tuple[str, bytes]:
    """Read the stored form of a question: its id, and its arguments."""
    question_id, _, payload = raw.partition(b"\n")
    return question_id.decode(errors="replace"), payload


def answer(question_id: str, kind: str, payload: bytes) -> bytes:
    """Give an answer as it is told."""
    return b"%b\n%b%b" % (question_id.encode(), kind.encode(), payload)


def read_answer(raw: bytes, question_id: str) -> tuple[str, bytes] | None:
    """Read an answer; None where it is one to another question."""
    mine = question_id.encode() + b"\n"
    if not raw.startswith(mine):
        return None
    rest = raw[len(mine) :]
    return rest[:1].decode(), rest[1:]


def unknown(kind: str, name: str, known: list[str]) -> bytes:
    """Say that there is nothing of this name."""
    names = ", ".join(known) or "none"
    return f"its code has no {kind} {name!r}; it has: {names}".encode()


def unfit(error: DataError) -> bytes:
    """Say what is wrong with the arguments."""
    return str(error).encode("utf-8", "backslashreplace")
