"""Topics: the streams of chunks that a run publishes while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from aiki.codec import Codec
from aiki.definition import caller
from aiki.names import checked_name

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Topic(Generic[T]):
    """A name and the type of the chunks that are published under it. Made by `topic`."""

    def __init__(self, name: str, chunk: object, place: str) -> None:
        self.name = checked_name(name, f"topic ({place})")
        self.codec = Codec(chunk, f"chunk of topic {self.name} ({place})")

    def __repr__(self) -> str:
        return f"<topic {self.name}>"


def topic(name: str, chunk: type[T]) -> Topic[T]:
    """Define a topic by its name and the type of its chunks, which are stored as JSON by it.

    A handler publishes by `run.publish(topic, chunk)`, a task by
    `aiki.current_step().publish(topic, chunk)`; `handle.stream(topic)` reads. Raises
    `DefinitionError` for a bad name, and for a type that has no stored form.
    """
    kind: Any = chunk
    return Topic(name, kind, caller())


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T_co]):
    """One chunk of a stream."""

    offset: int
    """Its place in the stream, from 0; `from_offset` one higher goes on behind it."""
    data: T_co
    step: str
    """The key of the step whose task published it; empty for the handler."""
    attempt: int
    """Of that step, from 1. A crash of the worker does not count one."""
    number: int
    """Its place, from 0, among what one execution of the step has published under the topic. So 0
    says that it begins anew: what an earlier execution published was never completed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, by its own account."""

    done: float
    total: float | None
    at: datetime
