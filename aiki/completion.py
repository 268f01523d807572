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

POLL = 30.0  # seconds; a lost message costs this much at most, and a tenth
READERS_POLL = 2.0  # of who may not write down that somebody waits

Outcome = tuple[Status, bytes]


class _Watched:
    """One run, and those here who wait for its end."""

    __slots__ = ("ask_at", "waiters")

    def __init__(self, ask_at: float) -> None:
        self.waiters: list[asyncio.Future[Outcome]] = []
        self.ask_at = ask_at  # by the loop's clock

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
        self._poll: asyncio.TimerHandle | None = None  # one for all: a timer each costs more
        self._is_closed = False
        self._is_told = store.link.may_write
        self._every = POLL if self._is_told else READERS_POLL

    async def wait(self, run_id: str) -> Outcome:
        """Wait until a run is over and give its status and stored outcome.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the client was closed.
        """
        if self._is_closed:
            raise _closed()
        if self._is_told and not self._inbox:
            # Subscribe before the first watch, or the message in between is lost.
            if self._subscribing is None:
                self._subscribing = asyncio.create_task(
                    self._store.inbox.subscribe(self._channel, self._on_message, self._ask_all)
                )
            self._inbox = await asyncio.shield(self._subscribing)
        future: asyncio.Future[Outcome] = self._loop.create_future()
        watched = self._watched.get(run_id)
        is_first = watched is None
        if watched is None:
            watched = self._watched[run_id] = _Watched(self._next_poll())
        watched.waiters.append(future)
        try:
            if is_first:
                self._poll_later()
                await self._ask_first(run_id, watched)
            return await future
        finally:
            watched.waiters.remove(future)
            if not watched.waiters and self._watched.get(run_id) is watched:
                del self._watched[run_id]

    def close(self) -> None:
        """Tell everybody who waits that nothing will come any more."""
        self._is_closed = True
        if self._poll is not None:
            self._poll.cancel()
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
        runs = self._store.runs
        looking = runs.watch(run_id, self._inbox) if self._is_told else runs.outcome(run_id)
        outcome = await looking
        if outcome is not None:
            self._over(run_id, outcome)

    def _over(self, run_id: str, outcome: Outcome) -> None:
        watched = self._watched.pop(run_id, None)  # whoever comes from now on asks anew
        for future in watched.waiters if watched is not None else ():
            if not future.done():
                future.set_result(outcome)

    def _next_poll(self) -> float:
        return self._loop.time() + self._every * random.uniform(0.75, 1.25)  # noqa: S311 - jitter

    def _poll_later(self) -> None:
        if self._poll is None:
            self._poll = self._loop.call_later(self._every / 10, self._poll_all)

    def _poll_all(self) -> None:
        self._poll = None
        now = self._loop.time()
        for run_id, watched in self._watched.items():
            if watched.ask_at <= now:
                watched.ask_at = self._next_poll()
                self._ask_soon(run_id)
        if self._watched:
            self._poll_later()

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
            if (watched := self._watched.pop(run_id, None)) is not None:
                watched.fail(gone)
        except AikiError as error:
            _logger.debug("run %s: %s; the next poll asks again", run_id, error)

    def _on_message(self, message: bytes) -> None:
        run_id, status, *outcome = message.split(b" ", 2)
        if outcome:
            self._over(run_id.decode(), (Status(status.decode()), outcome[0]))
        else:
            self._ask_soon(run_id.decode())


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the client was closed")
