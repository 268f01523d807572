"""Listing runs: what `client.runs` asks, and the records behind it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection
from datetime import datetime

from aiki.description import RunDescription, description
from aiki.errors import DataError
from aiki.names import checked_name, checked_tag
from aiki.states import Status
from aiki.store import Partitions

FIRST_PAGE = 25
LARGEST_PAGE = 400


def list_runs(
    partitions: Partitions,
    *,
    status: Status | Collection[Status] | None,
    workflow: str | None,
    tag: str | None,
    since: datetime | None,
    timeout: float,
) -> AsyncIterator[RunDescription]:
    """Check what is asked, and give what reads it. `Client.runs` is this."""
    if workflow is not None:
        checked_name(workflow, "workflow")
    if tag is not None:
        checked_tag(tag)
    if since is not None and since.utcoffset() is None:
        raise DataError(f"since {since.isoformat()} has no time zone; give it one")
    from_ms = None if since is None else math.floor(since.timestamp() * 1000)
    return _pages(
        partitions,
        statuses=_checked(status),
        workflow=workflow,
        tag=tag,
        since=from_ms,
        timeout=timeout,
    )


async def _pages(
    partitions: Partitions,
    *,
    statuses: tuple[Status, ...],
    workflow: str | None,
    tag: str | None,
    since: int | None,
    timeout: float,
) -> AsyncIterator[RunDescription]:
    overview = partitions.overview
    began = await overview.now()
    changed: set[str] = set()
    reading = await overview.reading(statuses=statuses, workflow=workflow, tag=tag, since=since)
    size = FIRST_PAGE
    while ids := await reading.next(size):
        # An index is a hint, and the record decides. A run that moves meanwhile may stand in two.
        for snapshot in await overview.snapshots(ids, timeout=timeout):
            if (
                snapshot.status in statuses
                and workflow in (None, snapshot.workflow)
                and (tag is None or tag in snapshot.tags)
                and (since is None or snapshot.since >= since)
            ):
                if snapshot.since >= began[partitions.of(snapshot.id).number]:
                    if snapshot.id in changed:
                        continue
                    changed.add(snapshot.id)
                yield description(snapshot)
        size = min(2 * size, LARGEST_PAGE)


def _checked(status: Status | Collection[Status] | None) -> tuple[Status, ...]:
    if status is None:
        return tuple(Status)
    given = (status,) if isinstance(status, str) else tuple(status)
    try:
        return tuple(Status(each) for each in given)
    except ValueError as error:
        raise DataError(f"{error}; there are {', '.join(Status)}") from None
