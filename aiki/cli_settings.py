"""Which store the command line means: the one of a supervisor that is started in the same place.

A flag beats an `AIKI_…` variable, which beats `[tool.aiki]` in the `pyproject.toml` of the
working directory, which beats the default: the embedded server of `.aiki`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiki.client import DATA_DIR, REDIS_VARIABLE, Client
from aiki.encryption import KEYS_VARIABLE, payload_codec
from aiki.errors import ConfigError, StoreUnavailable
from aiki.store.rights import Role
from aiki.valkey_server import Answer, ServerProcess
from aiki.valkey_setup import GUARANTEES, Durability

# Seconds in which a store that lives has answered; a person waits for this.
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the runs are."""

    redis: str | None
    data_dir: Path | None
    """One of the two is set."""
    namespace: str
    durability: Durability
    encryption_keys: Path | None = None

    def client(self, *, create: bool, role: Role = Role.CLIENT) -> Client:
        """Make a client; it is not connected yet. The server is asked for the rights of `role`.

        Raises `StoreUnavailable` where there is no data directory, unless it is to be created:
        whoever looks for runs in the wrong place should be told, and leave nothing there.
        """
        if self.data_dir is not None and not create and not self.data_dir.is_dir():
            raise StoreUnavailable(
                f"there is no data directory {self.data_dir.resolve()}; say where the runs are "
                "with --data-dir or --redis, or go to where the supervisor was started"
            )
        client = Client(
            self.redis,
            data_dir=self.data_dir,
            namespace=self.namespace,
            durability=self.durability,
            start_timeout=PATIENCE,
            codec=payload_codec(self.encryption_keys, None),
        )
        client.role = role
        return client


def find_store(
    flags: Mapping[str, str | None], *, environ: Mapping[str, str], directory: Path
) -> StoreSettings:
    """Decide which store is meant; `flags` has `redis`, `data_dir`, `namespace`, `encryption_keys`.

    Raises `ConfigError` for a file that cannot be read, and for two answers of equal rank.
    """
    file = directory / "pyproject.toml"
    table = _tool_table(file)

    def found(name: str, variable: str) -> tuple[int, str, str] | None:
        key = name.replace("_", "-")
        sources: tuple[tuple[str, Any], ...] = (
            (f"--{key}", flags.get(name)),
            # Set but empty is how an environment says "not set".
            (variable, environ.get(variable) or None),
            (f"{file}: [tool.aiki] {key}", table.get(key)),
        )
        for rank, (where, value) in enumerate(sources):
            if value is not None:
                if not isinstance(value, str) or not value.strip():
                    raise ConfigError(f"{where}: expected a text, not {value!r}")
                return rank, where, value
        return None

    redis = found("redis", REDIS_VARIABLE)
    data_dir = found("data_dir", "AIKI_DATA_DIR")
    namespace = found("namespace", "AIKI_NAMESPACE")
    durability = found("durability", "AIKI_DURABILITY")
    keys = found("encryption_keys", KEYS_VARIABLE)
    if redis is not None and data_dir is not None:
        if redis[0] == data_dir[0]:
            raise ConfigError(
                f"{redis[1]} and {data_dir[1]} are both given; the runs are in one of them"
            )
        if redis[0] < data_dir[0]:
            data_dir = None
        else:
            redis = None
    place = Path(DATA_DIR if data_dir is None else data_dir[2]) if redis is None else None
    return StoreSettings(
        redis=None if redis is None else redis[2],
        data_dir=place,
        namespace="default" if namespace is None else namespace[2],
        durability=_durability(place, None if durability is None else durability[2]),
        encryption_keys=None if keys is None else Path(keys[2]),
    )


def _durability(data_dir: Path | None, given: str | None) -> Durability:
    """Choose what to ask of an embedded server: what it does already, if it runs."""
    server = None if data_dir is None else ServerProcess.read(data_dir)
    if server is not None and server.answer() is not Answer.SILENT:
        return server.durability
    for durability in GUARANTEES:
        if given == durability:
            return durability
    if given is not None:
        raise ConfigError(f"durability is one of {', '.join(GUARANTEES)}, not {given!r}")
    return "always"


def _tool_table(file: Path) -> Mapping[str, Any]:
    try:
        document: Any = tomllib.loads(file.read_text(encoding="utf-8"))
        return {**document.get("tool", {}).get("aiki", {})}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    except (AttributeError, TypeError):
        raise ConfigError(f"{file}: [tool.aiki] is not a table") from None
