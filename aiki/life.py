"""One life of a worker: an incarnation, the lease that it renews, and what it claims.

A worker whose lease is gone does not get it back. It lives again, under another incarnation.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from aiki.claims import Claims
from aiki.errors import AikiError
from aiki.heartbeat import Heartbeat, now
from aiki.process import create_time, this_host
from aiki.records import ClaimedRun
from aiki.store import Store
from aiki.store.keys import new_token
from aiki.store.workers import AboutWorker

_logger = logging.getLogger("aiki.worker")

FAREWELL = 10.0  # seconds for the store to take our runs back; after that the lease runs out


class Life:
    """From the registration of an incarnation to its end."""

    def __init__(
        self,
        store: Store,
        label: str,
        *,
        streams: Sequence[str],
        lease: float,
        interval: float,
        hang_timeout: float,
        free_slots: Callable[[], int],
        host: Callable[[ClaimedRun], None],
        on_notices: Callable[[list[str]], None],
        on_gone: Callable[[str], None],
        on_claims_end: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.incarnation = new_token()
        self.is_quarantine = False
        self._store = store
        self._label = label
        self._streams = list(streams)
        self._alone_streams = [f"{stream}/quarantine" for stream in streams]
        self._lease = lease
        self._free_slots = free_slots
        self._host = host
        self._on_notices = on_notices
        self._on_gone = on_gone
        self._on_claims_end = on_claims_end
        self._claims: Claims | None = None
        self._claiming: asyncio.Task[None] | None = None
        self._heartbeat = Heartbeat(
            store.workers.heart(self.incarnation, lease, store.address),
            label=label,
            lease=lease,
            interval=interval,
            hang_timeout=hang_timeout,
            on_notices=on_notices,
            on_gone=on_gone,
        )

    async def begin(self, *, quarantine: bool) -> bool:
        """Register, beat, and claim; False where this life was over before that was answered."""
        about = AboutWorker(self._label, this_host(), os.getpid(), create_time())
        streams = self._streams + self._alone_streams
        asked_at = now()
        word = await self._store.workers.register(self.incarnation, self._lease, about, streams)
        if word == "DEAD":
            # It was done and not answered for a lease, and who looked after that gave us up.
            _logger.warning("worker %s was given up before it had begun", self._label)
            return False
        if word != "OK":
            raise AikiError(
                f"worker {self._label} cannot register ({word}): the store was flushed, restored "
                "or replaced since this client connected"
            )
        self._heartbeat.start(asked_at)
        self._store.tail.when_affected(self._on_notices)
        await self._store.inbox.subscribe(self._channel, self._on_message)
        await self.claim(quarantine=quarantine)
        return True

    async def claim(self, *, quarantine: bool) -> None:
        """Claim runs, either the ordinary ones or those in quarantine."""
        await self.stop_claiming()
        self.is_quarantine = quarantine
        self._claims = Claims(
            self._store,
            self.incarnation,
            streams=self._alone_streams if quarantine else self._streams,
            lease=self._lease,
            quarantine=quarantine,
            free_slots=self._free_slots,
            host=self._host,
            on_dead=self._on_gone,
        )
        name = f"aiki claims {self._label}"
        self._claiming = asyncio.create_task(self._claims.run(), name=name)
        self._claiming.add_done_callback(self._on_claims_end)

    async def quarantined(self) -> int:
        """Count the runs in quarantine that this worker could execute and nobody does."""
        return await self._store.workers.offered(self._alone_streams)

    async def stop_claiming(self) -> None:
        """Claim nothing more. What was delivered meanwhile is given back by `end`."""
        if self._claiming is not None and self._claims is not None:
            self._claiming.cancel()
            await asyncio.wait([self._claiming])
            await self._claims.close()
            self._claiming = self._claims = None

    @property
    def is_leased(self) -> bool:
        """Whether it is certain that nobody has taken our runs over."""
        return self._heartbeat.is_leased

    @property
    def is_claiming(self) -> bool:
        """Whether runs are claimed now."""
        return self._claiming is not None

    @property
    def under_claim(self) -> AbstractSet[str]:
        """The runs that a claim is under way for."""
        return frozenset() if self._claims is None else self._claims.claiming

    def slot_freed(self) -> None:
        """Look again whether something may be claimed."""
        if self._claims is not None:
            self._claims.slot_freed()

    def confirm(self, run_id: str) -> None:
        """Let the next beat take a notice back."""
        self._heartbeat.confirm(run_id)

    async def end(self, cause: str) -> None:
        """Give everything back, fenced; nobody must be at work on it any more."""
        self._heartbeat.stop()
        self._store.inbox.unsubscribe(self._channel)
        self._store.tail.tell_no_more(self._on_notices)
        try:
            async with asyncio.timeout(FAREWELL):
                await self._store.workers.recover(self.incarnation, cause=cause)
        except (TimeoutError, AikiError) as error:
            _logger.warning(
                "worker %s could not give its runs back (%s); they are taken back when its lease "
                "of %g s runs out",
                self._label,
                str(error) or "no answer",
                self._lease,
            )

    @property
    def _channel(self) -> str:
        return f"worker:{self.incarnation}"

    def _on_message(self, message: bytes) -> None:
        self._on_notices([message.decode()])
