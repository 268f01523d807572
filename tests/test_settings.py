"""Where the settings of a supervisor come from, and what is refused with which words."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aiki.errors import ConfigError
from aiki.supervisor import Settings
from aiki.supervisor.settings import OPTIONS, cores, misspelled

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load settings in a directory of their own, from flags, a made-up environment and a file."""

    def loaded(
        flags: dict[str, object] | None = None,
        environ: dict[str, str] | None = None,
        file: str | None = None,
    ) -> Settings:
        if file is not None:
            (tmp_path / "pyproject.toml").write_text(file)
        return Settings.load(flags, flags=True, environ=environ or {}, directory=tmp_path)

    return loaded


def test_the_defaults_are_those_of_the_documentation(load: Load) -> None:
    assert load() == Settings() == Settings(
        redis=None,
        data_dir=Path(".aiki"),
        durability="always",
        namespace="default",
        workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores(),
        max_concurrent_workflow_runs=200,
        pools=("default",),
        heartbeat=1.0,
        lease=10.0,
        hang_timeout=30.0,
        grace=30.0,
        max_memory=1024**3,
        retention=7 * 24 * 3600.0,
        unserved_after=24 * 3600.0,
        log_level="info",
        log_format="text",
    )  # fmt: skip


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    load: Load,
) -> None:
    file = "[tool.aiki]\nworkers = 3\nlease = 11\nheartbeat = '2s'"
    environ = {"AIKI_WORKERS": "4", "AIKI_LEASE": "12"}
    found = load({"workers": "5"}, environ, file)
    assert (found.workers, found.lease, found.heartbeat, found.grace) == (5, 12.0, 2.0, 30.0)


def test_a_variable_that_is_empty_is_not_set(load: Load) -> None:
    assert load(environ={"AIKI_WORKERS": ""}, file="[tool.aiki]\nworkers = 3").workers == 3


def test_each_setting_can_be_given_in_each_place(load: Load) -> None:
    written = {
        "redis": "redis://localhost",
        "data_dir": "there",
        "durability": "memory",
        "namespace": "shop",
        "workers": "7",
        "max_concurrent_workflow_runs": "50",
        "pools": "a, b",
        "heartbeat": "500ms",
        "lease": "1m",
        "hang_timeout": "2m",
        "grace": "0",
        "max_memory": "512MiB",
        "retention": "3h",
        "unserved_after": "2d",
        "encryption_keys": "keys",
        "compress_over": "4KiB",
        "log_level": "debug",
        "log_format": "json",
    }
    assert {option.name for option in OPTIONS} == written.keys()
    for option in OPTIONS:
        text = written[option.name]
        expected = getattr(Settings(**{option.name: option.read(text)}), option.name)
        assert expected != getattr(Settings(), option.name), "the test must see a difference"
        places: list[dict[str, Any]] = [
            {"flags": {option.name: text}},
            {"environ": {option.variable: text}},
            {"file": f"[tool.aiki]\n{option.key} = {text!r}"},
        ]
        assert [getattr(load(**place), option.name) for place in places] == [expected] * 3


def test_the_url_comes_from_the_variable_that_clients_read_too(load: Load) -> None:
    assert load(environ={"AIKI_REDIS_URL": "redis://there"}).redis == "redis://there"


def test_a_data_directory_as_a_flag_beats_a_redis_in_the_environment(load: Load) -> None:
    found = load({"data_dir": "here"}, {"AIKI_REDIS_URL": "redis://there"})
    assert (found.redis, found.data_dir) == (None, Path("here"))


def test_a_redis_as_a_flag_beats_a_data_directory_in_the_file(load: Load) -> None:
    found = load({"redis": "redis://there"}, file="[tool.aiki]\ndata-dir = 'here'")
    assert (found.redis, found.data_dir) == ("redis://there", None)


def test_a_redis_and_a_data_directory_side_by_side_are_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"--redis and --data-dir are both given"):
        load({"redis": "redis://there", "data_dir": "here"})
    with pytest.raises(ConfigError, match="not both"):
        Settings(redis="redis://there", data_dir=Path("here"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20", 20.0), ("10s", 10.0), ("1.5h", 5400.0), ("5 m", 300.0), ("7d", 604800.0),
        ("100ms", 0.1), (10, 10.0), (0.5, 0.5), (timedelta(minutes=1), 60.0),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_or_a_number_with_a_unit(
    load: Load, text: object, seconds: float
) -> None:
    assert load({"grace": text}).grace == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 1024**2), ("1g", 1024**3), ("100MB", 100 * 1000**2), ("1.5 GiB", 1610612736),
        (2**30, 2**30), ("1073741825", 2**30 + 1),
    ],
)  # fmt: skip
def test_a_size_is_bytes_or_a_number_with_a_unit(load: Load, text: object, size: int) -> None:
    assert load({"max_memory": text}).max_memory == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", "0"), ("workers", "-1"), ("workers", "two"), ("workers", "1.5"),
        ("workers", True), ("workers", "1" * 30),
        pytest.param("workers", -(10**400), id="workers-googols"),
        ("max_concurrent_workflow_runs", "0"),
        ("grace", "-1"), ("grace", "nan"), ("grace", "inf"),
        pytest.param("grace", float("nan"), id="grace-float-nan"),
        ("grace", True), ("grace", "10 parsecs"), ("grace", ""), ("grace", "11y"),
        ("grace", "3654d"), pytest.param("grace", 10**400, id="grace-googols"), ("grace", [1]),
        ("heartbeat", "0"), ("lease", "0"), ("hang_timeout", "0"),
        ("retention", "1s"),
        ("max_memory", "1MiB"), ("max_memory", "lots"), ("max_memory", "-1"),
        ("durability", "sometimes"), ("log_level", "chatty"), ("log_format", "xml"),
        ("redis", ""), ("data_dir", ""), ("data_dir", 3),
        ("pools", []), ("pools", "a,,b"), ("pools", 3), ("pools", [1]),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_the_flag_it_came_from(
    load: Load, name: str, value: object
) -> None:
    flag = next(f"--{option.key}" for option in OPTIONS if option.name == name)
    with pytest.raises(ConfigError, match=f"^{flag}: expected "):
        load({name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("redis", "http://there"), ("namespace", "a:b"), ("namespace", "")]
)
def test_what_clients_refuse_is_refused_here_too(load: Load, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^--{name}: "):
        load({name: value})


def test_a_bad_value_is_refused_with_the_variable_it_came_from(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"^AIKI_MAX_MEMORY: expected .* not 'lots'$"):
        load(environ={"AIKI_MAX_MEMORY": "lots"})


def test_a_bad_value_is_refused_with_the_file_and_key_it_came_from(
    load: Load, tmp_path: Path
) -> None:
    where = re.escape(f"{tmp_path / 'pyproject.toml'}: [tool.aiki] max-memory: expected")
    with pytest.raises(ConfigError, match=where):
        load(file="[tool.aiki]\nmax-memory = 'lots'")


def test_a_variable_that_nothing_reads_is_told_from_those_of_others() -> None:
    environ = {
        "AIKI_REDIS": "redis://db",
        "AIKI_POOLS": "gpu",
        "AIKI_WORKERS": "2",
        "AIKI_ALWAYS_SUSPEND": "1",
        "AIKI_ASSUME_NOEVICTION": "1",
        "AIKI_OF_OURS": "",
        "WORKERS": "",
    }
    assert misspelled(environ) == {"AIKI_POOLS": "AIKI_POOL", "AIKI_REDIS": "AIKI_REDIS_URL"}


def test_a_key_that_is_no_setting_is_refused_with_those_that_are(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"no setting worker; there are .*workers"):
        load(file="[tool.aiki]\nworker = 3")


def test_a_file_that_is_not_toml_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"pyproject\.toml: is not TOML: .*line 2"):
        load(file="[tool]\n=")


def test_a_table_that_is_none_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"\[tool\.aiki\] is not a table"):
        load(file="[tool]\naiki = 3")


def test_a_file_without_a_table_for_us_says_nothing(load: Load) -> None:
    assert load(file="[project]\nname = 'x'") == Settings()


def test_a_lease_of_less_than_three_heartbeats_is_refused_with_what_set_them(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"AIKI_HEARTBEAT, --lease: lease \(5 s\) is less than 3"):
        load({"lease": "5"}, {"AIKI_HEARTBEAT": "2"})


def test_an_option_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="worker: a supervisor has no such option"):
        Settings.load({"worker": 3}, environ={}, directory=tmp_path)


def test_settings_made_by_hand_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^workers: expected a whole number"):
        Settings(workers=0)
