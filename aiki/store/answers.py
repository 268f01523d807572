"""What scripts answer about what was asked for, as the errors of whoever asked."""

from __future__ import annotations

from aiki.errors import InvalidTransition, NotFound, StoreReplaced


def found(run_id: str, word: bytes) -> bytes:
    """Give a script's word; raise `NotFound` where it says that there is no such run."""
    if word == b"NONE":
        raise NotFound(f"there is no run {run_id!r}; it never existed, or it is not kept any more")
    return word


def refusal(run_id: str, status: bytes, to: str, hint: str) -> InvalidTransition:
    """Say from where to where a run cannot go, and what there is to do instead."""
    return InvalidTransition(f"run {run_id} cannot go from {status.decode()} to {to}; {hint}")


def torn(number: int, where: str) -> StoreReplaced:
    """Say that a partition is not of the store that the first one is of."""
    return StoreReplaced(
        f"partition {number} of {where} is not of the store that its first partition is of: one of "
        "the two was flushed, restored or replaced. Restore what is missing, or use another "
        "namespace"
    )


def replaced(where: str) -> StoreReplaced:
    """Say that a store has another identity than it had."""
    return StoreReplaced(
        f"{where} is not the store it was when this client connected: it was flushed, restored or "
        "replaced; connect anew if that is meant"
    )
