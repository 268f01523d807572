"""What may happen to a run: its statuses and every legal move between them.

Theory. A run is *wanted* (queued), *owned* (running), *waiting* for something in the store
(scheduled, awaiting_retry, sleeping, awaiting_event, awaiting_child), *held* by a person (paused)
or until somebody repairs it (stalled), or *over* (completed, failed, cancelled). Only four kinds of
event move it: its owner's own word (claim, release, park, stall, try again, continue, finish), the
death of its owner (recover), time or a message (wake, a deadline, nobody who serves it for long)
and a person or a schedule (cancel, terminate, pause, resume, retry). A run that is over never moves
again, unless it has failed and a person lets it go on; and an event without a row here is refused
by the script that would make it.

A cancel ends a run at once only where no handler will clean up: it was never claimed, it is
stalled, or no worker serves its version. Elsewhere it wakes the run or tells its owner, and the
move is the handler's own finish. Where a run would be held although a cancel is wanted that its
handler has not seen, it ends instead: whichever of the two came first, the result is the same.

A pause is a wish that is kept in the record: wherever a run would become queued while it is wanted,
it becomes paused. A cancel ends the wish, so who cleans up is not kept waiting, and a run that is
asked to end cannot be paused. To terminate a run is to end it at once, wherever it is: its handler
is not asked, and its owner, fenced, writes nothing more.

A deadline to finish does what a cancel does, with its own reason. One to start ends a run that was
never claimed, wherever it is, and is nothing to any other.

To terminate a run is to end it at once, wherever it is: its handler is not asked, and its owner,
fenced, writes nothing more.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Status(StrEnum):
    """Where a run is."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    AWAITING_RETRY = "awaiting_retry"
    SLEEPING = "sleeping"
    AWAITING_EVENT = "awaiting_event"
    AWAITING_CHILD = "awaiting_child"
    PAUSED = "paused"
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
    PARK = "park"  # behind a step that will be tried again
    PARK_ASLEEP = "park_asleep"
    PARK_FOR_EVENT = "park_for_event"
    PARK_FOR_CHILD = "park_for_child"
    WAKE = "wake"
    STALL = "stall"
    COMPLETE = "complete"
    FAIL = "fail"
    ACKNOWLEDGE_CANCEL = "acknowledge_cancel"
    CANCEL = "cancel"
    CANCEL_UNSERVED = "cancel_unserved"  # never claimed, or by a version nobody serves
    TERMINATE = "terminate"
    HOLD_CANCELLED = "hold_cancelled"  # it would be held, while a cancel is wanted
    UNSERVED = "unserved"  # nobody has served its version and pool for long
    NOT_STARTED = "not_started"  # by its deadline to start: it was never claimed
    NOT_FINISHED = "not_finished"  # by its deadline to finish
    PAUSE = "pause"
    RELEASE_PAUSED = "release_paused"  # handed back while a pause is wanted
    RECOVER_PAUSED = "recover_paused"
    RESUME = "resume"
    TRY_LATER = "try_later"  # its handler failed, and has another attempt
    TRY_CANCELLED = "try_cancelled"  # the same, while a cancel is wanted
    TRY_PAUSED = "try_paused"  # the same, while a pause is wanted
    CONTINUE = "continue"  # with a fresh journal
    CONTINUE_PAUSED = "continue_paused"
    RETRY = "retry"


FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

WAITING: Final = frozenset(
    {Status.AWAITING_RETRY, Status.SLEEPING, Status.AWAITING_EVENT, Status.AWAITING_CHILD}
)

MOVES: Final = MappingProxyType(
    {
        (Status.SCHEDULED, Reason.WAKE): Status.QUEUED,
        (Status.SCHEDULED, Reason.CANCEL): Status.CANCELLED,
        (Status.SCHEDULED, Reason.CANCEL_UNSERVED): Status.CANCELLED,
        (Status.SCHEDULED, Reason.NOT_STARTED): Status.CANCELLED,
        (Status.SCHEDULED, Reason.NOT_FINISHED): Status.CANCELLED,
        (Status.QUEUED, Reason.CLAIM): Status.RUNNING,
        (Status.QUEUED, Reason.CANCEL): Status.QUEUED,
        (Status.QUEUED, Reason.CANCEL_UNSERVED): Status.CANCELLED,
        (Status.QUEUED, Reason.UNSERVED): Status.STALLED,
        (Status.QUEUED, Reason.HOLD_CANCELLED): Status.CANCELLED,
        (Status.QUEUED, Reason.NOT_STARTED): Status.CANCELLED,
        (Status.QUEUED, Reason.NOT_FINISHED): Status.QUEUED,
        (Status.RUNNING, Reason.RELEASE): Status.QUEUED,
        (Status.RUNNING, Reason.RECOVER): Status.QUEUED,
        (Status.RUNNING, Reason.DEATHS): Status.STALLED,
        (Status.RUNNING, Reason.PARK): Status.AWAITING_RETRY,
        (Status.RUNNING, Reason.PARK_ASLEEP): Status.SLEEPING,
        (Status.RUNNING, Reason.PARK_FOR_EVENT): Status.AWAITING_EVENT,
        (Status.RUNNING, Reason.PARK_FOR_CHILD): Status.AWAITING_CHILD,
        (Status.RUNNING, Reason.STALL): Status.STALLED,
        (Status.RUNNING, Reason.COMPLETE): Status.COMPLETED,
        (Status.RUNNING, Reason.FAIL): Status.FAILED,
        (Status.RUNNING, Reason.ACKNOWLEDGE_CANCEL): Status.CANCELLED,
        (Status.RUNNING, Reason.CANCEL): Status.RUNNING,
        (Status.RUNNING, Reason.HOLD_CANCELLED): Status.CANCELLED,
        (Status.RUNNING, Reason.NOT_FINISHED): Status.RUNNING,
        (Status.STALLED, Reason.CANCEL): Status.CANCELLED,
        (Status.STALLED, Reason.NOT_STARTED): Status.CANCELLED,
        (Status.STALLED, Reason.NOT_FINISHED): Status.CANCELLED,
        (Status.QUEUED, Reason.PAUSE): Status.PAUSED,
        (Status.RUNNING, Reason.PAUSE): Status.RUNNING,
        (Status.RUNNING, Reason.RELEASE_PAUSED): Status.PAUSED,
        (Status.RUNNING, Reason.RECOVER_PAUSED): Status.PAUSED,
        (Status.PAUSED, Reason.RESUME): Status.QUEUED,
        (Status.PAUSED, Reason.CANCEL): Status.QUEUED,
        (Status.PAUSED, Reason.CANCEL_UNSERVED): Status.CANCELLED,
        (Status.PAUSED, Reason.NOT_STARTED): Status.CANCELLED,
        (Status.PAUSED, Reason.NOT_FINISHED): Status.QUEUED,
        (Status.STALLED, Reason.RESUME): Status.QUEUED,
        (Status.RUNNING, Reason.TRY_LATER): Status.AWAITING_RETRY,
        (Status.RUNNING, Reason.TRY_CANCELLED): Status.QUEUED,
        (Status.RUNNING, Reason.TRY_PAUSED): Status.PAUSED,
        (Status.RUNNING, Reason.CONTINUE): Status.QUEUED,
        (Status.RUNNING, Reason.CONTINUE_PAUSED): Status.PAUSED,
        (Status.FAILED, Reason.RETRY): Status.QUEUED,
    }
    | {(waiting, Reason.PAUSE): Status.PAUSED for waiting in WAITING}
    | {(waiting, Reason.WAKE): Status.QUEUED for waiting in WAITING}
    | {(waiting, Reason.CANCEL): Status.QUEUED for waiting in WAITING}
    | {(waiting, Reason.NOT_FINISHED): Status.QUEUED for waiting in WAITING}
    | {(waiting, Reason.CANCEL_UNSERVED): Status.CANCELLED for waiting in WAITING}
    | {(status, Reason.TERMINATE): Status.CANCELLED for status in Status if status not in FINAL}
)
