"""What a worker's death means: why it died, who is to blame, and who gets its runs.

The supervisor sees a worker end at once and gives its runs back without waiting for a lease. A
death is charged to the runs it interrupted, which end up in quarantine when they do it again and
again. It must not be charged to runs that only stood near:

- a worker that was told to end interrupts its runs by our wish;
- workers that end at the same moment die of the same thing, which no run of either did;
- nor did a run that was on one worker while another one died, up to a second ago. But a run that
  the earlier death had moved to this worker may well have killed both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from aiki.process import is_alive, this_host
from aiki.store import Store
from aiki.store.workers import Workers
from aiki.supervisor.child import Ending

logger = logging.getLogger(__name__)

# Deaths closer together than this are taken for one event.
TOGETHER = 1.0
# Runs that were recovered so lately came from the worker that died before: longer than TOGETHER,
# since giving back takes the store a moment.
_SUSPECT = 2 * TOGETHER


@dataclass(frozen=True, slots=True)
class Dead:
    """A worker process that is no more."""

    who: str
    pid: int
    created: float
    incarnations: tuple[str, ...]
    """By partition, as far as is known; a worker that never was ready has told none."""
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which runs a death is charged to."""

    counted: bool
    """Whether to all that the worker was executing."""
    suspects_after: float | None = None
    """If not to all: to those that were themselves recovered within so many seconds."""


INNOCENT = Verdict(counted=False)


def judge(ending: Ending, companions: int, since_other: float | None) -> Verdict:
    """Decide whom the death of a worker is charged to.

    `companions` is how many other workers were found dead with it; `since_other` how many seconds
    earlier the latest other one was, if there was any. Deaths of quarantine workers are no
    company for anyone: they are expected, and each belongs to the one run it hosted.
    """
    if companions or not ending.is_death():
        return INNOCENT
    if since_other is not None and since_other < TOGETHER:
        return Verdict(counted=False, suspects_after=_SUSPECT)
    return Verdict(counted=True)


async def give_back(store: Store, dead: Dead, verdict: Verdict) -> None:
    """Make a dead worker's runs in a partition ready again; waits for it as long as it takes.

    A worker whose lease had ended meanwhile has registered under another incarnation than the
    one it reported, so whatever is registered for its process is given back as well.
    """
    workers = store.workers
    known = dead.incarnations[store.number : store.number + 1]
    for incarnation in known:
        await _recover(workers, incarnation, dead, verdict)
    for record in await workers.list():
        process = (record.host, record.pid, record.create_time)
        if process == (this_host(), dead.pid, dead.created) and record.incarnation not in known:
            await _recover(workers, record.incarnation, dead, verdict)


async def give_back_of_the_gone(store: Store) -> None:
    """Do the same for the workers of this host whose processes are gone, whoever started them.

    A supervisor that was killed leaves them behind. They are charged with nothing: nobody saw
    what they died of.
    """
    for record in await store.workers.list():
        if record.host == this_host() and not is_alive(record.pid, record.create_time):
            dead = Dead(
                f"worker {record.label} (pid {record.pid})", record.pid, record.create_time,
                (), "was gone when a supervisor started",
            )  # fmt: skip
            await _recover(store.workers, record.incarnation, dead, INNOCENT)


async def _recover(workers: Workers, incarnation: str, dead: Dead, verdict: Verdict) -> None:
    recovered = await workers.recover(
        incarnation,
        cause=f"{dead.who} {dead.how}",
        counted=verdict.counted,
        suspects_after=verdict.suspects_after,
    )
    if recovered.queued or recovered.stalled:
        logger.info(
            "%s: runs given back: %d, stalled: %d",
            dead.who, len(recovered.queued), len(recovered.stalled),
        )  # fmt: skip
