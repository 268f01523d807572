"""What a handler was told at once, such as the time: written before anything depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiki.commits import Commits
from aiki.journal import Journal
from aiki.records import EntryKind

Written = Callable[[str, Awaitable[int | bytes]], Awaitable[bool]]


class Notes:
    """The notes of one run, and those among them that are still to be written."""

    def __init__(self, journal: Journal, commits: Commits) -> None:
        self._journal = journal
        self._commits = commits
        self._unwritten: list[tuple[str, bytes]] = []
        self._writing: asyncio.Task[None] | None = None

    @property
    def are_written(self) -> bool:
        """Whether all that was told so far is in the store."""
        return not self._unwritten and self._writing is None

    def take(self, address: str, make: Callable[[], bytes]) -> tuple[str, bytes]:
        """Give the key of a note, and what is noted there or `make` makes now."""
        key, entry = self._journal.take(address, is_note=True)
        if entry is not None and entry.kind is EntryKind.NOTE:
            return key, entry.payload
        payload = make()
        self._unwritten.append((key, payload))
        return key, payload

    def is_there_or_new(self, address: str, *, is_replaying: bool) -> bool:
        """Tell whether a note is there, or can be made since nothing is recorded behind here."""
        if self._journal.peek(address)[1] is None and is_replaying:
            return False
        self.take(address, lambda: b"")
        return True

    async def write(self, written: Written) -> None:
        """Write them, once for all who wait for it meanwhile; `written` judges the store's word."""
        if self._writing is None:
            notes, self._unwritten = self._unwritten, []
            self._writing = asyncio.get_running_loop().create_task(self._write(notes, written))
        await asyncio.wait([self._writing])

    def close(self) -> None:
        """Write no more."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self, notes: list[tuple[str, bytes]], written: Written) -> None:
        for key, payload in notes:
            if not await written(key, self._commits.note(key, payload)):
                # The run is being left, and whoever waits for this must not go on
                await asyncio.get_running_loop().create_future()
        self._writing = None
