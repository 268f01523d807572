"""Garbage in any field of anything stored: a script does all or nothing, and to nobody else."""

from __future__ import annotations

import random
import re

import pytest

from aiki.errors import StoreRefused
from tests.support.schedule_calls import CALLS
from tests.support.store import STREAM, WORKFLOW, Dump, NewScene, Scene
from tests.test_store_garbage import OF_MANY, REFUSED

GARBAGE: tuple[bytes, ...] = (
    b"", b"garbage", b"-1", b"0", b"1e400", b"nan", b"99999999999999999999", b"\xc3\xa9\0\x7f",
    b"a b\nc d\n", b"12:x", b"[1]", b"{", b"%d %s", b"inf",
)  # fmt: skip
BYSTANDER = "0-bystander"
# What everybody shares, and what belongs to one run or worker alone.
OWN = re.compile(rf"(run:{BYSTANDER}|worker:bystander)(:.*)?")


async def bystander(scene: Scene) -> None:
    """Let there be somebody else's run, who must not notice anything."""
    await scene.register(STREAM.replace("1.0.0", "9.0.0"), name="bystander")
    await scene.start_run(run_id=BYSTANDER, version="9.0.0")
    entry = await scene.deliver_one("bystander", STREAM.replace("1.0.0", "9.0.0"))
    owner = (await scene.claim(entry, "bystander")).ownership
    await scene.commit(owner, "step#0")


async def fields_of(scene: Scene) -> list[tuple[str, bytes]]:
    """Name each field of each hash that is there, but those of the bystander."""
    return [
        (key, field)
        for key in sorted(await scene.keys())
        if not OWN.fullmatch(key) and await scene.command("TYPE", scene.base + key) == b"hash"
        for field in sorted(await scene.command("HKEYS", scene.base + key))
    ]


async def own(scene: Scene) -> Dump:
    """Read what belongs to the bystander."""
    return {key: value for key, value in (await scene.dump()).items() if OWN.fullmatch(key)}


async def try_field(scene: Scene, name: str, key: str, field: bytes, garbage: bytes) -> bool:
    """Run a script with garbage in one field; whether it refused."""
    call = CALLS[name]
    arguments = await call.arrange(scene)
    await bystander(scene)
    if await scene.command("TYPE", scene.base + key) not in (b"hash", b"none"):
        return False
    await scene.command("HSET", scene.base + key, field, garbage)
    before, about = await scene.dump(), f"{garbage!r} in {field!r} of {key}"
    refused = False
    try:
        reply = await scene.script(call.script, *arguments)
    except StoreRefused:
        reply, refused = REFUSED, True
    after = await scene.dump()
    if reply == REFUSED or (call.script in OF_MANY and reply[0][0] == REFUSED):
        assert after == before, f"half done with {about}"
    for mine in before:
        if OWN.fullmatch(mine):
            assert after.get(mine) == before[mine], f"{mine} was touched with {about}"
    index = f"index:active/{WORKFLOW}"
    assert BYSTANDER.encode() in after[index], f"a stranger was taken off with {about}"
    return refused


FEW, ALL = 1, 1000  # fields of each situation


@pytest.mark.parametrize("count", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CALLS)
async def test_garbage_in_a_field_is_refused_whole_and_concerns_nobody_else(
    new_scene: NewScene, rng: random.Random, name: str, count: int
) -> None:
    call = CALLS[name]
    scene = await new_scene()
    arguments = await call.arrange(scene)
    fields = await fields_of(scene)
    await scene.script(call.script, *arguments)
    fields += [field for field in await fields_of(scene) if field not in fields]
    for key, field in rng.sample(fields, min(count, len(fields))):
        await try_field(await new_scene(), name, key, field, rng.choice(GARBAGE))
