"""Where a worker is present: in each partition of the store it has a life, and a lease, of its own.

So one that is out of reach costs the runs that are kept there, and nothing else: its lease runs
out, others take those runs over when it is back, and the worker then lives in it anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiki.errors import AikiError
from aiki.life import Life
from aiki.store import Store

_logger = logging.getLogger("aiki.worker")

ORPHANS_EVERY = 10.0
ALONE_AFTER = 60.0  # how long a library worker leaves quarantined runs to supervisors
_PATIENCE = 10.0  # with a partition that is asked about its quarantine


class Presence:
    """The present life of a worker in each partition."""

    def __init__(
        self,
        stores: Sequence[Store],
        label: str,
        *,
        born: Callable[[Store, Callable[[str], None]], Life],
        leave: Callable[[int | None], Awaitable[None]],
        is_hosted: Callable[[str], bool],
        hosted: Callable[[], int],
        on_replaced: Callable[[], None],
        on_end: Callable[[asyncio.Task[None]], None],
        quarantine: bool,
    ) -> None:
        """Prepare it; `leave` ends the actors of one partition, or of all."""
        self._stores = stores
        self._label = label
        self._born = born
        self._leave = leave
        self._is_hosted = is_hosted
        self._hosted = hosted
        self._on_replaced = on_replaced
        self._on_end = on_end
        self._lives: list[Life] = []
        self._rebirths: dict[int, asyncio.Task[None]] = {}
        self._minding: asyncio.Task[None] | None = None
        self._is_over = False
        self._alone_since: float | None = None
        self.is_quarantine = quarantine
        """Whether it takes the runs that are to be executed alone."""

    async def begin(self) -> None:
        """Begin to live, in every partition or in none."""
        self._lives = [self._bear(store) for store in self._stores]
        beginning = (self._live(store) for store in self._stores)
        outcomes = await asyncio.gather(*beginning, return_exceptions=True)
        errors = [each for each in outcomes if each is not None]
        if errors:
            if len(errors) < len(self._lives):
                await self.end("it could not live in every partition")
            raise errors[0]

    async def stop_living_again(self) -> None:
        """Begin no more lives and claims: they would have no end. What has begun, `end` ends."""
        self._is_over = True
        begun = [*self._rebirths.values(), *([self._minding] if self._minding else [])]
        for each in begun:
            each.cancel()
        if begun:
            await asyncio.wait(begun)

    async def stop_claiming(self) -> None:
        """Claim nothing more, anywhere."""
        await asyncio.gather(*(life.stop_claiming() for life in self._lives))

    async def end(self, cause: str) -> None:
        """Give everything back, whatever it was doing."""
        await self.stop_claiming()
        await self._leave(None)
        await asyncio.gather(*(life.end(cause) for life in self._lives))

    @property
    def incarnations(self) -> tuple[str, ...]:
        """The names of the present lives, in the order of the partitions."""
        return tuple(life.incarnation for life in self._lives)

    def is_leased(self, partition: int) -> bool:
        """Whether it is certain that nobody has taken our runs of a partition over."""
        return bool(self._lives) and self._lives[partition].is_leased

    async def release_orphans(self, partition: int) -> None:
        """Release, again and again, runs of a partition that nobody here hosts."""
        while True:
            await asyncio.sleep(ORPHANS_EVERY)
            if partition not in self._rebirths:
                try:
                    await self._lives[partition].release_orphans(self._is_hosted)
                except AikiError as error:
                    _logger.warning("worker %s: %s", self._label, error)

    async def mind_quarantine(self) -> None:
        """Take quarantined runs, one after the other, where nobody else minds them."""
        self._minding = asyncio.current_task()
        while not self._is_over:
            await asyncio.sleep(ORPHANS_EVERY)
            try:
                await self._look_at_quarantine()
            except AikiError as error:
                _logger.warning("worker %s: %s", self._label, error)

    async def _look_at_quarantine(self) -> None:
        if self.is_quarantine and self._hosted():
            return  # the suspect shall not meet others here
        now = asyncio.get_running_loop().time()
        if not await self._are_waiting():
            self._alone_since = None
            if self.is_quarantine or not all(life.is_claiming for life in self._present()):
                await self._claim(quarantine=False)
            return
        self._alone_since = now if self._alone_since is None else self._alone_since
        if self.is_quarantine or now - self._alone_since < ALONE_AFTER:
            return
        if any(life.is_claiming for life in self._present()):
            _logger.warning("worker %s finishes its runs, then takes quarantined ones", self._label)
            await asyncio.gather(*(life.finish_claiming() for life in self._present()))
        if not self._hosted():
            await self._claim(quarantine=True)

    async def _are_waiting(self) -> bool:
        """Tell whether there are runs in quarantine, and no supervisor that minds them."""
        asked = [
            asyncio.create_task(_waiting(self._stores[number], life))
            for number, life in enumerate(self._lives)
            if number not in self._rebirths
        ]
        if not asked:
            return False
        # Of one that is out of reach nothing can be claimed in any case.
        _, silent = await asyncio.wait(asked, timeout=_PATIENCE)
        for each in silent:
            each.cancel()
        told = [each.result() for each in asked if each not in silent]
        return any(told)

    async def _claim(self, *, quarantine: bool) -> None:
        self.is_quarantine = quarantine
        await asyncio.gather(*(life.claim(quarantine=quarantine) for life in self._present()))

    def _present(self) -> list[Life]:
        """Give the lives without those that are about to be followed by others."""
        return [life for n, life in enumerate(self._lives) if n not in self._rebirths]

    async def _live(self, store: Store) -> None:
        """Begin the life in a partition, or another one where that was over before."""
        while not await self._lives[store.number].begin(quarantine=self.is_quarantine):
            self._lives[store.number] = self._bear(store)

    def _bear(self, store: Store) -> Life:
        return self._born(store, lambda word: self._on_gone(store, word))

    def _on_gone(self, store: Store, word: str) -> None:
        """Our lease is gone, or the store is another one: nothing there is ours any more."""
        if self._is_over or store.number in self._rebirths:
            return
        if word == "STORE":
            self._on_replaced()
            return
        where = f" in partition {store.number}" if len(self._stores) > 1 else ""
        about = "worker %s lost its lease%s; its runs are others' now"
        _logger.warning(about, self._label, where)
        rebirth = asyncio.create_task(self._live_again(store))
        self._rebirths[store.number] = rebirth
        rebirth.add_done_callback(self._on_end)

    async def _live_again(self, store: Store) -> None:
        before = self._lives[store.number]
        await before.stop_claiming()
        await self._leave(store.number)
        await before.end("it was given up")
        self._lives[store.number] = self._bear(store)
        await self._live(store)
        del self._rebirths[store.number]


async def _waiting(store: Store, life: Life) -> bool:
    _, supervisors = await store.workers.beat_supervisor("", 0)
    return supervisors == 0 and await life.quarantined() > 0
