"""How the store is reached: addresses, raw connections, and what an error reply means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Any, cast

import hiredis
import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from aiki.errors import ConfigError, StoreUnavailable
from aiki.store import certificates
from aiki.store.finding import Finder, Sentinels, Slots
from aiki.store.keys import prefix
from aiki.store.login import PasswordFile, drop, explained
from aiki.store.urls import Place, redis_url, said, target
from aiki.time_limit import time_limit

Command = tuple[str | bytes | int, ...]
CONNECT_TIMEOUT = 3.0
CONFIRM_MS = "1000"  # well within the time after which a silent connection is given up
CONFIRMATIONS: dict[str, Command] = {
    "fsync": ("WAITAOF", "1", "0", CONFIRM_MS),
    "replicated": ("WAIT", "1", CONFIRM_MS),
}

# Its stub takes one-tuples only.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)

# First words of the replies that say "certainly not done, and it may work later". Everything
# else that is an error is a refusal that another try would only repeat.
_PASSING = frozenset(
    {
        # Our slot is on its way to another node, key by key. A script that was sent after it would
        # find a run without its journal, so nothing is sent until all of the slot has moved.
        "ASK",
        "BUSY",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "TRYAGAIN",
        "UNKILLABLE",
        "WRONGPASS",
    }
)
# A right was revoked, as by NOPERM: in the words of Redis 7.0, and in those of later ones.
_REVOKED = ("The user executing the script", "ACL failure in script")
# Those that say so of the server that we are connected to, and not of the one that we look for.
_LEFT = frozenset({"CLUSTERDOWN", "MOVED", "READONLY", "UNBLOCKED"})


class Verdict(Enum):
    """What an error reply means for the command that got it."""

    NO_SCRIPT = auto()
    TRY_LATER = auto()
    TRY_ELSEWHERE = auto()
    REFUSED = auto()


def judge(error: str) -> Verdict:
    """Classify an error reply by its first word."""
    word = error.split(" ", 1)[0]
    if word == "NOSCRIPT":
        return Verdict.NO_SCRIPT
    if any(words in error for words in _REVOKED):
        return Verdict.TRY_LATER
    if word in _LEFT:
        return Verdict.TRY_ELSEWHERE
    return Verdict.TRY_LATER if word in _PASSING else Verdict.REFUSED


class Wire(asyncio.Protocol):
    """One connection: bytes out, parsed replies in. It is used once and never reconnects."""

    def __init__(
        self,
        connection: AbstractConnection,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        # redis-py makes the connection (URL, TLS, AUTH, SELECT); then its transport is taken
        # over, since reading reply by reply through redis-py costs more than the whole rest.
        self._connection = connection
        writer = cast("asyncio.StreamWriter", cast("Any", connection)._writer)
        self._transport = cast("asyncio.Transport", writer.transport)
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._time = asyncio.get_running_loop().time
        self.heard_at = self._time()
        """When bytes came last, by the loop's clock; of a long reply, any of them."""
        self.lost_by = ""
        """What ended it, where that is known."""
        self._transport.set_protocol(self)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Parse what came and pass on each whole reply."""
        self.heard_at = self._time()
        self._reader.feed(data)
        gets, on_reply = self._reader.gets, self._on_reply
        while (reply := gets()) is not False:
            on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so, once."""
        self.lost_by = str(exc or "")
        self._connection._reader = self._connection._writer = None
        self._on_lost()

    def abort(self) -> None:
        """Close at once; replies on their way are lost, and `on_lost` is called."""
        self._transport.abort()


class Address:
    """Where a partition of a store is, and how a connection to it is made."""

    def __init__(self, redis: str | Mapping[str, Any], partition: int = 0) -> None:
        self.url = redis_url(redis)
        self._target = target(self.url)
        self.described = self._target.described
        self.durability = self._target.durability
        self.partitions = self._target.partitions
        self._partition = partition
        self._place: Place | None = None
        try:
            self._pool = _pool(self._target.url, self._target.password_file, CONNECT_TIMEOUT)
            self._pool.make_connection()  # it connects later, but looks at its options now
            settings = self._pool.connection_kwargs
            self._is_anonymous = not settings.keys() & {"password", "credential_provider"}
            self._finder = self._make_finder()
        except (RedisError, ValueError) as error:
            raise ConfigError(f"{self.described}: {error}") from None

    def _make_finder(self) -> Finder | None:
        if not self._target.kind:
            return None
        pool = _pool(self._target.ask_url, self._target.ask_password_file, CONNECT_TIMEOUT)
        pool.make_connection()

        def connect(place: Place) -> AbstractConnection:
            return _connection(pool, place)

        if self._target.kind == "sentinel":
            return Sentinels(self._target, connect)
        return Slots(self._target, connect, prefix("", self._partition))

    @property
    def is_cluster(self) -> bool:
        """Whether partitions may be on several servers."""
        return self._target.kind == "cluster"

    def of_partition(self, number: int) -> Address:
        """Give the address of another partition of the same store."""
        return Address(self.url, number)

    @property
    def whereabouts(self) -> str:
        """The address, and which server of several it was the last time."""
        place = self._place
        return self.described if place is None else f"{self.described} ({said(place)})"

    def moved(self, error: str) -> None:
        """Take what an error reply says of where the store is now."""
        if isinstance(self._finder, Slots):
            self._finder.moved(error)

    def explained(self, words: str) -> str:
        """Say what there is to do about a connection that was not made, or lost at once."""
        return explained(words, self._target.url)

    async def open(self, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> Wire:
        """Find the primary, connect and log in.

        Raises:
            StoreUnavailable: nobody answered, or the login was refused.
        """
        if self._finder is not None:
            self._place = await self._finder.find()
        connection = _connection(self._pool, self._place)
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        is_open = False
        try:
            async with time_limit(2 * CONNECT_TIMEOUT):
                await connection.connect()
                if self._is_anonymous:
                    await _try_out(connection)
                if task is not None and task.cancelling() > cancelling:
                    # redis-py's wait_for loses a cancellation on Python 3.11
                    raise asyncio.CancelledError
            # After some errors redis-py closes what it has read them from.
            is_open = connection.is_connected
            if not is_open:
                raise StoreUnavailable(f"{self.whereabouts}: {self.explained('')}")
        except (RedisError, OSError, TimeoutError) as error:
            words = self.explained(str(error) or "no answer")
            raise StoreUnavailable(f"{self.whereabouts}: {words}") from None
        finally:
            if not is_open:  # broken off half-way, it would stay open
                await drop(connection)
        return Wire(connection, on_reply, on_lost)

    def blocking(self) -> redis.Redis:
        """Find the primary and make a client of it, for a thread that has no event loop.

        Raises:
            StoreUnavailable: nobody knows where it is.
        """
        place = None if self._finder is None else asyncio.run(self._finder.find())
        client = redis.Redis.from_url(
            self._target.url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=CONNECT_TIMEOUT,
            driver_info=None,
        )
        settings = client.connection_pool.connection_kwargs
        _log_in_by(self._target.password_file, settings)
        if place is not None:
            settings["host"], settings["port"] = place
        return client


def _pool(url: str, password_file: str, timeout: float) -> ConnectionPool:
    # Retries are ours: redis-py sends a command again after a time-out without knowing
    # whether it ran. RESP2 keeps the handshake short and has no maintenance messages. The name
    # of the driver would be one more command that a user must be allowed, if the server knows it.
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        driver_info=None,
    )
    _log_in_by(password_file, pool.connection_kwargs)
    return pool


def _log_in_by(password_file: str, settings: dict[str, Any]) -> None:
    if password_file:
        username = settings.pop("username", None) or ""
        settings["credential_provider"] = PasswordFile(password_file, username)


async def _try_out(connection: AbstractConnection) -> None:
    """See whether a server that was told no password wants one: who only listens would not hear."""
    await connection.send_command("PING")
    with suppress(ResponseError):  # it says so again to what is asked then
        await connection.read_response()


def _connection(pool: ConnectionPool, place: Place | None) -> AbstractConnection:
    connection: AbstractConnection = pool.make_connection()
    if isinstance(connection, SSLConnection):
        certificates.share(connection)
    if place is not None:
        assert isinstance(connection, Connection)  # noqa: S101 - a socket is the only server
        connection.host, connection.port = place
    return connection
