"""What falls due in the store, and the slow walk that finds what should not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS

BATCH = 200
SWEEP_EVERY = 5.0
SWEEP_KEYS = 100


class Timers:
    """Due waits and retention of one partition."""

    def __init__(self, link: Link, base: str) -> None:
        self._link = link
        self._base = base

    async def fire(self) -> tuple[int, float | None]:
        """Queue the runs whose wait is over: how many, and seconds to the next wait's end."""
        count, left = await self._script("fire_timers", str(BATCH))
        return int(count), int(left) / 1000 if left else None

    async def stall_unserved(self, after: float, *, every: float) -> list[str]:
        """Hold runs whose version and pool nobody has served for so many seconds; which it were.

        Called every so often; where nobody has called for long, the time begins anew.
        """
        words = f"{after / 3600:g} h" if after >= 3600 else f"{after:g} s"  # noqa: PLR2004
        gap = str(round(every * 10_000))
        after_ms = str(round(after * 1000))
        reply = await self._script("stall_unserved", after_ms, gap, str(BATCH), words)
        return [run_id.decode() for run_id in reply]

    async def remove_finished(self, retention: float, workflows: Sequence[str]) -> int:
        """Remove runs that ended so long ago; how many it were, at most `BATCH`."""
        milliseconds = str(round(retention * 1000))
        return int(await self._script("remove_run", milliseconds, str(BATCH), *workflows))

    async def sweep(self) -> list[tuple[str, str]]:
        """Take one step of the walk: what was mended, as run id and words."""
        reply = await self._script("sweep", str(round(SWEEP_EVERY * 1000)), str(SWEEP_KEYS))
        words = [part.decode() for part in reply]
        return list(zip(words[::2], words[1::2], strict=True))

    async def _script(self, name: str, *arguments: str) -> Any:
        return await self._link.send(("EVALSHA", SCRIPTS[name].sha, "1", self._base, *arguments))
