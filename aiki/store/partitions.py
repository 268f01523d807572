"""A store in all its partitions: which of them a run is in, and what is asked of all of them.

Each partition has connections of its own, and nothing is done to two of them at once. So what one
node of a cluster holds up is what is kept there, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from aiki.envelope import PayloadCodec
from aiki.errors import AikiError
from aiki.store.answers import torn
from aiki.store.connection import Address
from aiki.store.keys import new_run_id, partition_for, partition_of
from aiki.store.overview import Overview
from aiki.store.rights import Role
from aiki.store.runs import NewRun
from aiki.store.store import Store

_logger = logging.getLogger("aiki.store")


class Partitions:
    """All partitions of one namespace."""

    def __init__(
        self,
        address: Address,
        namespace: str,
        *,
        revive: Callable[[], Awaitable[AikiError | None]] | None = None,
        role: Role = Role.SUPERVISOR,
        codec: PayloadCodec | None = None,
    ) -> None:
        """Prepare it; see `Store`."""
        self.address = address
        self.namespace = namespace
        self._role = role
        self._codec = codec
        self.first = Store(address, namespace, revive=revive, role=role, codec=codec)
        self.all = [self.first]
        self._turn = 0

    async def open(self, expected: str = "") -> None:
        """Connect to the first partition, learn from it how many there are, and to the others.

        How many is decided when the store is made, by the URL of whoever makes it. Raises as
        `Store.open` does.
        """
        first, asked = self.first, self.address.partitions
        await first.open(expected)
        count = first.partitions
        if asked is not None and asked != count:
            _logger.warning(
                "%s was made with %d partition%s and keeps to that; partitions=%d in its URL has "
                "no effect",
                self.address.described,
                count,
                "" if count == 1 else "s",
                asked,
            )
        if count == 1:
            if self.address.is_cluster and first.link.may_write and not first.is_complete:
                await self._look_beside()
                await first.complete()
            return
        # Where every partition has been there before, one that is not is lost, and is not made
        # anew as if nothing had been in it.
        to_make = 0 if first.is_complete or not first.link.may_write else count
        self.all += [self._partition(number) for number in range(1, count)]
        opening = (store.open(first.store_id, partitions=to_make) for store in self.all[1:])
        for outcome in await asyncio.gather(*opening, return_exceptions=True):
            if outcome is not None:
                raise outcome
        if to_make:
            await first.complete()
        self._turn = random.randrange(count)  # noqa: S311 - so that not all clients begin alike

    @property
    def store_id(self) -> str:
        """The identity that all partitions share."""
        return self.first.store_id

    @property
    def overview(self) -> Overview:
        """What there is in all of them."""
        return Overview(self.all)

    def of(self, run_id: str) -> Store:
        """Give the partition of a run. One that is nowhere is in none, so any may say so."""
        if len(self.all) == 1:
            return self.first
        number = partition_of(run_id) or 0
        return self.all[number] if number < len(self.all) else self.first

    def named(self, *names: str) -> Store:
        """Give the partition of what is known by names alone, such as a schedule."""
        return self.all[partition_for(*names, count=len(self.all))]

    def new_run_id(self, workflow: str, idempotency_key: str) -> str:
        """Make an id for a run: in the partition of its key, so that the key is known there.

        Without one the partitions take turns, but for those that are out of reach now.
        """
        if len(self.all) == 1:
            return new_run_id(0)
        if idempotency_key:
            return new_run_id(self.named(workflow, idempotency_key).number)
        for _ in self.all:
            self._turn = (self._turn + 1) % len(self.all)
            if self.all[self._turn].link.is_ready:
                break
        return new_run_id(self._turn)

    async def start(self, runs: Sequence[NewRun], *, timeout: float) -> list[str | AikiError]:
        """Start runs, each in the partition of its id; for each its id, or why not."""
        if len(self.all) == 1:
            return await self._start(0, runs, timeout)
        parts: dict[int, list[NewRun]] = {}
        for run in runs:
            parts.setdefault(self.of(run.id).number, []).append(run)
        outcomes = await asyncio.gather(
            *(self._start(number, part, timeout) for number, part in parts.items())
        )
        told = {number: iter(part) for number, part in zip(parts, outcomes, strict=True)}
        return [next(told[self.of(run.id).number]) for run in runs]

    async def close(self) -> None:
        """End every connection."""
        await asyncio.gather(*(store.close() for store in self.all))

    def _partition(self, number: int) -> Store:
        address = self.address.of_partition(number)
        return Store(address, self.namespace, number, role=self._role, codec=self._codec)

    async def _look_beside(self) -> None:
        """Refuse a first partition that seems new, and had others beside it on other nodes."""
        beside = self._partition(1)
        try:
            if await beside.is_there():
                raise torn(1, beside.address.whereabouts)
        finally:
            await beside.close()

    async def _start(
        self, number: int, runs: Sequence[NewRun], timeout: float
    ) -> list[str | AikiError]:
        try:
            return await self.all[number].runs.start(runs, timeout=timeout)
        except AikiError as error:
            return [error] * len(runs)
