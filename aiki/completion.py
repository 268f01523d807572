"""Hearing of the end of runs: one inbox per client, a watch per run, a slow poll behind them."""

from __future__ import annotations

import asyncio
import logging
import random

from aiki.errors import AikiError, NotFound, StoreUnavailable
from aiki.states import Status
from aiki.store import Store
from aiki.store.keys import new_token

_logger = logging.getLogger("aiki.client")

POLL = 30.0  # a lost message costs this much at most

Outcome = tuple[Status, bytes]


class _Watched:
    """One run, and those here who wait for its end."""

    __slots__ = ("poll", "waiters")

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[Outcome]] = []
        self.poll: asyncio.TimerHandle | None = None

    def fail(self, error: AikiError) -> None:
        """Let everybody who waits hear of an error."""
        for future in self.waiters:
            if not future.done():
                future.set_exception(error)


class Completions:
    """The ends of runs that somebody here waits for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._channel = f"inbox:{new_token()}"
        self._inbox = ""
        self._subscribing: asyncio.Task[str] | None = None
        self._watched: dict[str, _Watched] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def wait(self, run_id: str) -> Outcome:
        """Wait until a run is over and give its status and stored outcome.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the client was closed.
        """
        if self._is_closed:
            raise _closed()
        if not self._inbox:
            # Subscribe before the first watch, or the message in between is lost.
            if self._subscribing is None:
                self._subscribing = asyncio.create_task(
                    self._store.inbox.subscribe(self._channel, self._on_message, self._ask_all)
                )
            self._inbox = await asyncio.shield(self._subscribing)
        watched = self._watched.get(run_id)
        if watched is None:
            watched = self._watched[run_id] = _Watched()
        future: asyncio.Future[Outcome] = self._loop.create_future()
        watched.waiters.append(future)
        try:
            if watched.poll is None:
                self._poll_later(run_id, watched)
                await self._ask_first(run_id, watched)
            return await future
        finally:
            watched.waiters.remove(future)
            if not watched.waiters:
                if watched.poll is not None:
                    watched.poll.cancel()
                if self._watched.get(run_id) is watched:
                    del self._watched[run_id]

    def close(self) -> None:
        """Tell everybody who waits that nothing will come any more."""
        self._is_closed = True
        for watched in self._watched.values():
            watched.fail(_closed())

    async def _ask_first(self, run_id: str, watched: _Watched) -> None:
        try:
            await self._ask(run_id)
        except BaseException:
            # Whoever has joined meanwhile counts on this answer
            if len(watched.waiters) > 1:
                self._ask_soon(run_id)
            raise

    async def _ask(self, run_id: str) -> None:
        outcome = await self._store.runs.watch(run_id, self._inbox)
        if outcome is not None:
            self._over(run_id, outcome)

    def _over(self, run_id: str, outcome: Outcome) -> None:
        watched = self._watched.get(run_id)
        for future in watched.waiters if watched is not None else ():
            if not future.done():
                future.set_result(outcome)

    def _poll_later(self, run_id: str, watched: _Watched) -> None:
        pause = POLL * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
        watched.poll = self._loop.call_later(pause, self._poll, run_id, watched)

    def _poll(self, run_id: str, watched: _Watched) -> None:
        self._poll_later(run_id, watched)
        self._ask_soon(run_id)

    def _ask_all(self) -> None:
        """After a reconnection: what was sent meanwhile is gone."""
        for run_id in self._watched:
            self._ask_soon(run_id)

    def _ask_soon(self, run_id: str) -> None:
        task = self._loop.create_task(self._ask_again(run_id))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_again(self, run_id: str) -> None:
        try:
            await self._ask(run_id)
        except NotFound as gone:
            if run_id in self._watched:
                self._watched[run_id].fail(gone)
        except AikiError as error:
            _logger.debug("run %s: %s; the next poll asks again", run_id, error)

    def _on_message(self, message: bytes) -> None:
        run_id, status, outcome = message.split(b" ", 2)
        self._over(run_id.decode(), (Status(status.decode()), outcome))


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the client was closed")
