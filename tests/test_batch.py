"""Group commit: batches, their order, and every way in which a reply may not come."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aiki.errors import StoreRefused, StoreUnavailable
from aiki.store import Store, batch, connection
from aiki.store.batch import Link
from aiki.store.connection import Address
from tests.support.peer import OK, Peer, Request
from tests.support.server import RedisServer
from tests.support.store import STREAM, TIMEOUT, Scene
from tests.support.waiting import eventually


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Start a server of the test's own, which keeps what it acknowledged."""
    server = RedisServer(tmp_path, "--busy-reply-threshold", "50")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def own(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Open a store on a server of the test's own, that is not waited for long."""
    store = Store(Address(own_server.url), "own")
    await store.open()
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    store.link._timeout = 0.5
    yield Scene(store)
    await store.close()


def written(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note each buffer that goes out."""
    wire = link._wire
    assert wire is not None
    buffers: list[bytes] = []
    write = wire.write

    def note(data: bytes) -> None:
        buffers.append(data)
        write(data)

    monkeypatch.setattr(wire, "write", note)
    return buffers


# Batches


async def test_what_gathers_while_a_batch_is_under_way_goes_out_as_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = scene.store.link
    buffers = written(link, monkeypatch)
    first = link.send(("ECHO", "first"))
    await asyncio.sleep(0)
    numbers = range(batch.ENOUGH - 1)
    rest = [link.send(("ECHO", str(number))) for number in numbers]
    assert await first == b"first"
    assert [await each for each in rest] == [str(number).encode() for number in numbers]
    assert [data.count(b"ECHO") for data in buffers] == [1, len(rest)]


async def test_a_batch_that_is_large_enough_does_not_wait_for_the_one_under_way(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = scene.store.link
    buffers = written(link, monkeypatch)
    futures = [link.send(("ECHO", str(number))) for number in range(3 * batch.ENOUGH + 1)]
    assert [data.count(b"ECHO") for data in buffers] == [batch.ENOUGH] * 3
    assert [int(await each) for each in futures] == list(range(len(futures)))
    assert len(buffers) == 4


async def test_what_is_under_way_is_bounded_in_commands_and_in_bytes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = scene.store.link
    buffers = written(link, monkeypatch)
    futures = [link.send(("ECHO", "x")) for _ in range(2 * batch.MAX_COMMANDS)]
    assert sum(data.count(b"ECHO") for data in buffers) == batch.MAX_COMMANDS
    await asyncio.gather(*futures)
    assert sum(data.count(b"ECHO") for data in buffers) == 2 * batch.MAX_COMMANDS
    for size, at_once in ((1 << 20, 4), (1 << 17, 32)):
        del buffers[:]
        futures = [link.send(("ECHO", b"x" * size)) for _ in range(2 * batch.ENOUGH)]
        await asyncio.gather(*futures)
        assert {data.count(b"ECHO") for data in buffers} == {at_once}


async def test_commands_are_done_in_the_order_in_which_they_were_sent(scene: Scene) -> None:
    link = scene.store.link
    numbers = range(2000)
    key = scene.base + "a list"
    await asyncio.gather(*(link.send(("RPUSH", key, number)) for number in numbers))
    got = await link.send(("LRANGE", key, 0, -1))
    assert [int(each) for each in got] == list(numbers)


async def test_one_command_that_fails_fails_its_caller_and_no_other(scene: Scene) -> None:
    link = scene.store.link
    sent = [link.send(("ECHO", "x") if number % 3 else ("ECHO",)) for number in range(30)]
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number % 3:
            assert outcome == b"x"
        else:
            assert isinstance(outcome, StoreRefused)


# Callers


async def test_a_caller_that_is_cancelled_leaves_its_command_on_its_way(
    own: Scene, own_server: RedisServer
) -> None:
    own_server.signal(signal.SIGSTOP)
    link = own.store.link
    caller = asyncio.ensure_future(link.send(("SET", "key", "done")))
    neighbour = link.send(("ECHO", "neighbour"))
    await eventually(lambda: len(link._inflight) == 2)
    caller.cancel()
    own_server.signal(signal.SIGCONT)
    assert await neighbour == b"neighbour"
    assert await link.send(("GET", "key")) == b"done"


async def test_what_a_caller_gave_up_before_it_went_out_is_not_sent(scene: Scene) -> None:
    link = scene.store.link
    link.send(("SET", scene.base + "key", "sent")).cancel()
    assert await link.send(("GET", scene.base + "key")) is None


async def test_a_caller_waits_as_long_as_it_said_and_is_told_what_is_wrong(
    own: Scene, own_server: RedisServer
) -> None:
    own_server.signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=r"within 0\.1 s.*may safely be sent again"):
        await own.store.link.send_within(("PING",), 0.1)
    await eventually(lambda: own.store.link.problem is not None)
    with pytest.raises(StoreUnavailable, match=r"\(unix://.*\)"):
        await own.store.link.send_within(("PING",), 0.1)
    own_server.signal(signal.SIGCONT)
    assert await own.store.link.send_within(("PING",), TIMEOUT) == b"PONG"


async def test_a_closed_link_keeps_nobody_waiting(own: Scene, own_server: RedisServer) -> None:
    own_server.signal(signal.SIGSTOP)
    link = own.store.link
    under_way = link.send(("PING",))
    await eventually(lambda: len(link._inflight) == 1)
    waiting = link.send(("PING",))
    await link.close()
    for future in (under_way, waiting, link.send(("PING",))):
        with pytest.raises(StoreUnavailable, match="closed"):
            await future


# Outcomes that are not known


def starts(scene: Scene, count: int) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(scene.start_run()) for _ in range(count)]


async def all_started_once(scene: Scene, starting: list[asyncio.Task[str]]) -> None:
    started = await asyncio.gather(*starting)
    assert sorted(await scene.entries()) == sorted(started)
    assert len(set(started)) == len(starting)


async def test_a_server_that_is_killed_and_comes_back_has_done_everything_once(
    own: Scene, own_server: RedisServer
) -> None:
    starting = starts(own, 600)
    await eventually(lambda: sum(each.done() for each in starting) > 50)
    starting += starts(own, 200)
    await asyncio.sleep(0)  # in which they are sent, and no reply is read
    own_server.kill()
    assert not all(each.done() for each in starting), "the fault came too late"
    more = starts(own, 50)
    own_server.start()
    await all_started_once(own, starting + more)


async def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(
    own: Scene, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cutter = Link(Address(own_server.url))
    await cutter.connect()
    starting: list[asyncio.Task[str]] = []
    for _ in range(8):
        await eventually(lambda: own.store.link._ready)
        starting += starts(own, 60)
        await asyncio.sleep(0)
        await cutter.send(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    await all_started_once(own, starting)
    await cutter.close()
    assert caplog.text.count("lost the connection") >= 3


async def test_a_server_that_stood_still_beyond_the_time_out_has_done_everything_once(
    own: Scene, own_server: RedisServer
) -> None:
    starting = starts(own, 50)
    own_server.signal(signal.SIGSTOP)
    await eventually(lambda: own.store.link._connecting is not None, what="a new connection")
    own_server.signal(signal.SIGCONT)
    await all_started_once(own, starting)


async def test_what_got_no_reply_is_sent_again_byte_for_byte(tmp_path: Path) -> None:
    def answer(connection: int, _: Request) -> bytes | None:
        return None if connection == 1 else OK

    async with Peer(tmp_path / "peer", answer).listening() as peer:
        link = Link(Address(peer.url), timeout=0.1)
        await link.connect()
        sent = [link.send(("SET", f"key {number}", b"\x00\r\n" * 9)) for number in range(20)]
        assert await asyncio.gather(*sent) == [b"OK"] * 20
        await link.close()
    first = [request for connection, request in peer.got if connection == 1]
    second = [request for connection, request in peer.got if connection == 2]
    assert first == second
    assert len(first) == 20


async def test_a_connection_that_breaks_within_a_reply_is_no_reply(tmp_path: Path) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url), timeout=1.5)
        await link.connect()
        replies = [link.send(("GET", "a")), link.send(("GET", "b"))]
        await eventually(lambda: len(peer.got) == 2)
        peer.say(b"$1\r\na\r\n$100\r\nhalf of ")
        await eventually(lambda: len(peer.got) == 3)
        assert peer.got[2] == (2, [b"GET", b"b"]), "the one that was answered is not sent again"
        peer.say(b"$1\r\nb\r\n")
        assert await asyncio.gather(*replies) == [b"a", b"b"]
        await link.close()


async def test_a_slow_line_is_not_taken_for_a_broken_one(tmp_path: Path) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url), timeout=2)
        await link.connect()
        replies = [link.send(("PING",)) for _ in range(6)]
        for reply in replies:  # 3 seconds in all
            await asyncio.sleep(0.5)
            peer.say(OK)
            assert await reply == b"OK"
        assert peer.connections == 1
        await link.close()


async def test_a_link_that_does_not_send_again_says_that_the_outcome_is_unknown(
    tmp_path: Path,
) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url), timeout=0.1, resend=False)
        await link.connect()
        with pytest.raises(StoreUnavailable):
            await link.send(("XREADGROUP",))
        await link.close()
        assert len(peer.got) == 1


# Refusals that pass


async def test_scripts_that_are_flushed_all_the_time_are_not_noticed(own: Scene) -> None:
    starting: list[asyncio.Task[str]] = []
    for _ in range(10):
        own.store.link.send(("SCRIPT", "FLUSH"))
        starting += starts(own, 30)
        await asyncio.sleep(0)
    started = await asyncio.gather(*starting)
    assert await own.entries() == started, "and they are done in the order they were sent"


async def test_a_busy_server_is_waited_for(own: Scene, own_server: RedisServer) -> None:
    other = Link(Address(own_server.url), timeout=TIMEOUT)
    await other.connect()
    busy = other.send(("EVAL", "while true do end", "0"))
    await asyncio.sleep(0)
    starting = starts(own, 20)
    await eventually(lambda: "BUSY" in str(own.store.link.problem), what="the server is busy")
    killer = Link(Address(own_server.url))
    await killer.connect()
    await killer.send(("SCRIPT", "KILL"))
    with pytest.raises(StoreRefused):
        await busy
    await all_started_once(own, starting)
    await other.close()
    await killer.close()


async def test_a_refusal_that_passes_is_waited_out(own: Scene) -> None:
    await own.store.link.send(("CONFIG", "SET", "min-replicas-to-write", "1"))
    starting = starts(own, 5)
    await eventually(lambda: str(own.store.link.problem).startswith("NOREPLICAS"))
    assert not any(each.done() for each in starting)
    await own.store.link.send(("CONFIG", "SET", "min-replicas-to-write", "0"))
    await all_started_once(own, starting)


async def test_a_primary_that_becomes_a_replica_is_left_until_it_is_one_no_more(
    own: Scene,
) -> None:
    address = own.store.address
    admin = Link(address)
    await admin.connect()
    await admin.send(("REPLICAOF", "localhost", "1"))
    starting = starts(own, 5)
    await eventually(lambda: "it is a replica" in str(own.store.link.problem))
    # It is asked what it is, and not sent the same again and again.
    stats = (await admin.send(("INFO", "errorstats"))).decode()
    assert int(re.findall(r"errorstat_READONLY:count=(\d+)", stats)[0]) <= len(starting)
    assert not any(each.done() for each in starting)
    await admin.send(("REPLICAOF", "NO", "ONE"))
    await all_started_once(own, starting)
    await admin.close()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable),
        (b"-BUSY Redis is busy running a script\r\n", StoreUnavailable),
        (b"-NOPERM this user has no permissions\r\n", StoreRefused),
        (None, StoreUnavailable),
    ],
)
async def test_a_connection_that_cannot_be_prepared_is_not_waited_for(
    tmp_path: Path, reply: bytes | None, error: type[Exception]
) -> None:
    async def prepare(link: Link) -> None:
        await link.immediately(("INFO",))

    async with Peer(tmp_path / "peer", lambda _, __: reply).listening() as peer:
        link = Link(Address(peer.url), prepare=prepare, timeout=0.1)
        with pytest.raises(error):
            await link.connect()
        await link.close()


async def test_entries_that_came_while_the_connection_broke_can_be_read_again(own: Scene) -> None:
    worker = await own.register()
    run_id = await own.start_run()
    reader = own.store.workers.ready_reader(own.store.address, worker)
    await own.deliver(worker)
    (entry,) = await reader.read_delivered([STREAM])
    assert entry.run_id == run_id
    await own.claim(entry, worker)
    assert await reader.read_delivered([STREAM]) == []
    await reader.close()
