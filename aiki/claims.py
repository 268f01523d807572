"""How a worker comes by its runs: ready entries are read, each is claimed, the record decides."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from aiki.errors import AikiError, StoreRefused
from aiki.records import ClaimedRun, DamagedRun, ReadyEntry
from aiki.slots import Slots
from aiki.store import Store
from aiki.store.keys import new_token

_logger = logging.getLogger("aiki.worker")

CLAIMED_TOGETHER = 32  # runs, by one script


class Claims:
    """Reads no more of one partition than there are free slots for, and claims what it read."""

    def __init__(
        self,
        store: Store,
        incarnation: str,
        *,
        streams: Sequence[str],
        lease: float,
        quarantine: bool,
        slots: Slots,
        host: Callable[[ClaimedRun], None],
        on_dead: Callable[[str], None],
    ) -> None:
        self._store = store
        self._incarnation = incarnation
        self._streams = list(streams)
        self._quarantine = quarantine
        self._slots = slots
        self._host = host
        self._on_dead = on_dead
        self._reader = store.workers.ready_reader(store.address, incarnation, lease=lease)
        self._is_over = False
        self.claiming: set[str] = set()

    async def run(self) -> None:
        """Claim until cancelled, told to finish, or told that the lease is gone.

        Reading on without a lease would keep from others what has just been queued again.
        """
        broken = False
        while not self._is_over:
            try:
                entries = await (self._read_again() if broken else self._read())
                broken = False  # what is refused now is offered again when it has idled
            except AikiError as error:
                # What was delivered meanwhile is ours and pending; it is read again.
                _logger.warning("worker %s reads no ready runs: %s", self._incarnation, error)
                broken = True
                await self._pause()
                continue
            # So that no stream is always the last to be read
            self._streams.append(self._streams.pop(0))
            if entries:
                try:
                    await self._claim(entries)
                finally:
                    self._slots.give_back(len(entries))

    def finish(self) -> None:
        """Claim what has been asked for, and nothing more.

        What a read that is cut off was given would be nobody's until it has idled for the lease.
        """
        self._is_over = True

    async def close(self) -> None:
        """End the connection."""
        await self._reader.close()

    # Each of these gives entries, with a slot taken for each of them.

    async def _read(self) -> list[ReadyEntry]:
        if self._slots.are_shared:
            await self._reader.connect()  # while others may have the slots
        share, entries = await self._slots.take(), list[ReadyEntry]()
        try:
            if self._is_over:
                return entries
            # Others could not use what we would wait with, so among others we only look.
            is_alone = not self._slots.are_shared
            entries = await self._reader.read(self._streams, share, wait=is_alone)
            if entries and not self._slots.are_open:
                unwanted, entries = entries, []
                await self._reader.put_back(unwanted)
        finally:
            self._slots.give_back(share - len(entries))
        return entries if entries or is_alone else await self._wait()

    async def _wait(self) -> list[ReadyEntry]:
        """Wait for something to be ready, without a slot for it: others may need it first."""
        entries = await self._reader.read(self._streams, 1)
        if entries and not self._slots.try_take():
            await self._reader.put_back(entries)
            return []
        return entries

    async def _read_again(self) -> list[ReadyEntry]:
        """Read what was delivered when the connection broke."""
        share, entries = await self._slots.take(), list[ReadyEntry]()
        try:
            entries = await self._reader.read_delivered(self._streams)
        finally:
            self._slots.give_back(share - len(entries))
        return entries

    async def _pause(self) -> None:
        """Wait, with no slot taken, until there may be a connection again."""
        while True:
            await asyncio.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - jitter
            if not (self._slots.are_shared and self._reader.is_lost):
                return

    async def _claim(self, entries: Sequence[ReadyEntry]) -> None:
        runs = self._store.runs
        asked: list[tuple[list[ReadyEntry], list[str], asyncio.Future[Any]]] = []
        for _, alike in groupby(entries, key=_kind):
            left = list(alike)
            while left:
                some, left = left[:CLAIMED_TOGETHER], left[CLAIMED_TOGETHER:]
                tokens = [new_token() for _ in some]
                reply = runs.claim(some, tokens, self._incarnation, quarantine=self._quarantine)
                asked.append((some, tokens, reply))
        self.claiming.update(entry.run_id for entry in entries)
        try:
            for some, tokens, reply in asked:
                try:
                    answers = runs.claimed(some, tokens, self._incarnation, await reply)
                except StoreRefused as error:
                    answers = [error] * len(some)
                for entry, answer in zip(some, answers, strict=True):
                    try:
                        await self._take(answer)
                    except StoreRefused as error:
                        # One run is not worth a worker. It is offered again when it has idled.
                        run_id = entry.run_id
                        _logger.error("run %s cannot be claimed: %s", run_id, error)  # noqa: TRY400
        finally:
            self.claiming.difference_update(entry.run_id for entry in entries)

    async def _take(self, answer: ClaimedRun | DamagedRun | StoreRefused | bytes) -> None:
        if isinstance(answer, ClaimedRun):
            self._host(answer)
        elif isinstance(answer, DamagedRun):
            _logger.error("run %s is stalled: %s", answer.ownership.run_id, answer.reason)
            await self._store.runs.stall(answer.ownership, answer.reason, is_open=answer.is_sealed)
        elif isinstance(answer, StoreRefused):
            raise answer
        elif answer == b"DEAD":
            self._is_over = True
            self._on_dead("DEAD")


def _kind(entry: ReadyEntry) -> tuple[str, str]:
    """Tell the entries apart that cannot be claimed together: one stream, and no long replies.

    A run that had an owner before may have a journal of many megabytes, and is claimed alone.
    """
    return entry.stream, "" if entry.epoch == "0" else entry.entry
