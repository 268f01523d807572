"""Programs made at random, whose owners die at random moments, come to what they would have."""

import gc
import json
import random
from collections import Counter

import pytest

from aiki import Status
from aiki.handle import Handle
from aiki.worker import SUSPEND_ALWAYS
from tests.support.app import App
from tests.support.lives import check_lives, one_life, recorded_effects
from tests.support.programs import WITNESS
from tests.support.random_programs import (
    Node,
    make_program,
    random_children,
    random_program,
    random_programs,
)

PROGRAMS = 30
DEATHS = 12  # of a run at most; then it is left in peace


@pytest.mark.parametrize("cancels", [False, True], ids=["uncancelled", "cancelled"])
@pytest.mark.plain_only("draws the mode of each life")
async def test_a_program_made_at_random_sees_the_same_in_each_life_of_its_run(
    app: App, rng: random.Random, monkeypatch: pytest.MonkeyPatch, *, cancels: bool
) -> None:
    programs = [make_program(rng, rng.choice([2, 3, 3]), []) for _ in range(PROGRAMS)]
    handles: list[Handle[list[str]]] = [
        await random_program.start(app.client, program, number)
        for number, program in enumerate(programs)
    ]
    done: dict[str, int] = {}
    for death in range(DEATHS + 1):
        left = [handle for handle in handles if not await is_over(handle)]
        cancelled = rng.sample(left, len(left) // 4) if cancels else []
        monkeypatch.setenv(SUSPEND_ALWAYS, rng.choice("01"))
        writes = {} if death == DEATHS else {handle.id: rng.randint(0, 3) for handle in left}
        unheard = rng.random() < 0.5
        both = [random_programs, random_children]
        await one_life(app, both, left, writes, unheard=unheard, cancelled=cancelled)
        now = await recorded_effects(handles)
        assert {key: now[key] for key in done} == done, "a recorded step was executed again"
        done = now
    for program, handle in zip(programs, handles, strict=True):
        await check_end(program, handle, cancels=cancels)
    gc.collect()  # asyncio says now what it has to say of tasks left behind, and in no other test


async def is_over(handle: Handle[list[str]]) -> bool:
    status = (await handle.status()).status
    return status.is_final or status is Status.STALLED


async def check_end(program: Node, handle: Handle[list[str]], *, cancels: bool) -> None:
    status = await handle.status()
    ends = {Status.COMPLETED, Status.CANCELLED} if cancels else {Status.COMPLETED}
    assert status.status in ends, f"{status.reason}\n{json.dumps(program)}"
    check_lives(handle, json.dumps(program))
    taken = Counter(
        seen.partition(": ")[2]
        for life in WITNESS.lives[handle.id][-1:]
        for seen in life
        if seen.startswith("got take") and not seen.endswith("TIMEOUT")
    )
    assert not taken or max(taken.values()) == 1, f"taken twice: {taken}\n{json.dumps(program)}"
    if status.status is Status.COMPLETED:
        assert await handle.wait_for_completion(0) == WITNESS.lives[handle.id][-1]
