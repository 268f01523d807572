"""What there is in a store: workflows, who serves them, and runs to count and to list."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.reading import ACTIVE, Index, Place, Places, Source, listed_as


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
        return sorted({*map(_workflow_of, await self._streams())})

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

    async def now(self) -> int:
        """Ask for the server's time, in milliseconds."""
        seconds, micros = await self._link.send(("TIME",))
        return int(seconds) * 1000 + int(micros) // 1000

    async def counts(self, workflow: str | None = None) -> dict[str, dict[Status, int]]:
        """Count runs by workflow and status; what is none is left out.

        Queued and running runs are listed together. A queued run has one ready entry, so these
        are counted, and the others are running.
        """
        streams = await self._streams()
        workflows = [workflow] if workflow is not None else sorted({*map(_workflow_of, streams)})
        cards = {
            (each, name): self._link.send(("ZCARD", f"{self._base}index:{name}/{each}"))
            for each in workflows
            for name in sorted({listed_as(status) for status in Status})
        }
        offers = {
            stream: self._link.send(("XLEN", self._base + stream))
            for stream in streams
            if workflow in (None, _workflow_of(stream))
        }
        queued = dict.fromkeys(workflows, 0)
        for stream, length in offers.items():
            queued[_workflow_of(stream)] += await length
        found: dict[str, dict[Status, int]] = {}
        for (each, name), reading in cards.items():
            card = int(await reading)
            if name == ACTIVE:
                waiting = min(queued[each], card)
                counts = {Status.QUEUED: waiting, Status.RUNNING: card - waiting}
            else:
                counts = {Status(name): card}
            known = found.setdefault(each, {})
            known.update({status: count for status, count in counts.items() if count})
        return {each: counts for each, counts in found.items() if counts}

    async def sources(
        self,
        *,
        statuses: Collection[Status],
        workflow: str | None,
        tag: str | None,
        since: int | None,
    ) -> list[Source]:
        """Give what a reading of the listing merges: see `Overview.reading`.

        Queued and running runs are listed together: asked for queued ones, this gives both. With
        a tag it gives all that have it, by when they were started.
        """
        if tag is not None:
            return [Index(self._link, f"{self._base}tag:{tag}", None)]
        names = {listed_as(status) for status in statuses}
        sources: list[Source] = []
        # Few run and many may be queued, so the former are found by their owners.
        if Status.RUNNING in statuses and Status.QUEUED not in statuses:
            names.discard(ACTIVE)
            sources.append(Places(await self._running()))
        workflows = [workflow] if workflow is not None else await self.workflows()
        sources += [
            Index(self._link, f"{self._base}index:{name}/{each}", since)
            for name in sorted(names)
            for each in workflows
        ]
        return sources

    async def _streams(self) -> list[str]:
        streams = await self._link.send(("SMEMBERS", self._base + "streams"))
        return sorted(stream.decode() for stream in streams)

    async def _running(self) -> list[Place]:
        """Say where the runs that a worker owns stand in a listing."""
        workers = await self._link.send(("ZRANGE", self._base + "workers", "0", "-1"))
        owned = [
            self._link.send(("SMEMBERS", f"{self._base}worker:{worker.decode()}:runs"))
            for worker in workers
        ]
        ids = [run_id.decode() for reply in owned for run_id in await reply]
        times = [self._link.send(("HGET", f"{self._base}run:{run_id}", "since")) for run_id in ids]
        return [(int(await time or 0), run_id) for time, run_id in zip(times, ids, strict=True)]


def _workflow_of(stream: str) -> str:
    return stream.removeprefix("ready:").split("/", 1)[0]
