"""Which store the command line means: always the one that a supervisor in its place would use."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aiki.cli_settings import StoreSettings, find_store
from aiki.errors import ConfigError
from aiki.supervisor.settings import Settings

FLAGS: tuple[dict[str, str], ...] = ({}, {"redis": "redis://flag"}, {"data_dir": "flag"})
ENVIRONS: tuple[dict[str, str], ...] = (
    {},
    {"AIKI_REDIS_URL": "redis://variable", "AIKI_NAMESPACE": "variable"},
    {"AIKI_REDIS_URL": "", "AIKI_DATA_DIR": "variable", "AIKI_DURABILITY": "everysec"},
    {"AIKI_REDIS_URL": "redis://variable", "AIKI_DATA_DIR": "variable"},
)
FILES = (
    "",
    "[tool.aiki]\nredis = 'redis://file'\nnamespace = 'file'\nworkers = 3",
    "[tool.aiki]\ndata-dir = 'file'\ndurability = 'memory'",
    "[tool.other]\nredis = 3",
)


@pytest.mark.parametrize(
    ("flags", "environ", "text"), list(itertools.product(FLAGS, ENVIRONS, FILES))
)
def test_it_is_the_store_of_a_supervisor_in_the_same_place(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], text: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)

    def theirs() -> Settings:
        return Settings.load(flags, flags=True, environ=environ, directory=tmp_path)

    def ours() -> StoreSettings:
        return find_store(flags, environ=environ, directory=tmp_path)

    def told(decide: Callable[[], Settings | StoreSettings]) -> tuple[object, ...]:
        try:
            found = decide()
        except ConfigError as refusal:
            return (str(refusal),)
        return found.redis, found.data_dir, found.namespace, found.durability

    assert told(ours) == told(theirs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.aiki", "cannot be read"),
        ("tool = 3", "[tool.aiki] is not a table"),
        ("[tool]\naiki = 'x'", "[tool.aiki] is not a table"),
        ("[tool.aiki]\nredis = 3", "[tool.aiki] redis: expected a text, not 3"),
        ("[tool.aiki]\ndurability = 'perhaps'", "durability is one of always, everysec, memory"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_its_name(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        find_store({}, environ={}, directory=tmp_path)


def test_without_a_file_it_is_the_embedded_server(tmp_path: Path) -> None:
    found = find_store({}, environ={}, directory=tmp_path)
    assert (found.redis, found.data_dir, found.namespace) == (None, Path(".aiki"), "default")
    assert found.durability == "always"
