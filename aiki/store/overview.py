"""What there is in a store, over all its partitions: workflows, workers, runs to count and list."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from aiki.records import RunSnapshot, WorkerRecord
from aiki.states import Status
from aiki.store.audit import Findings
from aiki.store.catalog import Offer
from aiki.store.keys import partition_of
from aiki.store.reading import Reading
from aiki.store.store import Store


class Overview:
    """The catalogues of all partitions as one. Each must answer."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = stores

    async def workflows(self) -> list[str]:
        """Name every workflow that ever had a run or a worker here."""
        found = await asyncio.gather(*(store.catalog.workflows() for store in self._stores))
        return sorted({name for names in found for name in names})

    async def offers(self, workflow: str) -> list[Offer]:
        """Give every version and pool of a workflow that ever had a run or a worker here."""
        found = await asyncio.gather(*(store.catalog.offers(workflow) for store in self._stores))
        served: dict[tuple[str, str], bool] = {}
        for offer in (offer for offers in found for offer in offers):
            place = offer.version, offer.pool
            served[place] = offer.is_served or served.get(place, False)
        return [Offer(*place, is_served) for place, is_served in served.items()]

    async def counts(self, workflow: str | None = None) -> dict[str, dict[Status, int]]:
        """Count runs by workflow and status; what is none is left out."""
        found = await asyncio.gather(*(store.catalog.counts(workflow) for store in self._stores))
        sums: dict[str, Counter[Status]] = {}
        for each, counts in (item for part in found for item in part.items()):
            sums.setdefault(each, Counter()).update(counts)
        return {each: dict(counts) for each, counts in sorted(sums.items())}

    async def workers(self) -> list[WorkerRecord]:
        """Read every registered worker, which has a name in each partition."""
        found = await asyncio.gather(*(store.workers.list() for store in self._stores))
        return [record for part in found for record in part]

    async def now(self) -> list[int]:
        """Ask each for its server's time, in milliseconds."""
        return await asyncio.gather(*(store.catalog.now() for store in self._stores))

    async def reading(
        self,
        *,
        statuses: Collection[Status] = tuple(Status),
        workflow: str | None = None,
        tag: str | None = None,
        since: int | None = None,
    ) -> Reading:
        """Begin to read the runs that most recently started, ended or came to wait.

        The times are those of the partitions' servers.
        """
        found = await asyncio.gather(
            *(
                store.catalog.sources(statuses=statuses, workflow=workflow, tag=tag, since=since)
                for store in self._stores
            )
        )
        return Reading([source for sources in found for source in sources])

    async def snapshots(self, run_ids: Sequence[str], *, timeout: float) -> list[RunSnapshot]:
        """Read records without their payloads, in this order; those removed are left out."""
        parts: dict[int, list[str]] = {}
        for run_id in run_ids:
            parts.setdefault(partition_of(run_id) or 0, []).append(run_id)
        found = await asyncio.gather(
            *(
                self._stores[number].runs.snapshots(ids, timeout=timeout)
                for number, ids in parts.items()
                if number < len(self._stores)
            )
        )
        by_id = {snapshot.id: snapshot for part in found for snapshot in part}
        return [by_id[run_id] for run_id in run_ids if run_id in by_id]

    async def audit(self, *, mend: bool = False) -> Findings:
        """Look at everything once, one partition after the other: see `Audit.audit`."""
        if len(self._stores) == 1:
            return await self._stores[0].audit.audit(mend=mend)
        findings = Findings()
        for store in self._stores:
            part = await store.audit.audit(mend=mend)
            findings.keys += part.keys
            findings.runs += part.runs
            for each in part.found:
                is_run = partition_of(each.what) == store.number
                what = each.what if is_run else f"{{{store.number}}}:{each.what}"
                findings.found[replace(each, what=what)] = None
        return findings
