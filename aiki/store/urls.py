"""URLs of a Redis: what is accepted, what is refused at once, and how one is told to people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from aiki.errors import ConfigError

Place: TypeAlias = tuple[str, int]  # host, port

_PLAIN = ("redis", "rediss", "unix")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")
_SCHEMES = (*_PLAIN, *_SENTINEL, *_CLUSTER)
_FIELDS = frozenset({"host", "port", "db", "username", "password", "ssl"})
_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_TLS = _FILES | {"ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname"}
_LEVELS = ("fsync", "replicated")
MOST_PARTITIONS = 64
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")
_PASSWORD_FILE, _SENTINEL_FILE = _PASSWORD_FILES = ("password_file", "sentinel_password_file")
_TWO_PASSWORDS = "the Redis URL has a password and names a file with one; leave one of them out"
_MALFORMED = (
    "the Redis URL is malformed: its port is a number up to 65535, an IPv6 address stands in "
    "brackets, and / # ? @ : % in a password are written %2F %23 %3F %40 %3A %25"
)
# The expression of RFC 3986 (appendix B), for what has several hosts. `urlsplit` is made for one,
# and refuses a list in newer releases of Python, if an address in brackets stands in it.
_SEVERAL = re.compile(
    rf"({'|'.join(map(re.escape, (*_SENTINEL, *_CLUSTER)))})"
    r"://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?",
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_LARGEST_PORT = 65535
_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL means: how to log in, and either where, or whom to ask where."""

    url: str
    """How a connection is made and logged in; where others say where, its host is the first."""
    described: str
    kind: str = ""
    """Who is asked where the primary is: 'sentinel', 'cluster', or nobody."""
    seeds: tuple[Place, ...] = ()
    service: str = ""
    ask_url: str = ""
    """How a connection to a sentinel is made and logged in."""
    durability: str = ""
    """What to wait for before a write counts as done: 'fsync', 'replicated', or nothing."""
    partitions: int | None = None
    """Into how many a new store is to be divided, where that was said."""
    database: int = 0
    password_file: str = ""
    """Where the password stands that the URL does not have."""
    ask_password_file: str = ""
    """The same of the login at a sentinel."""


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
    target(redis)
    return redis


def target(url: str) -> Target:
    """Read a URL. Raises `ConfigError` like `redis_url`."""
    parts = _split(url)
    if parts.fragment:
        raise ConfigError(_MALFORMED)
    if parts.scheme in _SENTINEL:
        return _sentinel(parts)
    if parts.scheme in _CLUSTER:
        return _cluster(parts)
    options = _check_plain(parts)
    durability, partitions = _ours(options)
    password_file = options.pop(_PASSWORD_FILE, "")
    if durability or partitions or password_file:
        url = url.partition("?")[0] + (f"?{urlencode(options)}" if options else "")
    return Target(
        url,
        describe_url(url),
        durability=durability,
        partitions=partitions,
        database=int(options.get("db") or (parts.scheme != "unix" and parts.path.strip("/")) or 0),
        password_file=password_file,
    )


def describe_url(url: str) -> str:
    """Give a checked address without its secrets, for logs and errors."""
    parts = _split(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if parts.scheme not in _PLAIN:
        return target(url).described
    return (
        f"{parts.scheme}://{said((parts.hostname or 'localhost', parts.port or 6379))}{parts.path}"
    )


def said(place: Place) -> str:
    """Write a place as it stands in a URL."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _split(url: str) -> SplitResult:
    found = _SEVERAL.fullmatch(url)
    try:
        return SplitResult(*found.groups("")) if found else urlsplit(url)
    except ValueError:
        raise ConfigError(_MALFORMED) from None


def _check_plain(parts: SplitResult) -> dict[str, str]:
    try:
        named = parts.port or parts.hostname  # the port first: to look at it is to check it
    except ValueError:
        raise ConfigError(_MALFORMED) from None
    if parts.scheme not in _PLAIN or not (parts.scheme == "unix" or named):
        raise ConfigError(
            f"a Redis URL starts with one of {', '.join(s + '://' for s in _SCHEMES)} and names a "
            f"host or a socket; this one starts with {parts.scheme or 'no scheme'}://"
        )
    if parts.scheme == "unix" and (named or len(parts.path) <= 1):
        raise ConfigError("a unix:// URL names the path of a socket: unix:///run/redis.sock")
    if parts.scheme != "unix":
        _check_database(parts.path.strip("/"))
    return _options(parts, {"db"})


def _sentinel(parts: SplitResult) -> Target:
    login, seeds = _seeds(parts, _PORTS["sentinel"])
    service, _, database = parts.path.strip("/").partition("/")
    if not _SERVICE.fullmatch(service):
        raise ConfigError(
            f"a {parts.scheme}:// URL names sentinels and the service that they watch, in letters, "
            f"digits and . _ -: {parts.scheme}://host:26379,host:26379/service"
        )
    _check_database(database)
    options = _options(parts, {*_SENTINEL_LOGIN, _SENTINEL_FILE})
    durability, partitions = _ours(options)
    files = options.pop(_PASSWORD_FILE, ""), options.pop(_SENTINEL_FILE, "")
    if files[1] and "sentinel_password" in options:
        raise ConfigError(_TWO_PASSWORDS)
    name, password = (quote(options.pop(each, ""), safe="") for each in _SENTINEL_LOGIN)
    ask_login = f"{name}:{password}@" if name or password else ""
    scheme = parts.scheme.partition("+")[0]
    tls = f"?{urlencode(options)}" if options else ""
    shown = f"{parts.scheme}://{','.join(map(said, seeds))}/{service}"
    return Target(
        f"{scheme}://{login}{said(seeds[0])}/{database or 0}{tls}",
        f"{shown}/{database}" if database else shown,
        "sentinel",
        seeds,
        service,
        f"{scheme}://{ask_login}{said(seeds[0])}{tls}",
        durability,
        partitions,
        int(database or 0),
        *files,
    )


def _cluster(parts: SplitResult) -> Target:
    login, seeds = _seeds(parts, _PORTS["cluster"])
    if parts.path.strip("/") not in ("", "0"):
        raise ConfigError("a cluster has the database 0 alone; a namespace keeps users apart")
    options = _options(parts, set())
    durability, partitions = _ours(options)
    password_file = options.pop(_PASSWORD_FILE, "")
    scheme = parts.scheme.partition("+")[0]
    url = f"{scheme}://{login}{said(seeds[0])}/0" + (f"?{urlencode(options)}" if options else "")
    described = f"{parts.scheme}://{','.join(map(said, seeds))}"
    return Target(
        url,
        described,
        "cluster",
        seeds,
        ask_url=url,
        durability=durability,
        partitions=partitions,
        password_file=password_file,
        ask_password_file=password_file,
    )


def _has_password(netloc: str) -> bool:
    return ":" in netloc.rpartition("@")[0]


def _seeds(parts: SplitResult, port: int) -> tuple[str, tuple[Place, ...]]:
    login, at, hosts = parts.netloc.rpartition("@")
    seeds: list[Place] = []
    for each in hosts.split(","):
        found = _HOST.fullmatch(each)
        if found is None or int(found[3] or port) > _LARGEST_PORT:
            raise ConfigError(_MALFORMED)
        seeds.append((found[1] or found[2], int(found[3] or port)))
    return login + at, tuple(seeds)


def _check_database(database: str) -> None:
    if database and not (database.isascii() and database.isdigit()):
        raise ConfigError("what follows the host in a Redis URL is the number of a database")


def _ours(options: dict[str, str]) -> tuple[str, int | None]:
    """Take out of the options what no Redis client knows: durability, and partitions."""
    partitions = options.pop("partitions", "")
    return options.pop("durability", ""), int(partitions) if partitions else None


def _options(parts: SplitResult, allowed: set[str]) -> dict[str, str]:
    allowed = allowed | {"durability", "partitions", _PASSWORD_FILE}
    if parts.scheme.startswith("rediss"):
        allowed |= _TLS
    found = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in found.items():
        if name not in allowed:
            # redis-py would take any of its parameters here, those that are ours to set as well.
            takes = ", ".join(sorted(allowed))
            raise ConfigError(f"after its ? a {parts.scheme}:// URL takes only {takes}")
        if name == "durability" and value not in _LEVELS:
            raise ConfigError(f"durability= in a Redis URL is one of {', '.join(_LEVELS)}")
        if name == "partitions" and not (
            value.isascii() and value.isdigit() and 1 <= int(value) <= MOST_PARTITIONS
        ):
            raise ConfigError(f"partitions= in a Redis URL is a number from 1 to {MOST_PARTITIONS}")
        if name == "db" and not (value.isascii() and value.isdigit()):
            raise ConfigError("db= in a Redis URL is the number of a database")
        if name in (*_FILES, *_PASSWORD_FILES) and not Path(value).is_file():
            raise ConfigError(f"{name}= in the Redis URL names no file: {value}")
        if name in _PASSWORD_FILES and not Path(value).is_absolute():
            # It is read again for as long as the process lives, wherever that stands by then.
            raise ConfigError(f"{name}= in the Redis URL is an absolute path, not {value}")
        if name == _PASSWORD_FILE and _has_password(parts.netloc):
            raise ConfigError(_TWO_PASSWORDS)
    return found
