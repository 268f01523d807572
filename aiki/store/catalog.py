"""Listing runs, newest first, at the cost of the page that is shown."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from aiki.states import Status
from aiki.store.batch import Link


@dataclass(frozen=True, slots=True)
class Offer:
    """A version of a workflow that ever had a run or a worker in a pool."""

    version: str
    pool: str
    is_served: bool
    """Whether a worker serves it now."""


class Catalog:
    """The listing index of one partition: a sorted set per status and workflow."""

    def __init__(self, link: Link, base: str) -> None:
        self._link = link
        self._base = base

    async def workflows(self) -> list[str]:
        """Name every workflow that ever had a run or a worker here."""
        streams = await self._link.send(("SMEMBERS", self._base + "streams"))
        names = {stream.decode().removeprefix("ready:").split("/", 1)[0] for stream in streams}
        return sorted(names)

    async def offers(self, workflow: str) -> list[Offer]:
        """Give every version and pool of a workflow that ever had a run or a worker here."""
        found = await self._link.send(("SMEMBERS", self._base + "streams"))
        streams = [  # without those of the quarantine, whose names have one part more
            stream
            for stream in (each.decode() for each in found)
            if stream.startswith(f"ready:{workflow}/") and stream.count("/") == 2  # noqa: PLR2004
        ]
        # A lease of 0 is that of a worker which is being given up.
        alive = set(
            await self._link.send(("ZRANGE", self._base + "workers", "(0", "+inf", "BYSCORE"))
        )
        readers = [
            self._link.send(("XINFO", "CONSUMERS", self._base + stream, "workers"))
            for stream in streams
        ]
        offers: list[Offer] = []
        for stream, reading in zip(streams, readers, strict=True):
            _, version, pool = stream.split("/")
            is_served = any(consumer[1] in alive for consumer in await reading)
            offers.append(Offer(version, pool, is_served))
        return offers

    async def newest(
        self,
        *,
        statuses: Iterable[Status] = tuple(Status),
        workflow: str | None = None,
        limit: int,
    ) -> list[str]:
        """Give the ids of the runs that most recently started, ended or came to wait.

        Queued and running runs are listed together: asked for one of them, this gives both.
        """
        workflows = [workflow] if workflow is not None else await self.workflows()
        names = {_LISTED.get(status, status.value) for status in statuses}
        first = ("0", str(limit - 1), "REV", "WITHSCORES")
        pages = [
            self._link.send(("ZRANGE", f"{self._base}index:{name}/{each}", *first))
            for name in sorted(names)
            for each in workflows
        ]
        rows: list[tuple[float, str]] = []
        for page in pages:
            reply = await page
            pairs = zip(reply[::2], reply[1::2], strict=True)
            rows += [(float(score), run_id.decode()) for run_id, score in pairs]
        return [run_id for _, run_id in heapq.nlargest(limit, rows)]

    async def running(self) -> list[str]:
        """Give the ids of all runs that a worker owns."""
        workers = await self._link.send(("ZRANGE", self._base + "workers", "0", "-1"))
        owned = [
            self._link.send(("SMEMBERS", f"{self._base}worker:{worker.decode()}:runs"))
            for worker in workers
        ]
        return [run_id.decode() for reply in owned for run_id in await reply]


_LISTED = {Status.QUEUED: "active", Status.RUNNING: "active"}
