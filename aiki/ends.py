"""What the end of a child is to its parent: a result, or the exception that stands for it."""

from __future__ import annotations

from typing import Any

from aiki.codec import Codec
from aiki.errors import AikiError, LimitExceeded, RunCancelled, RunFailed
from aiki.failures import failure_from_exception, failure_from_json, failure_to_json
from aiki.states import Status


def outcome(child_id: str, result: Codec, status: Status, payload: bytes) -> Any:
    """Give a child's result, or the exception that stands for its end.

    Raises:
        DataError: what is stored is not what the code says.
    """
    if status is Status.COMPLETED:
        return result.decode(payload)
    if status is Status.CANCELLED:
        reason = payload.decode(errors="replace")
        told = f": {reason}" if reason else ""
        return RunCancelled(f"run {child_id} was cancelled{told}", run_id=child_id, reason=reason)
    failure = failure_from_json(payload)
    return RunFailed(
        f"run {child_id} failed: {failure.type}: {failure.message}",
        run_id=child_id,
        failure=failure,
    )


def stored_error(error: AikiError) -> bytes:
    """Give the stored form of what a map has failed with."""
    return failure_to_json(failure_from_exception(error))


def read_error(stored: bytes) -> AikiError:
    """Give what a map has failed with.

    Raises:
        DataError: it cannot be read.
    """
    failure = failure_from_json(stored)
    kind = failure.type.rpartition(".")[2]
    words = failure.message.split(" ", 2)
    if len(words) > 1 and failure.cause is not None:
        return RunFailed(failure.message, run_id=words[1], failure=failure.cause)
    if len(words) > 1 and kind == RunCancelled.__name__:
        reason = failure.message.partition(": ")[2]
        return RunCancelled(failure.message, run_id=words[1], reason=reason)
    return (LimitExceeded if kind == LimitExceeded.__name__ else AikiError)(failure.message)


def refused(child_id: str, answer: list[Any]) -> str:
    """Say why a child's end could not be taken, by what the store answered."""
    match answer:
        case [b"LARGE", size]:
            return (
                f"The result of child {child_id} has {int(size):,} bytes, which are more than the "
                "run may still hold. Store large data elsewhere and return where it is."
            )
        case [b"GONE"]:
            return f"Child {child_id} is not there any more: its record was removed by hand."
        case _:
            return f"Child {child_id} was told to be over, and is not."
