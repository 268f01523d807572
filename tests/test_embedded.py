"""The embedded server and its users: real processes, real signals, one server."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from aiki import embedded
from aiki.embedded import EmbeddedServer
from aiki.errors import StoreRefused, StoreUnavailable
from aiki.valkey_server import ServerProcess
from tests.support.embedded_users import (
    User,
    append_only_file,
    ask,
    configured,
    is_running,
    record,
    server_pid,
    servers,
    wait_until,
)

NewUser = Callable[..., User]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    for process in servers(tmp_path):
        process.kill()


@pytest.fixture
def new_user(directory: Path) -> Iterator[NewUser]:
    users: list[User] = []

    def start(prepared: str = "") -> User:
        users.append(User(directory, prepared))
        assert users[-1].receive() == "up"
        return users[-1]

    yield start
    for user in users:
        user.close()


def test_the_only_user_starts_the_server_and_stops_it(directory: Path) -> None:
    server = EmbeddedServer(directory)
    url = server.attach()
    assert ask(url, "PING") == "+PONG\r\n"
    assert record(directory).pid == server_pid(url)
    server.detach()
    wait_until(lambda: not servers(directory), "it has ended")
    assert ServerProcess.read(directory) is None
    server.detach()  # again: nothing to do


def test_attaching_to_a_running_server_and_starting_one_are_quick(directory: Path) -> None:
    with EmbeddedServer(directory):
        pass  # the first start imports the package of the binary
    starts: list[float] = []
    attachments: list[float] = []
    # The quickest of several: a machine that stands still for a moment makes one slow.
    while len(starts) < 3 or (len(starts) < 10 and not is_quick(starts, attachments)):
        before = time.monotonic()
        with EmbeddedServer(directory) as url:
            started = time.monotonic()
            with EmbeddedServer(directory) as same:
                attached = time.monotonic()
        assert url == same
        starts.append(started - before)
        attachments.append(attached - started)
    assert is_quick(starts, attachments), (starts, attachments)


def is_quick(starts: list[float], attachments: list[float]) -> bool:
    """Tell far above the 50 ms and 0.5 ms of a quiet machine, and far below a poll of a second."""
    return min(starts) < 1 and min(attachments) < 0.5


def test_ten_users_at_once_share_one_server_which_ends_with_the_last(
    directory: Path, new_user: NewUser
) -> None:
    processes = [new_user() for _ in range(10)]
    for user in processes:
        user.send("attach")
    (url,) = {user.receive() for user in processes}
    (server,) = servers(directory)
    first, *others = processes
    for user in others:
        user.send("detach")
    assert {user.receive() for user in others} == {"None"}
    assert server_pid(url) == server.pid
    assert first.call("detach") == "None"
    wait_until(lambda: not is_running(server.pid), "it has ended")


def test_users_in_one_process_count_one_by_one(directory: Path) -> None:
    first, second = EmbeddedServer(directory), EmbeddedServer(directory)
    url = first.attach()
    assert second.attach() == url
    first.detach()
    assert ask(url, "PING") == "+PONG\r\n"
    second.detach()
    wait_until(lambda: not servers(directory), "it has ended")


def test_attaching_and_detaching_in_turn_never_runs_two_servers_nor_stops_a_used_one(
    directory: Path, new_user: NewUser
) -> None:
    churn = """
import socket
def churn():
    for _ in range(2):
        url = server.attach()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(url.removeprefix("unix://"))
            connection.sendall(b"INCR attached\\r\\n")
            assert connection.recv(100).startswith(b":")
        server.detach()
    return "done"
server.churn = churn
"""
    users = [new_user(churn) for _ in range(3)]
    for user in users:
        user.send("churn")
    assert [user.receive() for user in users] == ["done"] * 3
    with EmbeddedServer(directory) as url:
        assert ask(url, "GET attached") == "$1\r\n6\r\n"
        assert len(servers(directory)) == 1


def test_a_server_outlives_its_killed_starter_and_is_found_again(
    directory: Path, new_user: NewUser
) -> None:
    starter = new_user()
    pid = server_pid(starter.call("attach"))
    starter.close()
    with EmbeddedServer(directory) as url:
        assert server_pid(url) == pid
    wait_until(lambda: not is_running(pid), "it has ended")


def test_ctrl_c_in_the_group_of_the_starter_does_not_reach_the_server(
    directory: Path, new_user: NewUser
) -> None:
    starter = new_user("sys.stderr = open(os.devnull, 'w')")
    pid = server_pid(starter.call("attach"))
    os.killpg(starter.pid, signal.SIGINT)
    assert starter.process.wait(30) != 0
    with EmbeddedServer(directory) as url:
        assert server_pid(url) == pid


@pytest.mark.parametrize(
    ("moment", "recorded"),
    [
        pytest.param("valkey_server.ServerProcess.write = die", 0, id="before the record"),
        pytest.param("valkey_server.Launch.__init__ = die", 1, id="before the server answers"),
    ],
)
def test_a_starter_killed_half_way_leaves_no_server_or_one_that_is_found(
    directory: Path, new_user: NewUser, moment: str, recorded: int
) -> None:
    starter = new_user(moment)
    assert starter.call("attach") == ""
    assert starter.process.wait(30) == -signal.SIGKILL
    left = ServerProcess.read(directory)
    assert (left is not None) == recorded
    with EmbeddedServer(directory) as url:
        assert left is None or server_pid(url) == left.pid
        assert [process.pid for process in servers(directory)] == [server_pid(url)]


def test_a_stop_whose_process_was_killed_half_way_is_finished_by_the_next_user(
    directory: Path, new_user: NewUser
) -> None:
    last = new_user("valkey_server.ServerProcess.end = die")
    pid = server_pid(last.call("attach"))
    assert last.call("detach") == ""
    assert is_running(pid)
    with EmbeddedServer(directory) as url:
        wait_until(lambda: not is_running(pid), "it has ended")
        assert server_pid(url) != pid


def test_a_killed_server_is_started_anew_on_its_data_and_url(directory: Path) -> None:
    server, other = EmbeddedServer(directory), EmbeddedServer(directory)
    url = server.attach()
    other.attach()
    assert ask(url, "SET order 42") == "+OK\r\n"
    pid = server_pid(url)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), "its starter reaps it")
    assert other.attach() == url
    assert ask(url, "GET order") == "$2\r\n42\r\n"
    server.detach()
    assert ask(url, "PING") == "+PONG\r\n"
    other.detach()


def test_detaching_after_the_server_was_killed_finds_nothing_to_stop(directory: Path) -> None:
    server = EmbeddedServer(directory)
    os.kill(server_pid(server.attach()), signal.SIGKILL)
    server.detach()
    assert ServerProcess.read(directory) is None


def test_the_end_of_a_server_leaves_neither_zombie_nor_thread_nor_descriptor(
    directory: Path,
) -> None:
    with EmbeddedServer(directory):
        pass
    before = psutil.Process().num_fds()
    pids: list[int] = []
    for _ in range(3):
        with EmbeddedServer(directory) as url:
            pids.append(server_pid(url))
    append_only_file(directory).write_text("*nonsense\r\n")
    with pytest.raises(StoreRefused):
        EmbeddedServer(directory).attach()
    assert psutil.Process().num_fds() <= before
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "they have been reaped")
    wait_until(
        lambda: not any(thread.name == "aiki-server-reaper" for thread in threading.enumerate()),
        "who reaps has ended",
    )


def test_the_server_holds_none_of_the_users_files(directory: Path) -> None:
    with EmbeddedServer(directory) as url:
        opened = {file.path for file in psutil.Process(server_pid(url)).open_files()}
    assert not opened & {str(directory / "users"), str(directory / "server.lock")}


def test_a_process_that_has_the_pid_of_a_dead_server_is_never_signalled(
    directory: Path, new_user: NewUser
) -> None:
    bystander = new_user()
    directory.mkdir(mode=0o700)
    ServerProcess(bystander.pid, 1.0, str(directory / "server.sock"), "always").write(directory)
    with EmbeddedServer(directory) as url:
        assert server_pid(url) != bystander.pid
    assert is_running(bystander.pid)


def test_a_record_that_names_another_process_stops_nobody_and_says_so(
    directory: Path, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_DEADLINE", 0.1)
    bystander = new_user()
    server = EmbeddedServer(directory)
    url = server.attach()
    true = record(directory)
    ServerProcess(bystander.pid, true.birth, true.socket, true.durability).write(directory)
    with pytest.raises(StoreUnavailable, match="fuser"):
        server.detach()
    assert is_running(bystander.pid)
    assert server_pid(url) == true.pid


def test_a_server_that_does_not_end_is_an_error_that_names_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_DEADLINE", 0.1)
    server = EmbeddedServer(directory)
    pid = server_pid(server.attach())
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=f"process {pid}, was told to stop"):
        server.detach()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not psutil.pid_exists(pid), "it ends as it was told")


def test_a_server_that_does_not_answer_is_an_error_that_names_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(directory)
    url = server.attach()
    monkeypatch.setattr(embedded, "SILENCE_DEADLINE", 0.1)
    pid = server_pid(url)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=f"process {pid}, has not answered"):
        EmbeddedServer(directory).attach()
    os.kill(pid, signal.SIGCONT)
    assert server_pid(url) == pid
    server.detach()


def test_a_server_of_another_durability_without_users_is_replaced(
    directory: Path, new_user: NewUser
) -> None:
    starter = new_user("server._durability = 'everysec'")
    url = starter.call("attach")
    assert ask(url, "SET order 42") == "+OK\r\n"
    starter.close()
    with EmbeddedServer(directory) as url:
        assert configured(url, "appendfsync") == "always"
        assert ask(url, "GET order") == "$2\r\n42\r\n"


def test_a_forked_child_does_not_end_the_use_of_its_parent(
    directory: Path, new_user: NewUser
) -> None:
    fork = """
def fork():
    if os.fork() == 0:
        server.detach()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.wait()[1])
server.fork = fork
"""
    user = new_user(f"import warnings; warnings.simplefilter('ignore')\n{fork}")
    url = user.call("attach")
    assert user.call("fork") == "0"
    assert ask(url, "PING") == "+PONG\r\n"
    assert user.call("detach") == "None"
    wait_until(lambda: not servers(directory), "it has ended")


def test_removing_the_directory_under_a_server_does_not_harm_its_successor(
    directory: Path,
) -> None:
    old, new = EmbeddedServer(directory), EmbeddedServer(directory)
    old_pid = server_pid(old.attach())
    shutil.rmtree(directory)
    url = new.attach()
    assert server_pid(url) != old_pid
    old.detach()
    wait_until(lambda: not is_running(old_pid), "it has ended")
    assert ask(url, "PING") == "+PONG\r\n"
    new.detach()
