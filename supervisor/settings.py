"""The settings of a supervisor: one frozen value, from flags, the environment and a file.

A flag (or a keyword argument, from Python) beats an `AIKI_…` variable, which beats `[tool.aiki]`
in the `pyproject.toml` of the working directory, which beats the default. Whatever is wrong is
refused with where it stands.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from aiki.client import DATA_DIR, REDIS_VARIABLE, Client
from aiki.durations import Seconds
from aiki.encryption import payload_codec
from aiki.errors import AikiError, ConfigError
from aiki.names import checked_name
from aiki.store.urls import redis_url
from aiki.supervisor import readers
from aiki.supervisor.logs import LogFormat, LogLevel

Durability = Literal["always", "everysec", "memory"]

# A beat may be late by a stall of Redis or of the machine; with less than three in a lease, one
# late beat would cost a healthy worker its runs.
BEATS_PER_LEASE = 3
# Twice the longest that a start is sent again: one that comes after its run was removed would
# start it once more.
SHORTEST_RETENTION = 7200.0
# A deployment, in which nobody serves for a while, must be no reason to hold what waits.
SHORTEST_UNSERVED = 60.0
# A worker that needs no more than this to be idle is yet to be seen.
SMALLEST_MEMORY = 32 * 2**20


class Options(TypedDict, total=False):
    """What `Supervisor(…)` takes as keyword arguments: the fields of `Settings`, more loosely."""

    redis: str | None
    data_dir: str | Path
    durability: Durability
    namespace: str
    workers: int
    max_concurrent_workflow_runs: int
    pools: list[str] | tuple[str, ...]
    heartbeat: Seconds | str
    lease: Seconds | str
    hang_timeout: Seconds | str
    grace: Seconds | str
    max_memory: int | str
    retention: Seconds | str
    unserved_after: Seconds | str
    encryption_keys: str | Path | None
    compress_over: int | str | None
    log_level: LogLevel
    log_format: LogFormat


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as it may be written: flag, variable, key in the file."""

    name: str
    read: Callable[[object], Any]
    metavar: str
    help: str
    default: str
    spelled: str = ""

    @property
    def key(self) -> str:
        """The key in `[tool.aiki]`; with two dashes before it, the flag."""
        return self.spelled or self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        # Clients read the URL from this name too, and both must mean one store.
        if self.name == "redis":
            return REDIS_VARIABLE
        return "AIKI_" + self.key.upper().replace("-", "_")


def _url(value: object) -> str:
    return redis_url(readers.text(value))


def _namespace(value: object) -> str:
    return checked_name(value, "namespace")


OPTIONS: tuple[Option, ...] = (
    Option("redis", _url, "URL", "The Redis or Valkey that holds the runs.", "embedded"),
    Option("data_dir", readers.path, "DIR", "Where the embedded server keeps its data.", ".aiki"),
    Option(
        "durability",
        readers.one_of("always", "everysec", "memory"),
        "LEVEL",
        "Of the embedded server: always (an acknowledged write is on disk), everysec (a power cut "
        "may lose the last second) or memory (nothing survives the server).",
        "always",
    ),
    Option(
        "namespace", _namespace, "NAME", "Keeps users of one Redis out of each other's way.",
        "default",
    ),
    Option("workers", readers.at_least(1), "N", "Worker processes.", "one per core"),
    Option(
        "max_concurrent_workflow_runs", readers.at_least(1), "N",
        "Runs that one worker hosts at a time.", "200",
    ),
    Option(
        "pools", readers.names, "NAME", "Serve only runs of this pool; may be repeated.",
        "default", spelled="pool",
    ),
    Option("heartbeat", readers.duration(shortest=0.01), "TIME", "Between two beats.", "1s"),
    Option(
        "lease", readers.duration(shortest=0.03), "TIME",
        "How long after its last beat a worker is taken for dead; at least three beats.", "10s",
    ),
    Option(
        "hang_timeout", readers.duration(shortest=0.1), "TIME",
        "How long a worker's event loop may stand still before the worker is replaced.", "30s",
    ),
    Option(
        "grace", readers.duration(), "TIME",
        "How long a worker that is to end may let its running tasks finish.", "30s",
    ),
    Option(
        "max_memory", readers.size(SMALLEST_MEMORY), "SIZE",
        "Resident memory at which a worker is replaced.", "1GiB",
    ),
    Option(
        "retention", readers.duration(shortest=SHORTEST_RETENTION), "TIME",
        "How long finished runs are kept.", "7d",
    ),
    Option(
        "unserved_after", readers.duration(shortest=SHORTEST_UNSERVED), "TIME",
        "How long a run waits for a worker that serves its version and pool, before it is held.",
        "24h",
    ),
    Option(
        "encryption_keys", readers.path, "FILE",
        "Encrypt payloads with the first key in this file, and read those of all its keys.",
        "payloads are plain",
    ),
    Option(
        "compress_over", readers.size(0), "SIZE", "Compress payloads that are larger.", "never",
    ),
    Option(
        "log_level", readers.one_of("debug", "info", "warning", "error", "critical"), "LEVEL",
        "debug, info, warning, error or critical.", "info",
    ),
    Option("log_format", readers.one_of("text", "json"), "FORMAT", "text or json.", "text"),
)  # fmt: skip


def misspelled(environ: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that nothing reads, and those that were probably meant.

    One without a likeness may be the application's own.
    """
    names = {option.variable for option in OPTIONS}
    unknown = [name for name in environ if name.startswith("AIKI_") and name not in names]
    close = {name: get_close_matches(name, names, n=1, cutoff=0.8) for name in unknown}
    return {name: found[0] for name, found in sorted(close.items()) if found}


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Durations are in seconds, sizes in bytes.

    `Settings(workers=2)` takes what is left out from the defaults alone; `Settings.load(…)` asks
    environment and file. Raises `ConfigError`.
    """

    redis: str | None = None
    data_dir: Path | None = None
    """One of `redis` and `data_dir` is set; `.aiki` is the data directory of those with neither."""
    durability: Durability = "always"
    namespace: str = "default"
    workers: int = field(default_factory=cores)
    max_concurrent_workflow_runs: int = 200
    pools: tuple[str, ...] = ("default",)
    heartbeat: float = 1.0
    lease: float = 10.0
    hang_timeout: float = 30.0
    grace: float = 30.0
    max_memory: int = 2**30
    retention: float = 7 * 86400.0
    unserved_after: float = 86400.0
    encryption_keys: Path | None = None
    compress_over: int | None = None
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value is not None:
                object.__setattr__(self, option.name, _read(option, value, option.name))
        if self.redis is not None and self.data_dir is not None:
            raise ConfigError("give redis or data_dir, not both: the runs are in one of them")
        if self.redis is None and self.data_dir is None:
            object.__setattr__(self, "data_dir", Path(DATA_DIR))
        if self.lease < BEATS_PER_LEASE * self.heartbeat:
            raise ConfigError(
                f"lease ({self.lease:g} s) is less than {BEATS_PER_LEASE} heartbeats "
                f"({self.heartbeat:g} s each): one late beat would cost a worker its runs"
            )

    @classmethod
    def load(
        cls,
        given: Options | Mapping[str, object] | None = None,
        *,
        flags: bool = False,
        environ: Mapping[str, str] = os.environ,
        directory: Path | None = None,
    ) -> Settings:
        """Collect the settings of a supervisor in this working directory.

        `given` beats everything else; a value of None in it was not given. `flags` says that it
        came from the command line, for the messages.
        """
        file = (directory or Path.cwd()) / "pyproject.toml"
        table = _tool_table(file)
        given = given or {}
        for name in given:
            if name not in {option.name for option in OPTIONS}:
                raise ConfigError(f"{name}: a supervisor has no such option")
        found: dict[str, _Found] = {}
        for option in OPTIONS:
            sources = (
                (f"--{option.key}" if flags else option.name, given.get(option.name)),
                # Set but empty is how an environment says "not set".
                (option.variable, environ.get(option.variable) or None),
                (f"{file}: [tool.aiki] {option.key}", table.get(option.key)),
            )
            for rank, (where, value) in enumerate(sources):
                if value is not None:
                    found[option.name] = _Found(_read(option, value, where), rank, where)
                    break
        _choose_store(found)
        try:
            return cls(**{name: one.value for name, one in found.items()})
        except ConfigError as error:
            told = [found[name].where for name in ("heartbeat", "lease") if name in found]
            raise ConfigError(f"{', '.join(told)}: {error}") from None

    def client(self) -> Client:
        """Make a client of the store that these settings name; it is not connected yet.

        The keys are read anew each time, so that a reload brings new ones.
        """
        return Client(
            self.redis,
            data_dir=self.data_dir,
            namespace=self.namespace,
            durability=self.durability,
            codec=payload_codec(self.encryption_keys, self.compress_over),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A value, how far down in the order of sources it was found, and where."""

    value: Any
    rank: int
    where: str


def _choose_store(found: dict[str, _Found]) -> None:
    """Let a flag that says where the runs are beat a variable that says something else."""
    if "redis" not in found or "data_dir" not in found:
        return
    redis, data_dir = found["redis"], found["data_dir"]
    if redis.rank == data_dir.rank:
        raise ConfigError(
            f"{redis.where} and {data_dir.where} are both given; the runs are in one of them"
        )
    del found["redis" if redis.rank > data_dir.rank else "data_dir"]


def _read(option: Option, value: object, where: str) -> Any:
    try:
        return option.read(value)
    except (ValueError, AikiError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _tool_table(file: Path) -> dict[str, object]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    try:
        tool: object = tomllib.loads(text).get("tool", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None
    table: object = cast("dict[str, object]", tool).get("aiki", {}) if isinstance(tool, dict) else 0
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: [tool.aiki] is not a table")
    keys = {option.key for option in OPTIONS}
    result: dict[str, object] = {}
    for key, value in cast("dict[str, object]", table).items():
        if key not in keys:
            raise ConfigError(
                f"{file}: [tool.aiki] has no setting {key}; there are {', '.join(sorted(keys))}"
            )
        result[key] = value
    return result
