"""What reaches a run from outside: messages in its mailbox, and the end of its sleeps."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from aiki.errors import InvalidTransition, LimitExceeded, NotFound, StoreRefused
from aiki.records import Ownership
from aiki.store.batch import Link
from aiki.store.connection import Command
from aiki.store.keys import new_token
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import PLAIN, Seals, bound_to

MAX_UNREAD = 1_000
MAX_UNREAD_BYTES = 16 * 1024 * 1024
# An id that nobody chose is only there for what is sent again at once; a start may be for an hour.
REMEMBERED_MS = 2 * 3600 * 1000
FULL_PAUSE = 1.0  # between two tries of a run to send while memory is full
QUERY_MS = 60 * 1000  # one that is asked twice does no harm

_POST = SCRIPTS["post_message"].sha
_ASK = SCRIPTS["ask_run"].sha
_ANSWER = SCRIPTS["answer_unrecorded"].sha
_WAKE = SCRIPTS["wake_up"].sha


class Mailbox:
    """What may be sent to the runs of one partition."""

    def __init__(self, link: Link, base: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._base = base
        self._seals = seals

    async def post(
        self,
        run_id: str,
        topic: str,
        payload: bytes,
        *,
        message_id: str | None,
        timeout: float | None,
        secret: tuple[str, str] | None = None,
    ) -> None:
        """Put a message into a run's mailbox, once for each message id while the run is kept.

        `secret` is the key of a recorded entry and what that must hold.

        Without a `timeout` it is sent again until there is an answer, and room in the store.

        Raises:
            NotFound: there is no such run, or nothing there that has this secret.
            InvalidTransition: the run is over.
            LimitExceeded: too much lies there unread.
        """
        command = (
            "EVALSHA", _POST, "1", self._base, run_id, message_id or new_token(),
            str(REMEMBERED_MS) if message_id is None else "",
            self._seals.message(run_id, topic, payload),
            str(MAX_UNREAD), str(MAX_UNREAD_BYTES), *(secret or ()),
        )  # fmt: skip
        if timeout is None:
            word, *rest = await self._send_in_the_end(command)
        else:
            word, *rest = await self._link.send_within(command, timeout)
        if word == b"NONE" and secret is not None:
            raise NotFound(f"run {run_id} waits for nothing that this token resolves")
        _check(run_id, word, rest)

    async def _send_in_the_end(self, command: Command) -> Any:
        """Send what a run waits for: full memory, which refuses a client, is waited out."""
        while True:
            try:
                return await self._link.send(command)
            except StoreRefused as refusal:
                if not refusal.args[0].startswith(f"{self._link.address.described}: OOM "):
                    raise
            await asyncio.sleep(FULL_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def ask(
        self,
        run_id: str,
        topic: str,
        payload: bytes,
        *,
        answer_key: str,
        timeout: float,
    ) -> bytes | None:
        """Put a question into a run's mailbox; the recorded answer, where an update has one.

        `answer_key` is the key under which the answer to an update is recorded, and '' for a query.

        Raises:
            NotFound: there is no such run.
            InvalidTransition: the run is over, or nobody will answer as it is.
            LimitExceeded: too much lies there unread.
            UnknownKey, Tampered: the recorded answer cannot be opened.
        """
        command = (
            "EVALSHA", _ASK, "1", self._base, run_id, new_token(),
            str(REMEMBERED_MS if answer_key else QUERY_MS),
            self._seals.question(run_id, topic, payload), str(MAX_UNREAD), str(MAX_UNREAD_BYTES),
            answer_key,
        )  # fmt: skip
        word, *rest = await self._link.send_within(command, timeout)
        if word == b"HELD":
            status, reason = (part.decode(errors="replace") for part in rest)
            reason = self._seals.shown_reason(reason, run_id)
            why = f": {reason}" if reason else ""
            raise InvalidTransition(f"run {run_id} is {status} and cannot be asked{why}")
        _check(run_id, word, rest)
        if word != b"DONE":
            return None
        seed = await self._link.send_within(("HGET", f"{self._base}run:{run_id}", "seed"), timeout)
        answer: bytes = rest[0]
        return self._seals.opened_raw(bound_to(run_id, seed), answer_key, answer)

    async def answer_unrecorded(
        self, owner: Ownership, number: int, forget: str, answer: bytes
    ) -> int | bytes:
        """Take a question out of the mailbox and answer it: flags or FENCED.

        `forget` is the key of an update's answer, where it may be sent again.
        """
        if self._seals.is_on:
            answer = self._seals.answer(owner.run_id, answer)
        reply: int | bytes = await self._link.send((
            "EVALSHA", _ANSWER, "1", self._base, owner.run_id, owner.token, str(number), forget,
            answer,
        ))  # fmt: skip
        return reply

    def opened_answer(self, run_id: str, told: bytes) -> bytes:
        """Give an answer by the form in which it was told. Raises `UnknownKey` and `Tampered`."""
        return self._seals.opened_answer(run_id, told)

    async def wake_up(self, run_id: str, *, timeout: float) -> None:
        """End the sleeps that a run is in.

        Raises:
            NotFound: there is no such run.
            InvalidTransition: the run is where no sleep can be.
        """
        command = ("EVALSHA", _WAKE, "1", self._base, run_id, new_token(), str(REMEMBERED_MS))
        word, *rest = await self._link.send_within(command, timeout)
        if word == b"NONE":
            raise NotFound(f"there is no run {run_id!r}; it never existed, or its retention ended")
        if word == b"OVER":
            raise InvalidTransition(f"run {run_id} is {rest[0].decode()}: it cannot be woken up")


def _check(run_id: str, word: bytes, rest: list[Any]) -> None:
    """Raise what the word of a script that puts something into a mailbox says."""
    if word == b"NONE":
        raise NotFound(f"there is no run {run_id!r}; it never existed, or its retention ended")
    if word == b"OVER":
        raise InvalidTransition(
            f"run {run_id} is {rest[0].decode()} and takes no message any more; nothing was stored"
        )
    if word == b"FULL":
        raise LimitExceeded(
            f"the mailbox of run {run_id} is full: {rest[0]:,} messages of {rest[1]:,} bytes "
            f"are unread, of at most {MAX_UNREAD:,} and {MAX_UNREAD_BYTES >> 20} MiB; nothing "
            "was stored; send it again once the run has read some"
        )
