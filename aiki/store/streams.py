"""What runs publish while they go on: streams of chunks, and how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aiki.envelope import SEALED
from aiki.errors import DataError, NotFound
from aiki.records import Ownership, StreamNote, parse_streams, stream_lines
from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import PLAIN, Seals

MAX_CHUNK = 64 * 1024
MAX_CHUNKS = 100_000  # of a run
MAX_BYTES = 16 * 1024 * 1024
MAX_STREAMS = 100  # which all stand in the run's record
AT_ONCE = 100  # chunks that are written or read together

_PUBLISH = SCRIPTS["publish_chunks"].sha
_PROGRESS = SCRIPTS["note_progress"].sha


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One chunk as it is stored: whose it is, then its data as JSON."""

    step: str
    """The key of the step that published it; empty for the handler."""
    attempt: int
    number: int
    payload: bytes

    @classmethod
    def parse(cls, raw: bytes) -> StoredChunk:
        """Read the stored form: `attempt number step`, a line break, the data.

        Raises `ValueError` where it is damaged.
        """
        head, _, payload = raw.partition(b"\n")
        attempt, number, step = head.decode().split(" ", 2)
        return cls(step, int(attempt), int(number), payload)

    def stored(self) -> bytes:
        """Give the stored form."""
        return b"%d %d %b\n%b" % (self.attempt, self.number, self.step.encode(), self.payload)


class Streams:
    """The streams of the runs of one partition."""

    def __init__(self, link: Link, base: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._base = base
        self._seals = seals

    async def publish(
        self,
        owner: Ownership,
        published: int,
        notes: Mapping[str, StreamNote],
        chunks: Sequence[tuple[str, int, bytes]],
    ) -> int | bytes:
        """Append chunks, each with topic and offset, to those `published` before: flags or FENCED.

        `notes` are those of all streams of the run, with these chunks.
        """
        command: list[str | bytes] = [
            "EVALSHA", _PUBLISH, "1", self._base, owner.run_id, owner.token, str(published),
            str(published + len(chunks)), stream_lines(notes),
        ]  # fmt: skip
        seals = self._seals
        for topic, offset, chunk in chunks:
            stored = seals.chunk(owner.run_id, topic, chunk) if seals.is_on else chunk
            command += (topic, f"0-{offset + 1}", stored)
        reply: int | bytes = await self._link.send(tuple(command))
        return reply

    async def note_progress(self, owner: Ownership, note: bytes) -> int | bytes:
        """Note how far a run is: flags or FENCED."""
        reply: int | bytes = await self._link.send(
            ("EVALSHA", _PROGRESS, "1", self._base, owner.run_id, owner.token, note)
        )
        return reply

    async def progress(self, run_id: str, *, timeout: float) -> bytes | None:
        """Read how far a run is; None where it has not said.

        Raises `NotFound` if there is no such run.
        """
        command = ("HMGET", f"{self._base}run:{run_id}", "status", "reached")
        status, note = await self._link.send_within(command, timeout)
        if status in (None, b"deleted"):
            raise _missing(run_id)
        found: bytes | None = note
        return found

    async def read(
        self, run_id: str, topic: str, offset: int, *, timeout: float
    ) -> tuple[list[StoredChunk], bool]:
        """Read chunks of a stream from an offset on, and whether these are the last.

        Raises:
            NotFound: there is no such run.
            DataError: what is stored is damaged, or cannot be opened.
        """
        run = f"{self._base}run:{run_id}"
        about = ("HMGET", run, "status", "streams")
        piece = (
            "XRANGE", f"{run}:stream:{topic}", f"0-{offset + 1}", "+", "COUNT", str(AT_ONCE),
        )  # fmt: skip
        (status, notes), found = await asyncio.gather(
            self._link.send_within(about, timeout), self._link.send_within(piece, timeout)
        )
        if status in (None, b"deleted"):
            raise _missing(run_id)
        try:
            note = parse_streams(notes or b"").get(topic, StreamNote())
            is_complete = note.is_closed or Status(status.decode()).is_final
            if is_complete and len(found) < min(AT_ONCE, note.chunks - offset):
                # They were answered in the other order: what is asked now comes after the end.
                found = await self._link.send_within(piece, timeout)
            chunks = [StoredChunk.parse(fields[1]) for _, fields in found]
        except (ValueError, LookupError) as error:
            raise DataError(f"stream {topic!r} of run {run_id} is damaged: {error}") from None
        opened = [
            replace(each, payload=self._seals.opened_chunk(run_id, topic, each.payload))
            if each.payload.startswith(SEALED)
            else each
            for each in chunks
        ]
        return opened, is_complete and len(opened) < AT_ONCE

    def channel(self, run_id: str) -> str:
        """Name the channel on which those hear of a run who look at what it publishes."""
        return f"look:{run_id}"


def _missing(run_id: str) -> NotFound:
    return NotFound(f"there is no run {run_id!r}; it never existed, or its retention ended")
