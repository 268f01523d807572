"""Steering runs: what a person does to one, and how an owner lets one go on in another way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiki.errors import InvalidTransition
from aiki.records import NextAttempt, Ownership
from aiki.states import Status
from aiki.store.answers import found, refusal, replaced
from aiki.store.batch import Link
from aiki.store.keys import new_run_id, partition_of
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import INPUT, PLAIN, Seals

# A start may be sent again for an hour; a run that was deleted must not be started by that.
TOMBSTONE_SECONDS = 2 * 3600
# Who asked for an update may have been cut off before the run began anew.
ANSWERS_KEPT_MS = 24 * 3600 * 1000

_PAUSE = SCRIPTS["pause_run"].sha
_RESUME = SCRIPTS["resume_run"].sha
_TERMINATE = SCRIPTS["terminate_run"].sha
_RETRY = SCRIPTS["retry_run"].sha
_FORK = SCRIPTS["fork_run"].sha
_DELETE = SCRIPTS["delete_run"].sha
_LATER = SCRIPTS["retry_later"].sha
_CONTINUE = SCRIPTS["continue_run"].sha


class Control:
    """What may be done to the runs of one partition. Each raises `NotFound` for a run that is not.

    What the status of the run does not allow raises `InvalidTransition`.
    """

    def __init__(self, link: Link, base: str, store_id: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._base = base
        self._store_id = store_id
        self._seals = seals

    async def pause(self, run_id: str, *, timeout: float) -> Status:
        """Have a run rest, and return the status it has now."""
        word, *rest = await self._ask(_PAUSE, run_id, timeout=timeout)
        if word == b"REFUSED":
            raise refusal(run_id, rest[0], "paused", "only a run that is under way can rest")
        if word == b"CANCELLING":
            raise InvalidTransition(
                f"run {run_id} is asked to end, and cannot be paused; it is over soon"
            )
        return Status(rest[0].decode())

    async def resume(self, run_id: str, *, timeout: float) -> Status:
        """Let a run go on that rests or is held, and return the status it has now."""
        word, *rest = await self._ask(_RESUME, run_id, timeout=timeout)
        if word == b"REFUSED":
            hint = "a failed run goes on with retry()" if rest[0] == b"failed" else "it is over"
            raise refusal(run_id, rest[0], "queued", hint)
        return Status(rest[0].decode())

    async def terminate(self, run_id: str, reason: str, *, timeout: float) -> Status:
        """End a run at once, without its handler, and return the status it has now."""
        command = ("EVALSHA", _TERMINATE, "1", self._base, run_id, reason)
        return Status(found(run_id, await self._link.send_within(command, timeout)).decode())

    async def retry(
        self,
        run_id: str,
        epoch: int,
        dropped: Sequence[str],
        loosened: Sequence[str],
        *,
        timeout: float,
    ) -> bool:
        """Let a failed run go on without these entries; False where it has failed anew since.

        `loosened` are entries that stay, and are given whenever they are asked for.
        """
        word, *rest = await self._ask(
            _RETRY, run_id, str(epoch), str(len(dropped)), *dropped, *loosened, timeout=timeout
        )
        if word == b"REFUSED":
            raise refusal(run_id, rest[0], "queued", "only a failed run can be retried")
        if word == b"TAKEN":
            raise InvalidTransition(
                f"run {run_id} cannot be retried while its parent, run {rest[0].decode()}, is at "
                "work: its failure is one of the results of run.map there; retry it when its "
                "parent is over, or fork it"
            )
        return bool(word != b"CHANGED")

    async def fork(
        self,
        run_id: str,
        origin: str,
        kept: Sequence[str],
        loosened: Sequence[str],
        *,
        new_id: str,
        timeout: float,
    ) -> bool:
        """Start a run with entries of another one; False where some are not there any more."""
        command = (
            "EVALSHA", _FORK, "1", self._base, self._store_id, new_id, run_id, origin,
            str(len(kept)), *kept, *loosened,
        )  # fmt: skip
        word = found(run_id, (await self._link.send_within(command, timeout))[0])
        if word == b"STORE":
            raise replaced(self._link.address.described)
        return word == b"OK"

    async def delete(self, run_id: str, *, timeout: float) -> None:
        """Remove a run that is over, at once."""
        seconds = str(TOMBSTONE_SECONDS)
        word, *rest = await self._ask(_DELETE, run_id, seconds, timeout=timeout)
        if word == b"REFUSED":
            raise refusal(run_id, rest[0], "deleted", "cancel or terminate it first")
        if word == b"AWAITED":
            raise InvalidTransition(
                f"run {run_id} cannot be deleted: its parent, run {rest[0].decode()}, has still to "
                "take its end"
            )

    # By its owner

    async def retry_later(self, owner: Ownership, attempt: NextAttempt) -> bytes:
        """Let a run wait for the next attempt of its handler: OK or FENCED."""
        reason = self._seals.reason(attempt.reason, owner.run_id)
        reply: bytes = await self._link.send((
            "EVALSHA", _LATER, "1", self._base, owner.run_id, owner.token, owner.incarnation,
            str(attempt.number), str(attempt.begun), str(attempt.delay_ms), reason,
            str(len(attempt.dropped)), *attempt.dropped, *attempt.loosened,
        ))  # fmt: skip
        return reply

    async def continue_run(self, owner: Ownership, payload: bytes) -> bytes:
        """Begin a run anew with another input: OK or FENCED.

        The answers of its updates so far are kept for a day.
        """
        if self._seals.is_on:
            payload = self._seals.payload(payload, owner.bound_to, INPUT)
        reply: bytes = await self._link.send((
            "EVALSHA", _CONTINUE, "1", self._base, owner.run_id, owner.token, owner.incarnation,
            payload, str(ANSWERS_KEPT_MS),
        ))  # fmt: skip
        return reply

    async def _ask(self, script: str, run_id: str, *arguments: str, timeout: float) -> Any:
        command = ("EVALSHA", script, "1", self._base, run_id, *arguments)
        reply = await self._link.send_within(command, timeout)
        found(run_id, reply[0])
        return reply


def beside(run_id: str) -> str:
    """Make an id for a run in the partition of another one."""
    return new_run_id(partition_of(run_id) or 0)
