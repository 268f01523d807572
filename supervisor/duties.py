"""What a supervisor does in the store: beat, keep house, fire schedules, give back what died.

Everything here runs in the supervisor process, as tasks beside its loop: the store may be away
for minutes, in which workers must still be watched, restarted and stopped.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from aiki.client import Client
from aiki.errors import AikiError, StoreReplaced
from aiki.firing import Firing
from aiki.housekeeping import Housekeeping
from aiki.store import Store
from aiki.store.rights import Role
from aiki.supervisor.recovery import Dead, Verdict, give_back, give_back_of_the_gone
from aiki.supervisor.settings import Settings
from aiki.time_limit import time_limit
from aiki.valkey_setup import GUARANTEES

logger = logging.getLogger(__name__)

# How soon quarantined runs get workers, and how long library workers, which take them when there
# is no supervisor, know that there is one: some missed beats, and less than their own patience.
_BEAT = 2.0
_BEATS_PER_LIFE = 5
# When it ends, a supervisor waits so long for the store to take its last words. What is left then
# is found by the expiry of leases.
_LAST_WORDS = 10.0


class Duties:
    """A supervisor's connection to the store, and what it does there."""

    def __init__(
        self,
        settings: Settings,
        on_quarantine: Callable[[int], None],
        on_replaced: Callable[[StoreReplaced], None],
    ) -> None:
        self._settings = settings
        self._on_quarantine = on_quarantine
        self._on_replaced = on_replaced
        self._id = secrets.token_hex(8)
        self._open = AsyncExitStack()
        self._client: Client | None = None
        self._recoveries: set[asyncio.Task[None]] = set()
        self._quarantined: dict[int, int] = {}  # runs, by partition

    async def open(self) -> tuple[str, str]:
        """Connect, starting the embedded server if need be.

        Returns where runs are kept and what is guaranteed, in words, and the id of the store.
        Raises `ConfigError`, `StoreRefused` and `StoreUnavailable`.
        """
        settings = self._settings
        client = settings.client()
        client.role = Role.SUPERVISOR
        self._client = await self._open.enter_async_context(client)
        partitions = self._client.partitions
        if settings.redis is None:
            kept = f"{settings.data_dir}: {GUARANTEES[settings.durability]}"
        else:
            count = len(partitions.all)
            where = f"{count} partitions of " if count > 1 else ""
            where += partitions.address.described
            kept = f"{where}: {partitions.first.preflight.guarantee}"
        return kept, partitions.store_id

    async def attend(self) -> None:
        """Beat, keep house and look after the quarantine, until cancelled.

        In each partition by itself: one that is out of reach holds up none of the others.
        """
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            for store in self._opened().partitions.all:
                house = Housekeeping(
                    store,
                    lease=settings.lease,
                    retention=settings.retention,
                    unserved_after=settings.unserved_after,
                )
                group.create_task(self._look_for_the_gone(store))
                group.create_task(house.run())
                group.create_task(Firing(store).run())
                group.create_task(self._beat(store))

    def give_back(self, dead: Dead, verdict: Verdict) -> None:
        """Begin to make a dead worker's runs ready again."""
        for store in self._opened().partitions.all:
            work = give_back(store, dead, verdict)
            task = asyncio.create_task(work, name=f"give back {dead.who}")
            self._recoveries.add(task)
            task.add_done_callback(self._given_back)

    async def finish(self) -> None:
        """Let the recoveries that are under way come to their end, for a while."""
        if self._recoveries:
            _, late = await asyncio.wait(self._recoveries, timeout=_LAST_WORDS)
            for task in late:
                logger.warning("the store did not answer in time: %s", task.get_name())
                task.cancel()

    async def close(self) -> None:
        """Leave the store, and with it the embedded server; may be called without `open`."""
        if self._client is not None:
            leaving = (
                store.workers.remove_supervisor(self._id) for store in self._client.partitions.all
            )
            with suppress(TimeoutError, AikiError):
                async with time_limit(_LAST_WORDS):
                    await asyncio.gather(*leaving)
        try:
            await self._open.aclose()
        except AikiError as error:
            logger.warning("%s", error)

    async def _look_for_the_gone(self, store: Store) -> None:
        try:
            await give_back_of_the_gone(store)
        except AikiError as error:  # then the expiry of their leases finds them
            logger.warning("workers that are gone could not be looked for: %s", error)

    async def _beat(self, store: Store) -> None:
        is_troubled = False
        while True:
            try:
                quarantined, _ = await store.workers.beat_supervisor(
                    self._id, _BEAT * _BEATS_PER_LIFE
                )
            except StoreReplaced as error:
                self._on_replaced(error)
                return
            except AikiError as error:
                if not is_troubled:
                    logger.warning("the supervisor cannot beat: %s", error)
                is_troubled = True
            else:
                is_troubled = False
                self._quarantined[store.number] = quarantined
                self._on_quarantine(sum(self._quarantined.values()))
            await asyncio.sleep(_BEAT)

    def _given_back(self, task: asyncio.Task[None]) -> None:
        self._recoveries.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Their lease runs out, and whoever keeps house finds them.
            logger.error("%s failed: %s", task.get_name(), error, exc_info=error)

    def _opened(self) -> Client:
        assert self._client is not None  # noqa: S101  (see the calls in supervisor.py)
        return self._client
