"""What may happen to a run: its statuses and every legal move between them.

Theory. A run is *wanted* (queued), *owned* (running), *waiting* for something in the store
(awaiting_retry), *held* until somebody repairs it (stalled) or *over* (completed, failed,
cancelled). Only four kinds of event move it: its owner's own word (claim, release, park,
stall, finish), the death of its owner (recover), time (wake) and a person or a schedule
(cancel, terminate). A run that is over never moves again, and an event without a row here is
refused by the script that would make it.

A cancel ends a run at once only where no handler will clean up: it was never claimed, it is
stalled, or no worker serves its version. Elsewhere it wakes the run or tells its owner, and the
move is the handler's own finish. Where a run would be held although a cancel is wanted that its
handler has not seen, it ends instead: whichever of the two came first, the result is the same.

To terminate a run is to end it at once, wherever it is: its handler is not asked, and its owner,
fenced, writes nothing more.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Status(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_RETRY = "awaiting_retry"
    STALLED = "stalled"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the run is over and will never move again."""
        return self in FINAL


class Reason(StrEnum):
    """Why a run moves."""

    CLAIM = "claim"
    RELEASE = "release"
    RECOVER = "recover"
    DEATHS = "deaths"
    PARK = "park"
    WAKE = "wake"
    STALL = "stall"
    COMPLETE = "complete"
    FAIL = "fail"
    ACKNOWLEDGE_CANCEL = "acknowledge_cancel"
    CANCEL = "cancel"
    CANCEL_UNSERVED = "cancel_unserved"  # never claimed, or by a version nobody serves
    TERMINATE = "terminate"
    HOLD_CANCELLED = "hold_cancelled"  # a stall, or too many deaths, while a cancel is wanted


FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

MOVES: Final = MappingProxyType(
    {
        (Status.QUEUED, Reason.CLAIM): Status.RUNNING,
        (Status.QUEUED, Reason.CANCEL): Status.QUEUED,
        (Status.QUEUED, Reason.CANCEL_UNSERVED): Status.CANCELLED,
        (Status.RUNNING, Reason.RELEASE): Status.QUEUED,
        (Status.RUNNING, Reason.RECOVER): Status.QUEUED,
        (Status.RUNNING, Reason.DEATHS): Status.STALLED,
        (Status.RUNNING, Reason.PARK): Status.AWAITING_RETRY,
        (Status.RUNNING, Reason.STALL): Status.STALLED,
        (Status.RUNNING, Reason.COMPLETE): Status.COMPLETED,
        (Status.RUNNING, Reason.FAIL): Status.FAILED,
        (Status.RUNNING, Reason.ACKNOWLEDGE_CANCEL): Status.CANCELLED,
        (Status.RUNNING, Reason.CANCEL): Status.RUNNING,
        (Status.RUNNING, Reason.HOLD_CANCELLED): Status.CANCELLED,
        (Status.AWAITING_RETRY, Reason.WAKE): Status.QUEUED,
        (Status.AWAITING_RETRY, Reason.CANCEL): Status.QUEUED,
        (Status.AWAITING_RETRY, Reason.CANCEL_UNSERVED): Status.CANCELLED,
        (Status.STALLED, Reason.CANCEL): Status.CANCELLED,
        (Status.QUEUED, Reason.TERMINATE): Status.CANCELLED,
        (Status.RUNNING, Reason.TERMINATE): Status.CANCELLED,
        (Status.AWAITING_RETRY, Reason.TERMINATE): Status.CANCELLED,
        (Status.STALLED, Reason.TERMINATE): Status.CANCELLED,
    }
)
