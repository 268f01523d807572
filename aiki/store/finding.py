"""Where the primary is, for stores that have more than one server.

Those who should know are asked all at once, and who has the highest epoch is believed: one that
was cut off from the others may still name a primary that is one no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from aiki.errors import StoreUnavailable
from aiki.store.login import drop
from aiki.store.urls import Place, Target, said

ASK_TIMEOUT = 1.5  # seconds for all that are asked together, once one of them has answered
# Until the first has: on a machine that stands still for a moment, nobody is prompt.
PATIENCE = 4.0
MOST_ASKED = 7
_NOWHERE = ("", "?")  # what stands for the host of a node that has no name, or is to tell none

Connect: TypeAlias = Callable[[Place], AbstractConnection]
Answer: TypeAlias = tuple[int, Place]  # epoch, primary


class Finder(Protocol):
    """Knows whom to ask."""

    async def find(self) -> Place:
        """Say where the primary is now. Raises `StoreUnavailable` where nobody knows."""
        ...


class Sentinels:
    """Sentinels that watch one service."""

    def __init__(self, target: Target, connect: Connect) -> None:
        self._target = target
        self._connect = connect

    async def find(self) -> Place:
        """Ask every sentinel."""
        seeds = self._target.seeds
        told = await _ask_all([self._ask(seed) for seed in seeds], len(seeds) // 2 + 1)
        return _believed(told, f"{self._target.described}: no sentinel knows a primary")

    async def _ask(self, seed: Place) -> Answer:
        name = self._target.service
        named, about = await _ask(
            self._connect(seed),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name),
            ("SENTINEL", "MASTER", name),
        )
        if isinstance(about, ResponseError) or not named:
            raise StoreUnavailable(f"{said(seed)} watches no service {name!r}")
        known = dict(zip(about[::2], about[1::2], strict=True))
        return int(known[b"config-epoch"]), (named[0].decode(), int(named[1]))


class Slots:
    """Nodes of a cluster; of all its slots, one is ours."""

    def __init__(self, target: Target, connect: Connect, key: str) -> None:
        self._target = target
        self._connect = connect
        self._slot = key_slot(key.encode())
        self._known: tuple[Place, ...] = ()
        self._moved_to: Place | None = None

    def moved(self, error: str) -> None:
        """Take from a reply where the slot is now: it is known there before it is elsewhere."""
        parts = error.split(" ")
        if len(parts) == len(("MOVED", "slot", "place")) and parts[0] == "MOVED":
            host, _, port = parts[2].rpartition(":")
            if host not in _NOWHERE and port.isdecimal():
                self._moved_to = host, int(port)

    async def find(self) -> Place:
        """Ask the nodes that are known, and those of the URL."""
        moved_to, self._moved_to = self._moved_to, None
        if moved_to is not None:
            return moved_to
        nodes = tuple(dict.fromkeys((*self._known, *self._target.seeds)))[:MOST_ASKED]
        told = await _ask_all([self._ask(node) for node in nodes], len(nodes) // 2 + 1)
        return _believed(told, f"{self._target.described}: no node knows who serves our slot")

    async def _ask(self, node: Place) -> Answer:
        info, slots = await _ask(self._connect(node), ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
        if isinstance(info, ResponseError) or isinstance(slots, ResponseError):
            raise StoreUnavailable(
                f"{said(node)}: {info if isinstance(info, Exception) else slots}"
            )
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        primary: Place | None = None
        known: list[Place] = []
        for first, last, *servers in slots:
            places = [(_host(server, node), int(server[1])) for server in servers]
            known += places
            if first <= self._slot <= last:
                primary = places[0]
        if primary is None:
            raise StoreUnavailable(f"{said(node)}: nobody serves slot {self._slot}")
        self._known = tuple(dict.fromkeys((primary, *known)))
        return int(facts.get("cluster_current_epoch", 0)), primary


def _host(server: Sequence[Any], asked: Place) -> str:
    """Give the host of a node that another one tells of, who may not know one to tell."""
    name = (server[0] or b"").decode()
    if name not in _NOWHERE:
        return name
    # Where names are to be told and it has none, its address stands beside. A node that is told
    # to name no endpoint at all is at another port of whoever was asked.
    beside = list(server[3]) if len(server) > len(("host", "port", "id")) and name else []
    known = dict(zip(beside[::2], beside[1::2], strict=True))
    return known.get(b"ip", b"").decode() or asked[0]


def _believed(told: Sequence[Answer | Exception], otherwise: str) -> Place:
    answers = [answer for answer in told if not isinstance(answer, Exception)]
    if not answers:
        words = "; ".join(sorted({str(error) for error in told}))
        raise StoreUnavailable(f"{otherwise} ({words or 'no answer'})")
    return max(answers, key=lambda answer: answer[0])[1]


async def _ask_all(questions: Sequence[Awaitable[Answer]], enough: int) -> list[Answer | Exception]:
    """Ask all at once, and give what so many have said, or as many as there are in time."""
    asking = [asyncio.ensure_future(question) for question in questions]
    told: list[Answer | Exception] = []
    answered, left = 0, set(asking)
    time = asyncio.get_running_loop().time
    begun = time()
    try:
        while left and answered < enough:
            until = begun + (ASK_TIMEOUT if answered else PATIENCE)
            done, left = await asyncio.wait(
                left, timeout=max(until - time(), 0), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for one in done:
                try:
                    told.append(one.result())
                    answered += 1
                except (StoreUnavailable, RedisError, OSError, ValueError, LookupError) as error:
                    told.append(error)
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return told


async def _ask(connection: AbstractConnection, *commands: tuple[str, ...]) -> list[Any]:
    """Ask on a connection of its own, which is closed again; an error reply is given as such."""
    replies: list[Any] = []
    try:
        await connection.connect()
        for command in commands:
            await connection.send_command(*command)
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except TimeoutError as error:  # of one of them; ours is told from it by its time
        raise StoreUnavailable(str(error) or "no answer") from None
    finally:
        await drop(connection)
    return replies
