"""Asking a run: sent into its mailbox, answered on its channel, asked again where that is lost."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from aiki.asked import ANSWER, FAILURE, UNFIT, UNKNOWN, question, read_answer
from aiki.completion import Completions
from aiki.errors import AskFailed, DataError, NotFound, Rejected
from aiki.failures import failure_from_json
from aiki.hints import Heard, Hints
from aiki.records import Entry
from aiki.store.keys import new_token
from aiki.store.mailbox import Mailbox

ASK_AGAIN = 5.0  # seconds; what holds the run meanwhile is heard of then


class Question:
    """One query or update on its way to a run and back."""

    def __init__(
        self, run_id: str, topic: str, payload: bytes, update_id: str | None, answer_key: str
    ) -> None:
        self._run_id = run_id
        self._topic = topic
        self._id = update_id or new_token()
        self._answer_key = answer_key
        self._message = question(self._id, payload)

    async def ask(
        self, mailbox: Mailbox, hints: Hints, completions: Completions, *, timeout: float
    ) -> bytes:
        """Ask until there is an answer, and give it as it is stored.

        Raises:
            NotFound: there is no such run, or its code has nothing of this name.
            InvalidTransition: the run is over, or held.
            DataError: the run's code does not take these arguments.
            Rejected: the update was refused by its validator.
            AskFailed: the code that was to answer has failed.
            LimitExceeded: too much lies unread in its mailbox.
        """
        over: asyncio.Future[Any] | None = None
        try:
            async with hints.about(self._run_id) as heard:
                while True:
                    entry = await mailbox.ask(
                        self._run_id,
                        self._topic,
                        self._message,
                        answer_key=self._answer_key,
                        timeout=timeout,
                    )
                    if entry is not None:
                        return self._recorded(Entry.parse(entry))
                    if over is None:
                        over = asyncio.ensure_future(completions.wait(self._run_id))
                        over.add_done_callback(lambda _: heard.ask_again())
                    found = await self._hear(mailbox, heard)
                    if found is not None:
                        return self._answer(*found)
        finally:
            if over is not None and not over.cancel() and not over.cancelled():
                over.exception()  # whatever it is, the next question meets it

    async def _hear(self, mailbox: Mailbox, heard: Heard) -> tuple[str, bytes] | None:
        """Wait for the answer; None where it is to be asked for again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ASK_AGAIN
        while not heard.is_to_ask and loop.time() < until:
            await heard.wait(until - loop.time())
            messages, heard.messages = heard.messages, []
            for message in messages:
                if read_answer(message, self._id) is not None:
                    return read_answer(mailbox.opened_answer(self._run_id, message), self._id)
        heard.is_to_ask = False
        return None

    def _recorded(self, entry: Entry) -> bytes:
        return self._answer(entry.kind.value, entry.payload)

    def _answer(self, kind: str, payload: bytes) -> bytes:
        if kind != ANSWER:
            self._refuse(kind, payload)
        return payload

    def _refuse(self, kind: str, payload: bytes) -> NoReturn:
        what = f"{self._topic.replace('/', ' ', 1)} of run {self._run_id}"
        if kind == FAILURE:
            failure = failure_from_json(payload)
            told = f"{what} failed: {failure.type}: {failure.message}"
            raise AskFailed(told, run_id=self._run_id, failure=failure)
        told = payload.decode(errors="replace")
        if kind == UNKNOWN:
            raise NotFound(f"run {self._run_id} cannot be asked: {told}")
        if kind == UNFIT:
            raise DataError(f"run {self._run_id} does not take this: {told}")
        raise Rejected(told)
