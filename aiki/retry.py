"""Retry policies: whether a failed attempt is followed by another, and after what delay.

A policy is data and decides from its arguments alone. Attempts and elapsed time are
counted by the caller, durably, so that a crash neither resets nor charges them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aiki.durations import Seconds, seconds
from aiki.errors import (
    LONGEST_SECONDS,
    DataError,
    DefinitionError,
    LimitExceeded,
    NonRetryable,
    RetryAfter,
)

logger = logging.getLogger("aiki.retry")

Predicate: TypeAlias = Callable[[BaseException], bool]

# Trying again would give the same: the task says so, or what it returned or was defined
# as is not storable.
_FINAL = (NonRetryable, DataError, LimitExceeded, DefinitionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a task is tried again; made by `never`, `fixed`, `exponential` or `jittered`.

    The delay after attempt n is `base_delay * factor ** (n - 1)`, lengthened at random by up
    to `jitter` times itself, and at most `max_delay`. All durations in seconds.
    """

    max_attempts: int
    base_delay: float = 0.0
    factor: float = 1.0
    max_delay: float | None = None
    jitter: float = 0.0
    max_duration: float | None = None
    retry_if: Predicate | None = None

    def __post_init__(self) -> None:
        attempts: object = self.max_attempts
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise DefinitionError(
                f"max_attempts is an int of at least 1, the first attempt, not {attempts!r}"
            )
        _check_number("factor", self.factor, at_least=1, at_most=1000)
        _check_number("jitter", self.jitter, at_least=0, at_most=1)
        predicate: object = self.retry_if
        if predicate is not None and (
            not callable(predicate) or inspect.iscoroutinefunction(predicate)
        ):
            raise DefinitionError(
                "retry_if is a plain function that takes the exception and returns a bool, "
                f"not {predicate!r}"
            )

    def next_delay(
        self, attempt: int, elapsed: float, error: BaseException, rand: float
    ) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up.

        `attempt` is its number, from 1; `elapsed` the seconds since the first one began;
        `rand` a random number from 0 to 1. `RetryAfter` brings its own delay, and is not
        put to `retry_if`.
        """
        if attempt >= self.max_attempts or isinstance(error, _FINAL):
            return None
        if isinstance(error, RetryAfter):
            delay = error.delay
        elif self._accepts(error):
            delay = self._delay(attempt, rand)
        else:
            return None
        if self.max_duration is not None and elapsed + delay > self.max_duration:
            return None
        return delay

    def _delay(self, attempt: int, rand: float) -> float:
        longest = LONGEST_SECONDS if self.max_delay is None else self.max_delay
        try:
            delay = self.base_delay * self.factor ** (attempt - 1) * (1 + self.jitter * rand)
        except OverflowError:
            return longest
        return min(delay, longest)

    def _accepts(self, error: BaseException) -> bool:
        if self.retry_if is None:
            return True
        try:
            return bool(self.retry_if(error))
        except Exception:
            # The task's own failure must not be hidden by that of the predicate.
            logger.exception("retry_if failed for %s: the task is not retried", type(error))
            return False


def never() -> RetryPolicy:
    """Try once."""
    return RetryPolicy(max_attempts=1)


def fixed(
    max_attempts: int,
    delay: Seconds,
    *,
    max_duration: Seconds | None = None,
    retry_if: Predicate | None = None,
) -> RetryPolicy:
    """Try up to `max_attempts` times in all, with the same delay between them.

    With `max_duration`, no attempt starts later than that after the first one did.
    `retry_if` is asked about each exception.
    """
    return RetryPolicy(
        max_attempts=max_attempts,
        base_delay=seconds(delay, what="delay"),
        max_duration=_optional(max_duration, "max_duration"),
        retry_if=retry_if,
    )


def exponential(
    max_attempts: int,
    base_delay: Seconds,
    factor: float = 2,
    max_delay: Seconds | None = None,
    *,
    max_duration: Seconds | None = None,
    retry_if: Predicate | None = None,
) -> RetryPolicy:
    """Try up to `max_attempts` times in all, each delay `factor` times the one before.

    For the other options see `fixed`.
    """
    return jittered(
        max_attempts,
        base_delay,
        factor,
        max_delay,
        jitter=0,
        max_duration=max_duration,
        retry_if=retry_if,
    )


def jittered(
    max_attempts: int,
    base_delay: Seconds,
    factor: float = 2,
    max_delay: Seconds | None = None,
    jitter: float = 0.5,
    *,
    max_duration: Seconds | None = None,
    retry_if: Predicate | None = None,
) -> RetryPolicy:
    """Try as `exponential` does, with each delay up to `jitter` times itself longer.

    So what failed together is not tried again together. Never shorter, and `max_delay`
    includes the random part.
    """
    return RetryPolicy(
        max_attempts=max_attempts,
        base_delay=seconds(base_delay, what="base_delay"),
        factor=factor,
        max_delay=_optional(max_delay, "max_delay"),
        jitter=jitter,
        max_duration=_optional(max_duration, "max_duration"),
        retry_if=retry_if,
    )


def checked_retry(retry: object, where: str) -> RetryPolicy:
    """Give a policy; raise `DefinitionError` for anything else that was given for one."""
    if not isinstance(retry, RetryPolicy):
        raise DefinitionError(
            f"{where}: retry is a policy, such as fixed(max_attempts=3, delay=1), not "
            f"{type(retry).__qualname__}"
        )
    return retry


def _optional(value: Seconds | None, what: str) -> float | None:
    return None if value is None else seconds(value, what=what)


def _check_number(what: str, value: object, *, at_least: float, at_most: float) -> None:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not at_least <= value <= at_most  # NaN is refused here as well
    ):
        raise DefinitionError(f"{what} is a number from {at_least:g} to {at_most:g}, not {value!r}")
