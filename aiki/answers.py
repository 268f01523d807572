"""Answers to queries: given by a run's owner between two turns of its handler, and not recorded."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiki.asked import (
    ANSWER,
    FAILURE,
    QUERY,
    UNFIT,
    UNKNOWN,
    UPDATE,
    Asked,
    answer,
    answer_key,
    read_question,
    unfit,
    unknown,
)
from aiki.errors import DataError
from aiki.failures import failure_from_exception, failure_to_json
from aiki.mail import Mail
from aiki.records import Message, Ownership
from aiki.store.mailbox import Mailbox


class Answers:
    """Takes queries out of the mail, and updates where the code has none, once nothing is repeated.

    A query sees the run's state as it is, and answers at once. It is given no run, and executed
    outside of the handler's context, so that it can start, sleep and record nothing.
    """

    def __init__(
        self,
        owner: Ownership,
        asked: Mapping[str, Asked],
        mailbox: Mailbox,
        *,
        mail: Callable[[], Mail],
        state: Callable[[type[Any]], Any],
        is_ready: Callable[[], bool],
        written: Callable[[str, Awaitable[int | bytes]], Awaitable[bool]],
    ) -> None:
        self._owner = owner
        self._asked = asked
        self._mailbox = mailbox
        self._mail = mail
        self._state = state
        self._is_ready = is_ready
        self._written = written
        self._answering: asyncio.Task[None] | None = None
        self._boxes = [QUERY]
        if not any(each.kind == UPDATE for each in asked.values()):
            self._boxes.append(UPDATE)

    @property
    def is_busy(self) -> bool:
        """Whether something is being answered."""
        return self._answering is not None

    def look(self) -> None:
        """Answer what has come."""
        if self._answering is None:
            self._answering = asyncio.get_running_loop().create_task(self._answer_all())

    def stop(self) -> None:
        """Answer nothing more; what is left waits for the next owner."""
        if self._answering is not None:
            self._answering.cancel()

    async def _answer_all(self) -> None:
        await asyncio.sleep(0)  # the handler may be just about to begin
        is_heard = True
        while is_heard and self._is_ready() and (message := self._next()) is not None:
            kind, _, name = message.topic.partition("/")
            question_id, payload = read_question(message.payload)
            told = answer(question_id, *self._answer(kind, name, payload))
            forget = answer_key(name, question_id) if kind == UPDATE else ""
            sending = self._mailbox.answer_unrecorded(self._owner, message.number, forget, told)
            is_heard = await self._written(f"the answer to {message.topic}", sending)
        self._answering = None

    def _next(self) -> Message | None:
        found = (self._mail().take(box) for box in self._boxes)
        return next((message for message in found if message is not None), None)

    def _answer(self, kind: str, name: str, payload: bytes) -> tuple[str, bytes]:
        asked = self._asked.get(f"{kind}/{name}")
        if asked is None:
            known = [each.name for each in self._asked.values() if each.kind == kind]
            return UNKNOWN, unknown(kind, name, known)
        try:
            args, kwargs = asked.decode(payload)
        except DataError as error:
            return UNFIT, unfit(error)
        try:
            state = self._state(asked.state)
            # Of no context, so of no run
            value = contextvars.Context().run(asked.fn, state, *args, **kwargs)
            return ANSWER, asked.result.encode(value)[0]
        except Exception as error:  # noqa: BLE001 - it is the answer
            return FAILURE, failure_to_json(failure_from_exception(error))
