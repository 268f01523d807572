"""The connection that only listens: it comes back, and says so once it hears again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiki.store import inbox as module
from aiki.store.connection import Address
from aiki.store.inbox import Inbox
from tests.support.peer import Answer, Peer, Request
from tests.support.store import TIMEOUT, Scene
from tests.support.waiting import eventually


@asynccontextmanager
async def opened(address: Address, base: str) -> AsyncGenerator[Inbox]:
    made = Inbox(address, base)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def inbox(scene: Scene) -> AsyncIterator[Inbox]:
    """Make an inbox beside that of the scene's store."""
    async with opened(scene.store.address, scene.base) as made:
        yield made


@asynccontextmanager
async def peered(path: Path, answer: Answer) -> AsyncGenerator[tuple[Peer, Inbox]]:
    async with Peer(path, answer).listening() as peer, opened(Address(peer.url), "p:") as made:
        yield peer, made


def subscribed(*channels: bytes) -> bytes:
    return b"".join(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(c), c) for c in channels)


async def test_each_channel_has_its_messages_and_no_other(scene: Scene, inbox: Inbox) -> None:
    told: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    names = [
        await inbox.subscribe("a", lambda message: told.put_nowait(("a", message))),
        await inbox.subscribe("b", lambda message: told.put_nowait(("b", message))),
    ]
    for name in (*names, scene.base + "c", *names):
        await scene.command("PUBLISH", name, f"to {name[-1]}")
    async with asyncio.timeout(TIMEOUT):
        got = [await told.get() for _ in range(4)]
    assert got == 2 * [("a", b"to a"), ("b", b"to b")]


async def test_a_channel_that_was_left_is_not_heard(scene: Scene, inbox: Inbox) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    left = await inbox.subscribe("left", told.put_nowait)
    kept = await inbox.subscribe("kept", told.put_nowait)
    inbox.unsubscribe("left")
    await eventually(lambda: nobody_hears(scene, left))
    await scene.command("PUBLISH", kept, "kept")
    async with asyncio.timeout(TIMEOUT):
        assert await told.get() == b"kept"


async def nobody_hears(scene: Scene, channel: str) -> bool:
    reply = await scene.command("PUBSUB", "NUMSUB", channel)
    return int(reply[1]) == 0


async def test_after_a_cut_it_hears_again_and_tells_those_who_may_have_missed_something(
    scene: Scene, inbox: Inbox
) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()
    again = asyncio.Event()
    name = await inbox.subscribe("a", told.put_nowait, again.set)
    assert not again.is_set()
    await scene.command("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(TIMEOUT):
        await again.wait()
        # What is sent from that moment on is heard.
        assert await scene.command("PUBLISH", name, "after") == 1
        assert await told.get() == b"after"


async def test_nobody_is_told_that_it_hears_again_before_it_does(tmp_path: Path) -> None:
    """Given a watch that is made anew before the server listens, its message would be lost."""

    def answer(connection: int, request: Request) -> bytes | None:
        return subscribed(*request[1:]) if connection == 1 else None

    async with peered(tmp_path / "peer", answer) as (peer, inbox):
        told = asyncio.Event()
        await inbox.subscribe("a", lambda _: None, told.set)
        await inbox.subscribe("b", lambda _: None)
        peer.cut()
        await eventually(lambda: len(peer.got) == 3, what="it subscribes again")
        assert peer.got[2] == (2, [b"SUBSCRIBE", b"p:a", b"p:b"])
        peer.say(subscribed(b"p:a"))
        await asyncio.sleep(0.02)
        assert not told.is_set()
        peer.say(subscribed(b"p:b"))
        async with asyncio.timeout(TIMEOUT):
            await told.wait()


async def test_a_line_that_went_dead_is_replaced_and_the_new_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_EVERY", 0.5)

    def answer(connection: int, request: Request) -> bytes | None:
        if request[0] == b"PING":
            return None if connection == 1 else b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        return subscribed(*request[1:])

    async with peered(tmp_path / "peer", answer) as (peer, inbox):
        again = asyncio.Event()
        await inbox.subscribe("a", lambda _: None, again.set)
        async with asyncio.timeout(TIMEOUT):
            await again.wait()
        pings = len(peer.got)
        await eventually(lambda: len(peer.got) >= pings + 3, what="pings on the new line")
        assert peer.connections == 2
