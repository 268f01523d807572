"""Group commit: what many actors want of the store goes out as one buffer.

While one batch is under way the next one gathers; it leaves when the replies are in, or when it
has become so large that the server can be at work on it while more is made. No delay is added,
and one write and one read serve tens or hundreds of commits.

Every command sent here may be sent again: scripts are idempotent, the rest only reads. So a
command whose outcome is unknown (the connection broke, no reply came in time) or that was
refused for now goes out again, with the same identity, until its caller has had enough. A
caller that is cancelled leaves its command alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis

from aiki.errors import AikiError, ConfigError, DataError, StoreRefused, StoreUnavailable
from aiki.store.connection import Address, Command, Verdict, Wire, judge, pack
from aiki.store.scripts import SOURCES
from aiki.store.tail import NAMES, Tail

_logger = logging.getLogger("aiki.store")

MAX_COMMANDS = 512  # under way at once
MAX_BYTES = 4 * 1024 * 1024
ENOUGH = 32  # commands that do not wait for the replies to those before
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0
LATE = 0.1  # seconds after which a timer of the loop is late
# Nothing is wrong with the server, only early.
_NOT_YET = (
    "ASK ", "BUSY ", "CLUSTERDOWN ", "LOADING ", "MASTERDOWN ", "MOVED ", "READONLY ", "TRYAGAIN ",
)  # fmt: skip

_Item = tuple["asyncio.Future[Any]", Command]


class Link:
    """One connection that reconnects, and the commands on their way through it."""

    def __init__(
        self,
        address: Address,
        *,
        prepare: Callable[[Link], Awaitable[None]] | None = None,
        timeout: float = 3.0,
        resend: bool = True,
        revive: Callable[[], Awaitable[AikiError | None]] | None = None,
        tail: Tail | None = None,
        confirm: Command | None = None,
        may_write: bool = True,
    ) -> None:
        self.address = address
        self._prepare = prepare
        self._revive = revive
        self._timeout = timeout
        self._resend = resend
        self._tail = tail
        self._confirm = confirm
        self.may_write = may_write
        self._unconfirmed: list[tuple[_Item, Any]] = []  # with the replies that are not given yet
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._ready = False
        self._closed = False
        self._waiting: deque[_Item] = deque()
        self._inflight: deque[_Item] = deque()
        self._again: list[_Item] = []
        self._unanswered = 0  # bytes sent since nothing was under way
        self._flushing = False
        self._leaving = False  # the server, which is not the one that we look for
        self._given_up = 0  # commands that wait here although their callers do not
        self._sent_at = 0.0
        self._due = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.problem: AikiError | None = None

    async def connect(self) -> None:
        """Make the first connection.

        Raises:
            StoreUnavailable: it cannot be reached.
            StoreRefused: it is reached and not fit for use.
        """
        await self._open()

    @property
    def is_ready(self) -> bool:
        """Whether what is sent now leaves at once, as far as is known."""
        return self._ready

    def send(self, command: Command) -> asyncio.Future[Any]:
        """Queue a command for the next batch and give the future of its reply."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            _fail(future, StoreUnavailable("the client was closed"))
            return future
        if self._tail is not None and self._tail.is_fenced(command):
            future.set_result(b"FENCED")
            return future
        if not self.may_write and command[0] == "EVALSHA":
            _fail(future, ConfigError("this client was made with read_only=True, and only looks"))
            return future
        self._wait((future, command))
        return future

    async def send_within(self, command: Command, seconds: float) -> Any:
        """Send a command and wait for its reply so long and no longer.

        Raises:
            StoreUnavailable: no reply came; whether the command was done is not known.
        """
        future = self.send(command)
        # A timer of the loop: `asyncio.timeout` costs five times as much, at every start.
        timer = self._loop.call_later(seconds, self._expire, future, seconds)
        try:
            return await future
        finally:
            timer.cancel()

    async def close(self) -> None:
        """End the connection; what is still on its way fails."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._watch is not None:
            self._watch.cancel()
        if self._wire is not None:
            self._wire.abort()
        unconfirmed = [item for item, _ in self._unconfirmed]
        for future, _ in (*unconfirmed, *self._again, *self._inflight, *self._waiting):
            if not future.done():
                _fail(future, StoreUnavailable("the client was closed"))
        self._inflight.clear()
        self._waiting.clear()

    def _expire(self, future: asyncio.Future[Any], seconds: float) -> None:
        if not future.done():
            error = StoreUnavailable(
                f"{self.address.described} gave no answer within {seconds:g} s"
                + (f" ({self.problem})" if self.problem else "")
                + "; it may or may not have been done, and may safely be sent again"
            )
            _fail(future, error)
            self._given_up += 1
            if 2 * self._given_up > len(self._waiting):  # they hold payloads, in a long outage
                self._waiting = deque(item for item in self._waiting if not item[0].done())
                self._given_up = 0

    def _wait(self, item: _Item) -> None:
        self._waiting.append(item)
        if len(self._waiting) >= ENOUGH:
            self._flush()
        elif not self._inflight and self._ready:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        if not self._inflight:
            self._flush()

    def _flush(self) -> None:
        # What is to be sent again with its source goes first, when all replies are in.
        if not self._ready or self._again or self._leaving or self._wire is None:
            return
        waiting, inflight = self._waiting, self._inflight
        if not inflight:
            self._unanswered = 0
            self._expect_reply()
        buffers: list[bytes] = []
        while waiting and len(inflight) < MAX_COMMANDS and self._unanswered < MAX_BYTES:
            item = waiting.popleft()
            if item[0].done():
                continue
            try:
                packed = pack(item[1])
            except (TypeError, ValueError) as error:
                _fail(item[0], DataError(f"it cannot be sent: {error}"))
                continue
            self._unanswered += len(packed)
            buffers.append(packed)
            inflight.append(item)
        if buffers:
            if self._confirm is not None:
                buffers.append(pack(self._confirm))
                inflight.append((self._loop.create_future(), self._confirm))
            self._wire.write(b"".join(buffers))

    def _expect_reply(self) -> None:
        self._sent_at = self._loop.time()
        if self._watch is None:
            self._look_in(self._timeout)

    def _look_in(self, seconds: float) -> None:
        self._due = self._loop.time() + seconds
        self._watch = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Give up a connection on which nothing has come for too long."""
        self._watch = None
        if not self._inflight or self._wire is None:
            return
        # For silence: neither a long batch on a slow line nor a long reply is a broken connection.
        now = self._loop.time()
        left = max(self._sent_at, self._wire.heard_at) + self._timeout - now
        if left > 0:
            self._look_in(left)
        elif now - self._due > LATE:  # we stood still: what has come meanwhile is to be read first
            self._look_in(LATE)
        else:
            self._wire.abort()

    def _on_reply(self, reply: Any) -> None:
        item = self._inflight.popleft()
        if item[1] is self._confirm:
            self._on_confirmed(reply)
        elif isinstance(reply, hiredis.ReplyError):
            self._on_error(item, str(reply))
        elif self._confirm is not None and self._ready:
            self._unconfirmed.append((item, reply))
        else:
            self._done(item, reply)
        if self._inflight or self._leaving:
            return
        if self._again:
            self._waiting.extendleft(reversed(self._again))
            self._again.clear()
        if self._waiting:
            self._flush_soon()

    def _done(self, item: _Item, reply: Any) -> None:
        future, command = item
        if self._tail is not None and len(command) > 1 and command[1] in NAMES:
            self._tail.acknowledged(NAMES[command[1]], command, reply)
        if not future.done():
            future.set_result(reply)

    def _on_confirmed(self, reply: Any) -> None:
        """Give the replies of a batch, or send it again where it is not as safe as was asked."""
        batch, self._unconfirmed = self._unconfirmed, []
        # A number of replicas; or two, of logs and of replicas
        if (isinstance(reply, int) and reply > 0) or (isinstance(reply, list) and reply[0] > 0):
            for item, answer in batch:
                self._done(item, answer)
            return
        # Done or not: the same, sent again, changes nothing and is waited for once more.
        self.problem = StoreUnavailable(f"{self.address.whereabouts}: nobody confirms ({reply})")
        for item, _ in batch:
            self._try_later(item)

    def _try_later(self, item: _Item) -> None:
        pause = random.uniform(FIRST_PAUSE, 10 * FIRST_PAUSE)  # noqa: S311 - jitter
        self._loop.call_later(pause, self._send_again, item)

    def _on_error(self, item: _Item, message: str) -> None:
        future, command = item
        if future.done():
            return
        verdict = judge(message)
        if not self._ready:
            # While the connection is prepared nothing is sent again: the next connection is.
            self.address.moved(message)
            kind = StoreUnavailable if message.startswith(_NOT_YET) else StoreRefused
            _fail(future, kind(f"{self.address.whereabouts}: {message}"))
        elif verdict is Verdict.NO_SCRIPT:
            source = SOURCES[str(command[1])]
            self._again.append((future, ("EVAL", source, *command[2:])))
        elif verdict is Verdict.TRY_ELSEWHERE:
            self._leave(item, message)
        elif verdict is Verdict.TRY_LATER and self._resend:
            self.problem = StoreRefused(message)
            self._try_later(item)
        else:
            future.set_exception(StoreRefused(f"{self.address.described}: {message}"))

    def _leave(self, item: _Item, message: str) -> None:
        """Give up a server that is not the primary, or not of this slot: look for it anew."""
        self.address.moved(message)
        self.problem = StoreRefused(f"{self.address.whereabouts}: {message}")
        if self._resend:
            self._again.append(item)
        else:
            _fail(item[0], self.problem)
        if not self._leaving and self._wire is not None:
            self._leaving = True
            self._wire.abort()

    def _send_again(self, item: _Item) -> None:
        if self._closed:
            if not item[0].done():
                _fail(item[0], StoreUnavailable("the client was closed"))
            return
        self._wait(item)

    def _on_lost(self) -> None:
        lost_by, self._wire = "" if self._wire is None else self._wire.lost_by, None
        self._leaving = False
        sent = (*(item for item, _ in self._unconfirmed), *self._again, *self._inflight)
        lost = [item for item in sent if not item[0].done() and item[1] is not self._confirm]
        self._unconfirmed.clear()
        self._again.clear()
        self._inflight.clear()
        was_ready, self._ready = self._ready, False
        if self._closed:
            return
        if self._resend and was_ready:
            self._waiting.extendleft(reversed(lost))
        else:
            words = "lost" if was_ready else self.address.explained(lost_by)
            for future, _ in lost:
                _fail(future, StoreUnavailable(f"{self.address.described}: {words}"))
        if was_ready:
            _logger.warning("lost the connection to %s", self.address.whereabouts)
            self._connecting = self._loop.create_task(self._reconnect())

    async def _open(self) -> None:
        wire = self._wire = await self.address.open(self._on_reply, self._on_lost)
        try:
            if self._prepare is not None:
                await self._prepare(self)
        except BaseException:
            wire.abort()
            raise
        if not self._is_connected():
            raise StoreUnavailable(f"{self.address.described}: lost")
        self._ready = True
        self.problem = None
        self._flush()

    def _is_connected(self) -> bool:
        return self._wire is not None

    async def compare(self) -> None:
        """Look whether a server that may be another one has what was acknowledged."""
        if self._tail is None or not await self._tail.compare(
            self.immediately, self.address.whereabouts
        ):
            return
        kept: deque[_Item] = deque()
        for future, command in self._waiting:
            if not self._tail.is_fenced(command):
                kept.append((future, command))
            elif not future.done():
                future.set_result(b"FENCED")
        self._waiting = kept

    def immediately(self, command: Command) -> asyncio.Future[Any]:
        """Send a command past the queue; only for preparing a fresh connection."""
        if self._wire is None:
            raise StoreUnavailable(f"{self.address.described}: lost")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._inflight.append((future, command))
        self._expect_reply()
        self._wire.write(pack(command))
        return future

    async def _reconnect(self) -> None:
        pause = FIRST_PAUSE
        told = self._loop.time()
        while True:
            try:
                await self._open()
            except Exception as caught:  # noqa: BLE001 - whatever it is: else nobody tried again
                error = self.problem = (
                    caught
                    if isinstance(caught, AikiError)
                    else StoreUnavailable(f"{self.address.whereabouts}: {caught!r}")
                )
                if self._revive is not None:
                    self.problem = await self._revive() or error
                if self._loop.time() >= told:
                    _logger.warning("no connection yet: %s", error)
                    told = self._loop.time() + 30
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
                pause = min(3 * pause, LAST_PAUSE)
            else:
                _logger.warning("connected again to %s", self.address.whereabouts)
                return


def _fail(future: asyncio.Future[Any], error: AikiError) -> None:
    future.set_exception(error)
    future.exception()  # whoever waits sees it; nobody need
