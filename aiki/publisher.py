"""What an owner publishes of its run: chunks of streams, and how far it is.

Publishing waits for nothing, so it changes nothing of the order in which a handler's branches
meet. What is published gathers while a write is under way, and leaves in its order. All of it is
out before the result of the step, the end of the run or its leave is recorded.

A handler is repeated, and with it what it publishes. Its chunks of each topic are counted, in the
record too, and only those beyond the count are sent; another attempt counts anew. A task is not
repeated once its result is recorded; executed again before, it publishes again, and its chunks are
numbered from 0.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from aiki.errors import DataError, InvalidTransition, LimitExceeded
from aiki.records import Ownership, StreamNote
from aiki.store.streams import (
    AT_ONCE,
    MAX_BYTES,
    MAX_CHUNK,
    MAX_CHUNKS,
    MAX_STREAMS,
    StoredChunk,
    Streams,
)
from aiki.topic import Topic

PROGRESS_EVERY = 0.25  # seconds; who looks sees no more than that
MOST = 1e15  # beyond that, not every whole number is a float
BATCH_BYTES = 1024 * 1024  # from which on the next chunks wait for the next write

_NEW = StreamNote()


class _Pending(NamedTuple):
    """A chunk on its way, and what is to be noted of its stream with it."""

    topic: str
    note: StreamNote
    chunk: bytes | None  # None where the stream is only closed


class Publisher:
    """The streams of one run, and its progress, as their owner writes them.

    Tasks publish in any thread; everything else happens on the loop.
    """

    def __init__(
        self,
        owner: Ownership,
        streams: Streams,
        notes: Mapping[str, StreamNote],
        *,
        attempt: int,
        written: Callable[[str, Awaitable[int | bytes]], Awaitable[bool]],
        now_ms: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._owner = owner
        self._streams = streams
        self._attempt = attempt
        self._written: Callable[[str, Awaitable[int | bytes]], Awaitable[bool]] | None = written
        self._now_ms = now_ms
        self._loop = loop
        self._lock = threading.RLock()  # of what is counted, and of what is pending
        self._stored = dict(notes)
        self._notes = dict(notes)  # with what is pending
        self._count = sum(note.chunks for note in notes.values())
        self._size = sum(note.size for note in notes.values())
        self._published = self._count
        self._told: dict[str, int] = {}  # by the handler in this life, repeated or not
        self._closed: set[str] = set()  # likewise
        self._was_refused = False  # a chunk of the handler
        self._pending: deque[_Pending] = deque()
        self._progress: bytes | None = None
        self._progress_at = -PROGRESS_EVERY
        self._later: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._is_flushing = False
        self._is_woken = False

    def tell(self, topic: Topic[Any], chunk: Any) -> None:
        """Publish a chunk of the handler, unless it is repeated.

        Raises:
            DataError, LimitExceeded: it cannot be stored.
            InvalidTransition: the topic is closed.
        """
        data = _encoded(topic, chunk)
        if topic.name in self._closed:
            raise _closed(topic)
        number = self._told.get(topic.name, 0)
        if number >= self._notes.get(topic.name, _NEW).told:
            # Refused once, all that follows is refused too: a repetition sees the same.
            self._add(topic, StoredChunk("", self._attempt, number, data), is_told=True)
        self._told[topic.name] = number + 1

    def publish(
        self, topic: Topic[Any], chunk: Any, step: str, attempt: int, numbers: dict[str, int]
    ) -> None:
        """Publish a chunk of a task. `numbers` count those of one execution of it, by topic.

        Raises as `tell` does.
        """
        data = _encoded(topic, chunk)
        with self._lock:  # so that offsets and numbers have one order
            number = numbers.get(topic.name, 0)
            numbers[topic.name] = number + 1
            self._add(topic, StoredChunk(step, attempt, number, data), is_told=False)

    def close_topic(self, topic: Topic[Any]) -> None:
        """Let a stream end: nothing is published there any more."""
        self._closed.add(topic.name)
        with self._lock:
            note = self._notes.get(topic.name, _NEW)
            if note.is_closed:
                return
            self._check_streams(topic)
            note = self._notes[topic.name] = replace(note, is_closed=True)
            self._pending.append(_Pending(topic.name, note, None))
        self._send_soon()

    def reach(self, done: float, total: float | None, *, is_repeated: bool = False) -> None:
        """Note how far the run is, unless that is repeated.

        Of notes that come fast, only the last is written.

        Raises `DataError` for anything but numbers from 0.
        """
        for number in (done, total):
            if number is not None and not _is_amount(number):
                raise DataError(f"progress is told in numbers from 0, not {number!r:.100}")
        if is_repeated:
            return
        end = "" if total is None else repr(float(total))
        self._progress = f"{self._now_ms()} {float(done)!r} {end}".encode()
        self._send_soon()

    async def flush(self) -> None:
        """Wait until everything that was published is in the store, or can no longer get there."""
        self._is_flushing = True
        self._send()
        while (sending := self._sending) is not None and not sending.done():
            await asyncio.wait([sending])
        self._is_flushing = False

    def stop(self) -> None:
        """Publish nothing more, and let go of the run."""
        self._written = None
        for pending in (self._later, self._sending):
            if pending is not None:
                pending.cancel()

    def _add(self, topic: Topic[Any], chunk: StoredChunk, *, is_told: bool) -> None:
        stored = chunk.stored()
        with self._lock:
            note = self._notes.get(topic.name, _NEW)
            if note.is_closed and not is_told:
                raise _closed(topic)
            self._check_streams(topic)
            is_full = self._count >= MAX_CHUNKS or self._size + len(stored) > MAX_BYTES
            if is_full or (is_told and self._was_refused):
                self._was_refused = self._was_refused or is_told
                raise LimitExceeded(
                    f"run {self._owner.run_id} has published {self._count:,} chunks of "
                    f"{self._size:,} bytes, of at most {MAX_CHUNKS:,} and {MAX_BYTES >> 20} MiB in "
                    f"all; {topic!r} was not added to; publish less, or larger chunks"
                )
            self._count += 1
            self._size += len(stored)
            note = self._notes[topic.name] = StreamNote(
                note.told + is_told, note.chunks + 1, note.size + len(stored), note.is_closed
            )
            self._pending.append(_Pending(topic.name, note, stored))
        self._send_soon()

    def _check_streams(self, topic: Topic[Any]) -> None:
        if topic.name not in self._notes and len(self._notes) >= MAX_STREAMS:
            raise LimitExceeded(
                f"run {self._owner.run_id} publishes under {MAX_STREAMS} topics, the most a run "
                f"may have; {topic!r} is one too many"
            )

    def _send_soon(self) -> None:
        if self._sending is None and not self._is_woken:  # or what is pending will be found
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        """Begin to send, unless that is under way, or only a note waits for its time."""
        self._is_woken = False
        if self._sending is not None or self._written is None:
            return
        if self._pending or (self._progress is not None and self._is_progress_due()):
            self._sending = self._loop.create_task(self._send_all(self._written))
        elif self._progress is not None and self._later is None:
            due = self._progress_at + PROGRESS_EVERY
            self._later = self._loop.call_at(due, self._send_later)

    def _send_later(self) -> None:
        self._later = None
        self._send()

    def _is_progress_due(self) -> bool:
        return self._is_flushing or self._loop.time() >= self._progress_at + PROGRESS_EVERY

    async def _send_all(
        self, written: Callable[[str, Awaitable[int | bytes]], Awaitable[bool]]
    ) -> None:
        is_heard = True
        while is_heard and (self._pending or self._progress is not None):
            if self._pending:
                is_heard = await written("what is published", self._next_batch())
            elif self._is_progress_due() and self._progress is not None:
                note, self._progress = self._progress, None
                self._progress_at = self._loop.time()
                noting = self._streams.note_progress(self._owner, note)
                is_heard = await written("its progress", noting)
            else:
                break
        self._sending = None
        if is_heard:
            self._send()
        else:
            self._written = None  # it is not ours any more

    def _next_batch(self) -> Awaitable[int | bytes]:
        chunks: list[tuple[str, int, bytes]] = []
        published = self._published
        size = 0
        while self._pending and len(chunks) < AT_ONCE and size < BATCH_BYTES:
            pending = self._pending.popleft()
            self._stored[pending.topic] = pending.note
            if pending.chunk is not None:
                chunks.append((pending.topic, pending.note.chunks - 1, pending.chunk))
                size += len(pending.chunk)
        self._published += len(chunks)
        return self._streams.publish(self._owner, published, self._stored, chunks)


class Publishing(Protocol):
    """What has a publisher, made when it is asked for."""

    @property
    def publisher(self) -> Publisher:  # noqa: D102 - the class says it
        ...

    def published_as(self, key: str) -> str:
        """Give whose a step's chunks are."""
        ...


def _encoded(topic: Topic[Any], chunk: Any) -> bytes:
    given: object = topic
    if not isinstance(given, Topic):
        raise DataError(f"a chunk is published under what aiki.topic() gives, not {given!r:.100}")
    return topic.codec.encode(chunk, limit=MAX_CHUNK)[0]


def _closed(topic: Topic[Any]) -> InvalidTransition:
    return InvalidTransition(f"{topic!r} is closed; nothing can be published there any more")


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST
