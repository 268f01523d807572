"""A start with its input and options, before it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from aiki.codec import Codec
from aiki.options import packed

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Options of a start, beside its input."""

    pool: str = "default"
    idempotency_key: str | None = None
    on_conflict: Literal["error", "return_existing"] = "error"
    on_parent_close: Literal["cancel", "abandon", "wait"] = "cancel"
    at: str = ""
    """When it is to start, and its deadlines, as they are sent: see `aiki.options`."""
    start_by: str = ""
    finish_by: str = ""
    tags: tuple[str, ...] = ()
    memo: bytes = b""

    def packed(self) -> str:
        """Write what few starts have as the store reads it; mostly that is nothing."""
        if self.at or self.start_by or self.finish_by or self.tags or self.memo:
            return packed(
                at=self.at,
                start_by=self.start_by,
                finish_by=self.finish_by,
                tags=self.tags,
                memo=self.memo,
            )
        return ""


@dataclass(frozen=True, slots=True)
class Call(Generic[R_co]):
    """A start with its input, ready to be sent. Made by `bind`."""

    workflow: str
    version: str
    payload: bytes
    result: Codec
    options: StartOptions


@dataclass(frozen=True, slots=True)
class PlainCall(Call[R_co]):
    """A start without options about one run, so that it may be made many times."""
