"""One life of a worker in one partition: an incarnation, the lease that it renews, its claims.

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
from aiki.slots import Slots
from aiki.store import Store
from aiki.store.keys import new_token
from aiki.store.rights import Role
from aiki.store.workers import AboutWorker
from aiki.time_limit import time_limit

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
        slots: Slots,
        host: Callable[[ClaimedRun], None],
        notify: Callable[[str], bool],
        on_gone: Callable[[str], None],
        on_claims_end: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.incarnation = new_token()
        self._store = store
        self._label = label
        self._streams = list(streams)
        self._alone_streams = [f"{stream}/quarantine" for stream in streams]
        self._lease = lease
        self._slots = slots
        self._host = host
        self._notify = notify
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
            on_notices=self._on_notices,
            on_gone=on_gone,
            reports=store.number == 0,
        )

    async def begin(self, *, quarantine: bool) -> bool:
        """Register, beat, and claim; False where this life was over before that was answered.

        Raises:
            StoreRefused: the server's user may not do all that a worker does.
        """
        await self._store.require(Role.WORKER)
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
        await self.finish_claiming()
        self._claims = Claims(
            self._store,
            self.incarnation,
            streams=self._alone_streams if quarantine else self._streams,
            lease=self._lease,
            quarantine=quarantine,
            slots=self._slots,
            host=self._host,
            on_dead=self._on_gone,
        )
        name = f"aiki claims {self._label}"
        self._claiming = asyncio.create_task(self._claims.run(), name=name)
        self._claiming.add_done_callback(self._on_claims_end)

    async def quarantined(self) -> int:
        """Count the runs in quarantine that this worker could execute and nobody does."""
        return await self._store.workers.offered(self._alone_streams)

    async def finish_claiming(self) -> None:
        """Claim nothing more once what was asked for is claimed; the life goes on."""
        if self._claiming is not None and self._claims is not None:
            self._claims.finish()
            await asyncio.wait([self._claiming])
            await self.stop_claiming()

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

    async def release_orphans(self, is_hosted: Callable[[str], bool]) -> None:
        """Hand back the runs that are ours and that nobody here hosts."""
        store = self._store
        for run_id, epoch in (await store.workers.owned_runs(self.incarnation)).items():
            if not is_hosted(run_id) and run_id not in self.under_claim:
                word = await store.runs.release(run_id, epoch, self.incarnation)
                if word == b"OK":
                    _logger.warning(
                        "worker %s released run %s, not hosted here", self._label, run_id
                    )

    async def end(self, cause: str) -> None:
        """Give everything back, fenced; nobody must be at work on it any more."""
        self._heartbeat.stop()
        self._store.inbox.unsubscribe(self._channel)
        self._store.tail.tell_no_more(self._on_notices)
        try:
            async with time_limit(FAREWELL):
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

    def _on_notices(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            if not self._notify(run_id) and run_id in self.under_claim:
                continue  # its actor is still to come, and the next beat tells again
            self._heartbeat.confirm(run_id)

    def _on_message(self, message: bytes) -> None:
        self._on_notices([message.decode()])
