"""Every exception of the library, one sentence each.

The type says whose fault it is: the caller's code (`DefinitionError`, `DataError`,
`ConfigError`), the run's (`TaskFailed`, `RunFailed`, `RunCancelled`) or the store's
(`StoreUnavailable`, `StoreRefused`). Nothing that steers a run is an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# Timers are stored in milliseconds and schedules beyond this are mistakes in a unit;
# ten years hold at most three leap days.
LONGEST_SECONDS = 3653 * 86400.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as it is stored: text only, bounded in size, never unpickled."""

    type: str
    """Qualified name of the exception's class, such as `ValueError` or `shop.OutOfStock`."""
    message: str
    traceback: str
    """As Python prints it, without the causes; empty if the exception was never raised."""
    cause: Failure | None = None


class AikiError(Exception):
    """Whatever the library raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is otherwise rebuilt as `type(self)(*self.args)`, which fails
        # for every subclass that takes keyword arguments.
        return _rebuilt, (type(self), self.args, self.__dict__)


class DefinitionError(AikiError):
    """A task, a workflow or one of their options is defined in a way that cannot work."""


class DataError(AikiError):
    """A value cannot be stored, or stored data cannot be read, as its annotation says."""

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        """Where in the value, such as `$.items[3].price`; `$` is the value itself."""

    def __str__(self) -> str:
        return self.message if self.path == "$" else f"{self.message} (at {self.path})"


class UnknownKey(DataError):
    """A stored payload is encrypted with a key that this process does not have."""

    def __init__(self, message: str, *, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class Tampered(DataError):
    """A sealed payload was changed, cut off, or moved from where it was written."""


class ConfigError(AikiError):
    """A setting of a client, a worker or a supervisor is wrong."""


class Conflict(AikiError):
    """The idempotency key or the schedule's name belongs to what was defined otherwise."""

    def __init__(self, message: str, *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id
        """The run that has the key; empty where it is about a schedule."""


class NotFound(AikiError):
    """There is no such run, schedule or question: it never existed, or has been removed."""


class InvalidTransition(AikiError):
    """The run's status does not allow what was asked."""


class LimitExceeded(AikiError):
    """A payload or a run is over one of the documented limits; nothing was written."""


class TaskFailed(AikiError):
    """A task has failed and is not tried again."""

    def __init__(self, message: str, *, task: str, attempts: int, failure: Failure) -> None:
        super().__init__(message)
        self.task = task
        self.attempts = attempts
        self.failure = failure


class RunFailed(AikiError):
    """The run that was waited for has failed."""

    def __init__(self, message: str, *, run_id: str, failure: Failure) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.failure = failure


class RunCancelled(AikiError):
    """The run that was waited for was cancelled."""

    def __init__(self, message: str, *, run_id: str, reason: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.reason = reason


class Rejected(AikiError):
    """What the run waits for was rejected by whoever was to decide it, or an update by the run."""


class AskFailed(AikiError):
    """The code of a query or an update has failed; the run that was asked goes on."""

    def __init__(self, message: str, *, run_id: str, failure: Failure) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.failure = failure


class StoreUnavailable(AikiError):
    """The store did not answer in time; what was asked may or may not have been done."""


class StoreRefused(AikiError):
    """The store answered, and did not do what was asked."""


class StoreReplaced(StoreRefused):
    """The store is not the one that it was: it was flushed, restored or replaced."""


class NonRetryable(AikiError):
    """Raised by a task to fail at once, whatever its retry policy says."""


class RetryAfter(AikiError):
    """Raised by a task to be tried again after a delay of its own choice.

    The delay, 0 seconds to 10 years, replaces the policy's; the policy's limits on
    attempts and duration still hold. Raises `DataError` for any other delay.
    """

    def __init__(self, delay: float | timedelta, message: str = "") -> None:
        wait: object = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if not isinstance(wait, int | float) or not 0 <= wait <= LONGEST_SECONDS:
            raise DataError(f"RetryAfter takes 0 seconds to 10 years, not {delay!r}")
        super().__init__(message or f"try again after {wait:g} s")
        self.delay = float(wait)


def _rebuilt(cls: type[AikiError], args: tuple[Any, ...], attributes: dict[str, Any]) -> AikiError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error
