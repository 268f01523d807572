"""Commands that come to nothing: none disturbs the others on the same connection."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from aiki.errors import DataError, StoreUnavailable
from aiki.store import batch
from aiki.store.batch import Link
from aiki.store.connection import Address
from tests.support.peer import OK, Peer
from tests.support.store import TIMEOUT, Scene
from tests.support.waiting import eventually


async def test_a_command_that_cannot_be_encoded_is_refused_and_shifts_no_replies(
    scene: Scene,
) -> None:
    link = scene.store.link
    before = link.send(("ECHO", "before"))
    hostile = link.send(("ECHO", "\ud800"))
    after = link.send(("ECHO", "after"))
    await asyncio.sleep(0)
    others = [link.send(("ECHO", str(number))) for number in range(2 * batch.ENOUGH)]
    assert [await before, await after] == [b"before", b"after"]
    assert [int(await other) for other in others] == list(range(len(others)))
    with pytest.raises(DataError, match="cannot be sent"):
        await hostile


async def test_nothing_waits_behind_a_command_that_cannot_be_encoded(scene: Scene) -> None:
    for _ in range(2):
        with pytest.raises(DataError):
            await scene.store.link.send(("ECHO", "\ud800"))
    assert await scene.store.link.send(("ECHO", "after")) == b"after"


async def test_a_long_reply_that_takes_its_time_is_no_silence(tmp_path: Path) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url), timeout=2)
        await link.connect()
        reply = link.send(("GET", "a"))
        await eventually(lambda: peer.got)
        peer.say(b"$6\r\n")
        for part in (b"a", b"b", b"c", b"d", b"e", b"f"):  # 3 seconds in all
            await asyncio.sleep(0.5)
            peer.say(part)
        peer.say(b"\r\n")
        assert await reply == b"abcdef"
        assert peer.connections == 1
        await link.close()


async def test_a_reply_that_came_while_the_loop_stood_still_is_read(tmp_path: Path) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url), timeout=1)
        await link.connect()
        reply = link.send(("PING",))
        await eventually(lambda: peer.got)
        asyncio.get_running_loop().call_soon(peer.say, OK)
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251 - that is the point
        assert await reply == b"OK"
        assert peer.connections == 1
        await link.close()


async def test_what_nobody_waits_for_any_more_is_not_kept(tmp_path: Path) -> None:
    async with Peer(tmp_path / "peer", lambda _, __: None).listening() as peer:
        link = Link(Address(peer.url))
        await link.connect()
        under_way = link.send(("PING",))
        await eventually(lambda: peer.got)
        payload = "x" * 1_000
        starts = (link.send_within(("SET", "a", payload), 0.05) for _ in range(20))
        found = await asyncio.gather(*starts, return_exceptions=True)
        assert {type(each) for each in found} == {StoreUnavailable}
        assert len(link._waiting) <= 1
        peer.say(OK)
        assert await under_way == b"OK"
        await link.close()


async def test_a_command_that_pauses_when_the_link_is_closed_is_told_so(scene: Scene) -> None:
    link = scene.store.link
    refused = asyncio.get_running_loop().create_future()
    link._on_error((refused, ("PING",)), "BUSY for a while")
    await link.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await refused


@pytest.mark.parametrize(
    "word", ["LOADING Redis is loading the dataset in memory", "ERR max number of clients reached"]
)
async def test_a_server_that_is_not_ready_for_a_connection_is_asked_again(
    tmp_path: Path, word: str
) -> None:
    def greet(number: int) -> bytes:
        return OK if number in (1, 4) else f"-{word}\r\n".encode()

    async with Peer(tmp_path / "peer", lambda _, __: OK, greet=greet).listening() as peer:
        link = Link(Address(peer.url))
        await link.connect()
        peer.cut()
        async with asyncio.timeout(TIMEOUT):
            assert await link.send(("GET", "a")) == b"OK"
        assert peer.connections == 4
        await link.close()


async def test_whatever_goes_wrong_while_it_connects_again_it_tries_again(tmp_path: Path) -> None:
    prepared: list[Link] = []

    async def prepare(link: Link) -> None:
        prepared.append(link)
        if len(prepared) == 2:
            raise RuntimeError("nobody has thought of this")

    async with Peer(tmp_path / "peer", lambda _, __: OK).listening() as peer:
        link = Link(Address(peer.url), prepare=prepare)
        await link.connect()
        peer.cut()
        async with asyncio.timeout(TIMEOUT):
            assert await link.send(("GET", "a")) == b"OK"
        assert len(prepared) == 3
        await link.close()
