"""A workflow whose payloads bear a mark, and a look for it at all that is stored."""

from __future__ import annotations

import os
from typing import cast

import aiki
from aiki import Client, Run, current_step, task, workflow
from aiki.store import Store
from aiki.store.keys import prefix

MARK = "Marker-7f3a"
OLD, NEW = os.urandom(32), os.urandom(32)  # keys

words = aiki.topic("words", str)
paid = aiki.event("paid", str)


@task
async def say(text: str) -> str:
    current_step().publish(words, f"{MARK} word of a task")
    return f"{text}!"


lasting = workflow("lasting")


@lasting.v("1.0.0")
async def lasting_v1(run: Run, text: str) -> str:
    said = await say.start(run, text)
    return f"{said} {await paid.wait(run)}"


async def stored(client: Client) -> dict[str, list[bytes]]:
    """Read all that is in a namespace, by key: what stands there, and the names themselves."""
    parts = [await _stored(store) for store in client.partitions.all]
    return {key: found for part in parts for key, found in part.items()}


async def _stored(store: Store) -> dict[str, list[bytes]]:
    link, found, cursor = store.link, dict[str, list[bytes]](), b"0"
    pattern = f"{prefix(store.namespace, store.number)}*"
    keys: set[bytes] = set()
    while True:
        cursor, some = await link.send(("SCAN", cursor, "MATCH", pattern, "COUNT", "1000"))
        keys.update(some)
        if cursor == b"0":
            break
    reading: dict[bytes, tuple[str, ...]] = {
        b"hash": ("HGETALL",),
        b"set": ("SMEMBERS",),
        b"zset": ("ZRANGE", "0", "-1"),
        b"stream": ("XRANGE", "-", "+"),
        b"string": ("GET",),
    }
    for key in keys:
        kind = await link.send(("TYPE", key))
        if kind == b"none":  # its time was over meanwhile
            continue
        command, *rest = reading[kind]
        found[key.decode()] = [key, *_flat(await link.send((command, key, *rest)))]
    return found


def _flat(reply: object) -> list[bytes]:
    if isinstance(reply, list):
        return [part for each in cast("list[object]", reply) for part in _flat(each)]
    return [reply if isinstance(reply, bytes) else str(reply).encode()]
