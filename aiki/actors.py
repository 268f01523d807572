"""The actors of a worker: one for each run that it hosts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextvars import Context

from aiki.actor import Actor
from aiki.errors import AikiError
from aiki.middleware import Middleware
from aiki.operation import Host
from aiki.records import ClaimedRun
from aiki.registry import Registry
from aiki.store.keys import partition_of

_logger = logging.getLogger("aiki.worker")


class Actors:
    """Drives an actor for each claimed run, until it ends or is told to leave."""

    def __init__(
        self,
        registry: Registry,
        middleware: Sequence[Middleware],
        *,
        context: Callable[[], Context | None],
        on_left: Callable[[], None],
    ) -> None:
        """Prepare it; `context` is that of the lifespans, `on_left` is told of each that left."""
        self._registry = registry
        self._middleware = middleware
        self._context = context
        self._on_left = on_left
        self._driven: dict[str, tuple[Actor, asyncio.Task[None]]] = {}
        self._emptied = asyncio.Event()
        self._suspended = False

    def __len__(self) -> int:
        return len(self._driven)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._driven

    def describe(self) -> list[dict[str, object]]:
        """Say what each run waits for."""
        return [actor.describe() for actor, _ in self._driven.values()]

    def host(self, host: Host, claimed: ClaimedRun) -> None:
        """Drive a run that was claimed, after what an older claim of it still does has ended."""
        definition = self._registry.find(claimed.workflow, claimed.version)
        if definition is None:
            raise AikiError(f"run {claimed.ownership.run_id} is of a version nobody registered")
        actor = Actor(claimed, definition, host, self._middleware)
        if self._suspended:
            actor.suspend()  # it was on its way when the others were
        run_id = claimed.ownership.run_id
        driving = self._drive(actor, self._driven.pop(run_id, None), host)
        loop = asyncio.get_running_loop()
        self._driven[run_id] = (
            actor,
            loop.create_task(driving, name=run_id, context=self._context()),
        )

    def notify(self, run_id: str) -> bool:
        """Tell a run's actor that there is news; whether there is an actor."""
        driven = self._driven.get(run_id)
        if driven is not None:
            driven[0].notified()
        return driven is not None

    def suspend(self) -> None:
        """Have all hand their runs back once what executes is recorded, also those to come."""
        self._suspended = True
        for actor, _ in self._driven.values():
            actor.suspend()

    def resume(self) -> None:
        """Suspend none that are to come."""
        self._suspended = False

    async def all_left(self) -> None:
        """Wait until there are none."""
        while self._driven:
            self._emptied.clear()
            await self._emptied.wait()

    async def cancel(self, partition: int | None) -> None:
        """End those of a partition, or all of them, whatever they are at."""
        left = {
            run_id: driven
            for run_id, driven in self._driven.items()
            if partition is None or (partition_of(run_id) or 0) == partition
        }
        for _, task in left.values():
            task.cancel()
        if left:
            await asyncio.wait([task for _, task in left.values()])
        for run_id, driven in left.items():
            if self._driven.get(run_id) is driven:
                del self._driven[run_id]

    async def _drive(
        self, actor: Actor, older: tuple[Actor, asyncio.Task[None]] | None, host: Host
    ) -> None:
        run_id = actor.owner.run_id
        try:
            if older is not None:
                older[1].cancel()
                await asyncio.wait([older[1]])
            await actor.drive()
        except AikiError as error:
            _logger.error("run %s was left where it is: %s", run_id, error)  # noqa: TRY400
        except Exception as error:
            # Handed back it would fail again, here or elsewhere, without end.
            _logger.exception("run %s is stalled by an error in the library", run_id)
            with contextlib.suppress(AikiError):
                await host.runs.stall(actor.owner, f"An error in the library: {error!r}")
        finally:
            driven = self._driven.get(run_id)
            if driven is not None and driven[0] is actor:
                del self._driven[run_id]
            self._on_left()
            if not self._driven:
                self._emptied.set()
