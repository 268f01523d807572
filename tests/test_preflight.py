"""What a server must be before runs are trusted to it, asked at every connection."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from aiki.errors import AikiError, StoreRefused, StoreUnavailable
from aiki.store import Store
from aiki.store.connection import Address
from aiki.store.preflight import ASSUME
from aiki.store.scripts import SCRIPTS
from tests.support.peer import OK, Peer, Request
from tests.support.store import TIMEOUT, Scene
from tests.support.waiting import eventually

Configure = Callable[..., Awaitable[None]]
FIT = (
    b"redis_version:7.0.0\r\nrole:master\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
    b"aof_enabled:1\r\n"
)


async def open_and_close(url: str) -> Store:
    store = Store(Address(url), secrets.token_hex(6))
    try:
        async with asyncio.timeout(TIMEOUT):
            await store.open()
    finally:
        await store.close()
    return store


@pytest.fixture
async def configure(scene: Scene) -> AsyncIterator[Configure]:
    """Change settings of the server until the test ends."""
    changed: dict[str, bytes] = {}

    async def change(name: str, value: str) -> None:
        before = await scene.command("CONFIG", "GET", name)
        changed.setdefault(name, before[1])
        await scene.command("CONFIG", "SET", name, value)

    yield change
    for name, value in changed.items():
        await scene.command("CONFIG", "SET", name, value)


async def user_url(scene: Scene, *rights: str) -> str:
    """Make a user of the server with these rights, and give the URL by which it connects."""
    name = secrets.token_hex(6)
    await scene.command("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all", *rights)
    return scene.store.address.url.replace("://", f"://{name}:secret@")


def info_of(text: bytes) -> Callable[[int, Request], bytes | None]:
    def answer(_: int, request: Request) -> bytes:
        if request[0] == b"INFO":
            return b"$%d\r\n%b\r\n" % (len(text), text)
        if request[0] == b"EVALSHA":
            is_trial = request[1].decode() == SCRIPTS["try_commands"].sha
            return b"*0\r\n" if is_trial else b"*4\r\n$2\r\nid\r\n$1\r\n1\r\n$1\r\n1\r\n$-1\r\n"
        return OK

    return answer


# What it is


async def test_a_fit_server_is_opened_and_nothing_is_left_of_the_check(scene: Scene) -> None:
    assert await scene.keys() == {"meta"}


@pytest.mark.parametrize(
    ("info", "findings"),
    [
        (FIT.replace(b"7.0.0", b"6.2.14"), ["it is Redis 6.2.14, and 7.0 is the oldest"]),
        (FIT.replace(b"7.0.0", b"255.255.255"), []),
        (FIT.replace(b"7.0.0", b"unstable"), ["it is Redis unstable"]),
        (FIT.replace(b"master", b"slave"), ["it is a replica"]),
        (FIT.replace(b"7.0.0", b"5.0.1").replace(b"master", b"slave"),
         ["it is Redis 5.0.1", "it is a replica"]),
        (b"not an answer", ["it is Redis of unknown version", "it is a replica"]),
        (b"redis_version:7.2.0\r\nrole:master\r\n", ["it evicts keys", "unknown"]),
    ],
)  # fmt: skip
async def test_every_finding_is_told_at_once(
    tmp_path: Path, info: bytes, findings: list[str]
) -> None:
    async with Peer(tmp_path / "peer", info_of(info)).listening() as peer:
        if not findings:
            await open_and_close(peer.url)
            return
        with pytest.raises(StoreRefused) as caught:
            await open_and_close(peer.url)
    for finding in findings:
        assert finding in str(caught.value)


@pytest.mark.one_server("a cluster or a sentinel would have a word in that")
async def test_a_replica_is_refused(store_url: str, scene: Scene) -> None:
    await scene.command("REPLICAOF", "localhost", "1")
    try:
        with pytest.raises(StoreRefused, match="connect to the primary"):
            await open_and_close(store_url)
    finally:
        await scene.command("REPLICAOF", "NO", "ONE")


async def test_a_server_that_evicts_is_refused(store_url: str, configure: Configure) -> None:
    await configure("maxmemory-policy", "allkeys-lru")
    await configure("maxmemory", "1gb")
    with pytest.raises(StoreRefused, match=r"allkeys-lru.*set it to noeviction"):
        await open_and_close(store_url)
    await configure("maxmemory-policy", "noeviction")
    await open_and_close(store_url)


async def test_a_server_that_would_evict_once_it_had_a_limit_is_warned_of(
    store_url: str, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    await configure("maxmemory-policy", "volatile-ttl")
    with caplog.at_level(logging.WARNING, "aiki.store"):
        await open_and_close(store_url)
    assert "would evict keys by volatile-ttl" in caplog.text


async def test_a_policy_that_is_changed_is_noticed_at_the_next_connection(
    store_url: str, scene: Scene, configure: Configure
) -> None:
    store = Store(Address(store_url), secrets.token_hex(6))
    await store.open()
    await configure("maxmemory-policy", "allkeys-random")
    await configure("maxmemory", "1gb")
    assert store.link._wire is not None
    store.link._wire.abort()
    await eventually(lambda: "allkeys-random" in str(store.link.problem))
    waiting = store.link.send(("PING",))
    with pytest.raises(StoreUnavailable, match="allkeys-random"):
        await store.link.send_within(("PING",), 0.05)
    await configure("maxmemory-policy", "noeviction")
    async with asyncio.timeout(TIMEOUT):
        assert await waiting == b"PONG"
    await store.close()
    assert scene.store.link.problem is None


async def test_what_an_acknowledged_write_has_survived_is_said_in_words(
    scene: Scene, tmp_path: Path
) -> None:
    assert "without an append-only file" in scene.store.preflight.guarantee
    async with Peer(tmp_path / "peer", info_of(FIT)).listening() as peer:
        store = await open_and_close(peer.url)
    assert store.preflight.guarantee == "append-only file on"


# What it allows


async def test_where_eviction_cannot_be_verified_the_server_is_refused_unless_told_to_assume(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await user_url(scene, "-info")
    monkeypatch.delenv(ASSUME, raising=False)
    with pytest.raises(StoreRefused, match=f"cannot be verified.*{ASSUME}=1"):
        await open_and_close(url)
    monkeypatch.setenv(ASSUME, "1")
    store = await open_and_close(url)
    assert "unknown" in store.preflight.guarantee


@pytest.mark.parametrize(
    ("rights", "word"),
    [
        (["-xack"], "XACK"),
        (["-evalsha"], "evalsha"),
        (["-script"], "script"),
        (["resetchannels"], "PUBLISH"),
        (["resetkeys", "~others:*"], "key"),
    ],
)
async def test_a_user_who_may_not_do_all_that_the_scripts_do_is_refused_before_one_stops_half_way(
    scene: Scene, rights: list[str], word: str
) -> None:
    url = await user_url(scene, *rights)
    with pytest.raises(StoreRefused, match=f"(?i)refuses what the scripts need .*{word}"):
        await open_and_close(url)


async def test_bad_settings_and_missing_rights_are_told_together(
    scene: Scene, configure: Configure
) -> None:
    url = await user_url(scene, "-zadd", "-xdel")
    await configure("maxmemory-policy", "allkeys-lru")
    await configure("maxmemory", "1gb")
    with pytest.raises(StoreRefused) as caught:
        await open_and_close(url)
    for word in ("allkeys-lru", "ZADD", "XDEL"):
        assert word in str(caught.value)


async def test_a_user_who_may_not_listen_is_told_so(scene: Scene) -> None:
    store = Store(Address(await user_url(scene, "-subscribe")), secrets.token_hex(6))
    await store.open()
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(StoreRefused, match="subscribe"):
            await store.inbox.subscribe("inbox", lambda _: None)
    await store.close()


# Whether it is there


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="nowhere"):
        await open_and_close(f"unix://{tmp_path / 'nowhere'}")


async def test_a_wrong_password_is_told_and_not_repeated(store_url: str) -> None:
    url = store_url.replace("://", "://default:guessed@")
    store = Store(Address(url.replace("default", "nobody")), "x")
    with pytest.raises(AikiError) as caught:
        await store.open()
    await store.close()
    assert "guessed" not in str(caught.value)
