"""How the store is reached: addresses, raw connections, and what an error reply means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

import hiredis
import redis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from aiki.errors import ConfigError, StoreUnavailable

CONNECT_TIMEOUT = 3.0

Command = tuple[str | bytes | int, ...]
# Its stub takes one-tuples only.
pack = cast("Callable[[Command], bytes]", hiredis.pack_command)

_SCHEMES = ("redis", "rediss", "unix")
_FIELDS = frozenset({"host", "port", "db", "username", "password", "ssl"})
_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_TLS = _FILES | {"ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname"}
_MALFORMED = (
    "the Redis URL is malformed: its port is a number up to 65535, an IPv6 address stands in "
    "brackets, and / # ? @ : % in a password are written %2F %23 %3F %40 %3A %25"
)

# First words of the replies that say "certainly not done, and it may work later". Everything
# else that is an error is a refusal that another try would only repeat.
_PASSING = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
        "UNKILLABLE",
        "WRONGPASS",
    }
)


class Verdict(Enum):
    """What an error reply means for the command that got it."""

    NO_SCRIPT = auto()
    TRY_LATER = auto()
    REFUSED = auto()


def judge(error: str) -> Verdict:
    """Classify an error reply by its first word."""
    word = error.split(" ", 1)[0]
    if word == "NOSCRIPT":
        return Verdict.NO_SCRIPT
    if "ACL failure in script" in error:  # a right was revoked, as by NOPERM
        return Verdict.TRY_LATER
    return Verdict.TRY_LATER if word in _PASSING else Verdict.REFUSED


def redis_url(redis: str | Mapping[str, Any]) -> str:
    """Check an address given as URL or as keywords, and give it as URL.

    Raises:
        ConfigError: it is malformed. The message never repeats a password, nor what could be a
            part of one that was not escaped.
    """
    given: object = redis
    if not isinstance(given, str | Mapping):
        raise ConfigError(
            f"redis is a URL such as redis://localhost:6379/0 or a dict of its parts, not "
            f"{type(given).__qualname__}"
        )
    if not isinstance(redis, str):
        unknown = set(redis) - _FIELDS
        if unknown:
            raise ConfigError(
                f"redis={{…}} has unknown keys {sorted(map(str, unknown))}; it takes "
                f"{sorted(_FIELDS)}"
            )
        user = quote(str(redis.get("username") or ""), safe="")
        password = quote(str(redis.get("password") or ""), safe="")
        login = f"{user}:{password}@" if user or password else ""
        scheme = "rediss" if redis.get("ssl") else "redis"
        host, port = redis.get("host", "localhost"), redis.get("port", 6379)
        if not isinstance(host, str):
            raise ConfigError(f"redis={{…}}: host is a str, not {host!r:.100}")
        host = f"[{host}]" if ":" in host else host
        redis = f"{scheme}://{login}{host}:{port}/{redis.get('db', 0)}"
    try:
        parts = urlsplit(redis)
        named = parts.port or parts.hostname  # the port first: to look at it is to check it
    except ValueError:
        raise ConfigError(_MALFORMED) from None
    if parts.fragment:
        raise ConfigError(_MALFORMED)
    if parts.scheme not in _SCHEMES or not (parts.scheme == "unix" or named):
        raise ConfigError(
            f"a Redis URL starts with one of {', '.join(s + '://' for s in _SCHEMES)} and names a "
            f"host or a socket; this one starts with {parts.scheme or 'no scheme'}://"
        )
    if parts.scheme == "unix" and (named or len(parts.path) <= 1):
        raise ConfigError("a unix:// URL names the path of a socket: unix:///run/redis.sock")
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not (database.isascii() and database.isdigit()):
        raise ConfigError("what follows the host in a Redis URL is the number of a database")
    _check_options(parts)
    return redis


def _check_options(parts: SplitResult) -> None:
    allowed = {"db", *_TLS} if parts.scheme == "rediss" else {"db"}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in allowed:
            # redis-py would take any of its parameters here, those that are ours to set as well.
            raise ConfigError(
                f"after its ? a {parts.scheme}:// URL takes only {', '.join(sorted(allowed))}"
            )
        if name == "db" and not (value.isascii() and value.isdigit()):
            raise ConfigError("db= in a Redis URL is the number of a database")
        if name in _FILES and not Path(value).is_file():
            raise ConfigError(f"{name}= in the Redis URL names no file: {value}")


def describe_url(url: str) -> str:
    """Give an address without its secrets, for logs and errors."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or 6379}{parts.path}"


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

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Say so, once."""
        self._connection._reader = self._connection._writer = None
        self._on_lost()

    def abort(self) -> None:
        """Close at once; replies on their way are lost, and `on_lost` is called."""
        self._transport.abort()


class Address:
    """Where a Redis is, and how a connection to it is made."""

    def __init__(self, redis: str | Mapping[str, Any]) -> None:
        self.url = redis_url(redis)
        self.described = describe_url(self.url)
        try:
            self._pool = self._make_pool()
            self._pool.make_connection()  # it connects later, but looks at its options now
        except (RedisError, ValueError) as error:
            raise ConfigError(f"{self.described}: {error}") from None

    def _make_pool(self) -> ConnectionPool:
        # Retries are ours: redis-py sends a command again after a time-out without knowing
        # whether it ran. RESP2 keeps the handshake short and has no maintenance messages.
        return ConnectionPool.from_url(
            self.url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=CONNECT_TIMEOUT,
        )

    async def open(self, on_reply: Callable[[Any], None], on_lost: Callable[[], None]) -> Wire:
        """Connect and log in.

        Raises:
            StoreUnavailable: nobody answered, or the login was refused.
        """
        connection = self._pool.make_connection()
        task = asyncio.current_task()
        cancelling = task.cancelling() if task is not None else 0
        is_open = False
        try:
            async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                await connection.connect()
                if task is not None and task.cancelling() > cancelling:
                    # redis-py's wait_for loses a cancellation on Python 3.11
                    raise asyncio.CancelledError
            is_open = True
        except (RedisError, OSError, TimeoutError) as error:
            words = str(error) or "no answer"
            raise StoreUnavailable(f"{self.described}: {words}") from None
        finally:
            if not is_open:  # broken off half-way, it would stay open
                await connection.disconnect(nowait=True)
        return Wire(connection, on_reply, on_lost)

    def blocking(self) -> redis.Redis:
        """Make a client for a thread that has no event loop."""
        return redis.Redis.from_url(
            self.url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_TIMEOUT,
            socket_timeout=CONNECT_TIMEOUT,
        )
