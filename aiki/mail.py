"""Messages that came for a run, and the operations that wait for them, first come, first served."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable

from aiki.asked import QUERY, UPDATE
from aiki.records import Message


class Mail:
    """What is in a run's mailbox and was not handed to anybody here."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages: defaultdict[str, deque[Message]] = defaultdict(deque)
        self._waiters: defaultdict[str, deque[asyncio.Future[Message]]] = defaultdict(deque)
        self.arrived(messages)

    def arrived(self, messages: Iterable[Message]) -> None:
        """Take in messages, in the order in which they came."""
        for message in messages:
            topic = box(message.topic)
            self._messages[topic].append(message)
            self._hand_out(topic)

    def next(self, topic: str) -> asyncio.Future[Message]:
        """Give the future of the next message on a topic; cancel it to wait no more."""
        future: asyncio.Future[Message] = self._loop.create_future()
        self._waiters[topic].append(future)
        self._hand_out(topic)
        return future

    def take(self, topic: str) -> Message | None:
        """Give the next message on a topic, if there is one."""
        messages = self._messages[topic]
        return messages.popleft() if messages else None

    def put_back(self, message: Message) -> None:
        """Take back a message that was handed out and not consumed, to its place in the order."""
        topic = box(message.topic)
        later = self._messages[topic]
        earlier: list[Message] = []
        while later and later[0].number < message.number:
            earlier.append(later.popleft())
        later.extendleft([message, *reversed(earlier)])
        self._hand_out(topic)

    def _hand_out(self, topic: str) -> None:
        messages, waiters = self._messages[topic], self._waiters[topic]
        while messages and waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(messages.popleft())


def box(topic: str) -> str:
    """Give what a topic is kept under: all queries together, and all updates, in their order."""
    kind = topic.partition("/")[0]
    return kind if kind in (QUERY, UPDATE) else topic


def is_asked(messages: Iterable[Message]) -> bool:
    """Tell whether any of them wants an answer."""
    return any(box(message.topic) in (QUERY, UPDATE) for message in messages)
