"""Handlers made at random of everything that asyncio puts tasks together with.

A program is a tree, as JSON: the name of what a node does, then its members or its label.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from aiki import Run, RunFailed, TaskFailed, WorkflowVersion, workflow
from tests.support.programs import SHORT, Play, hangs

Node = list[Any]

FAILURES = (TaskFailed, RunFailed, TimeoutError, ExceptionGroup)

random_programs = workflow("random-programs")
random_children = workflow("random-children")


@random_children.v("1.0.0")
async def random_child(_run: Run, label: str) -> str:
    """Be a child that ends as its label says."""
    if label.startswith("bad"):
        raise ValueError(label)
    return label.upper()


@random_children.v("2.0.0")
async def slow_child(run: Run, label: str) -> str:
    """Be a child that nobody waits for to its end."""
    await run.sleep("long", 3600)
    return label


@random_programs.v("1.0.0")
async def random_program(run: Run, program: Node, number: int) -> list[str]:
    """Play a tree and return what was seen; `number` tells equal trees apart."""
    play = Play(run)
    try:
        await perform(play, program)
    except FAILURES as error:
        play.see(f"{type(error).__name__} of {number}")
    except asyncio.CancelledError:
        play.see("cancelled")
        await play.work(f"cleanup {len(play.trace)}")
        play.trace.is_over = True
        raise
    await play.work(f"last {len(play.trace)}")
    play.trace.is_over = True  # as above: what it has left behind goes on for a moment
    return play.trace


def make_program(rng: random.Random, depth: int, labels: list[str]) -> Node:
    """Make a tree; some of its steps are equal."""
    if depth == 0 or rng.random() < 0.15:
        if not labels or rng.random() < 0.8:
            labels.append(f"s{len(labels)}")
        return [rng.choice(LEAVES), labels[-1]]
    kind = rng.choice(list(MEMBERS))
    members = [make_program(rng, depth - 1, labels) for _ in range(rng.randint(*MEMBERS[kind]))]
    return [kind, *members]


LEAVES = [
    *["work"] * 4, *["echo"] * 3, *["breaks"] * 3, "late", *["nap"] * 2, "late nap", *["post"] * 3,
    *["take"] * 3, "told", *["child"] * 3, "bad child", "late child", "map",
]  # fmt: skip

# How many members a node has
MEMBERS = {
    "sequence": (1, 3),
    "gather": (1, 3),
    "settled": (1, 3),
    "group": (1, 3),
    "caught": (1, 1),
    "cleaned": (2, 2),
    "first": (1, 3),
    "completed": (1, 3),
    "shielded": (1, 1),
}


async def _within(limit: float, awaited: Awaitable[object]) -> None:
    me = asyncio.current_task()
    assert me is not None
    before, timeout = me.cancelling(), asyncio.timeout(limit)
    try:
        async with timeout:
            await awaited
    except asyncio.CancelledError:
        # Early releases of Python 3.11 let their own through, where others came before.
        if timeout.expired() and me.cancelling() <= before:
            raise TimeoutError from None
        raise


async def perform(play: Play, node: Node) -> None:
    kind, *rest = node
    if kind in MEMBERS:
        await COMPOSED[kind](play, [partial(perform, play, member) for member in rest])
    elif kind in FAMILY:
        await play.wait(f"{kind} {rest[0]}", FAMILY[kind](play.run, rest[0]))
    elif kind == "late":
        await _within(SHORT, play.step(hangs, rest[0]))
    elif kind == "nap":
        await play.nap(rest[0], random.choice([0, 0.002, 0.01]))
    elif kind == "late nap":  # or in time, where it parks: that forgets what the handler counts
        await _within(SHORT / 2, play.nap(rest[0], SHORT))
    elif kind == "post":
        await play.post(f"{rest[0]} {len(play.trace)}")
    elif kind == "take":
        await play.take(rest[0], timeout=0.005)
    elif kind == "told":
        drawn = (play.run.uuid(), play.run.random())
        told = play.run.now()
        await play.work(rest[0])
        play.see(f"told {told} {drawn}")
    elif kind == "echo":  # another step for each order in which the branches came to it
        await play.work(f"{rest[0]} {len(play.trace)}")
    else:
        await (play.breaks(rest[0]) if kind == "breaks" else play.work(rest[0]))


async def _child(
    run: Run, label: str, *, version: WorkflowVersion[[str], str], timeout: float | None = None
) -> str:
    child = await version.start_as_child(run, label)
    return await child.wait_for_completion(timeout)


async def _bad_child(run: Run, label: str) -> str:
    return await _child(run, f"bad {label}", version=random_child)


async def _map(run: Run, label: str) -> str:
    items = [f"{label} {number}" for number in range(3)]
    return " ".join(await run.map(random_child, items, max_parallel=2))


FAMILY: dict[str, Callable[[Run, str], Coroutine[Any, Any, str]]] = {
    "child": partial(_child, version=random_child),
    "bad child": _bad_child,
    "late child": partial(_child, version=slow_child, timeout=SHORT / 2),
    "map": _map,
}


Members = list[Callable[[], Coroutine[Any, Any, None]]]


async def _sequence(_: Play, members: Members) -> None:
    for member in members:
        await member()


async def _gather(_: Play, members: Members) -> None:
    await asyncio.gather(*(member() for member in members))


async def _settled(play: Play, members: Members) -> None:
    found = await asyncio.gather(*(member() for member in members), return_exceptions=True)
    play.see(f"settled {[type(each).__name__ for each in found]}")


async def _group(_: Play, members: Members) -> None:
    async with asyncio.TaskGroup() as group:
        for member in members:
            group.create_task(member())


async def _caught(play: Play, members: Members) -> None:
    try:
        await members[0]()
    except FAILURES as error:
        play.see(f"caught {type(error).__name__}")


async def _cleaned(play: Play, members: Members) -> None:
    try:
        await members[0]()
    finally:
        play.see("finally")
        await members[1]()


async def _first(play: Play, members: Members) -> None:
    tasks = [asyncio.create_task(member()) for member in members]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        play.see(f"first {[number for number, each in enumerate(tasks) if each in done]}")
    finally:
        await _end(play, tasks)


async def _completed(play: Play, members: Members) -> None:
    tasks = [asyncio.create_task(member()) for member in members]
    try:
        for each in asyncio.as_completed(tasks):
            try:
                await each
            except FAILURES as error:
                play.see(f"completed with {type(error).__name__}")
            else:
                play.see("completed")
    finally:
        await _end(play, tasks)


async def _shielded(_: Play, members: Members) -> None:
    await asyncio.shield(members[0]())


async def _end(play: Play, tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    play.see(f"ended {[type(each).__name__ for each in found]}")


COMPOSED: dict[str, Callable[[Play, Members], Coroutine[Any, Any, None]]] = {
    "sequence": _sequence,
    "gather": _gather,
    "settled": _settled,
    "group": _group,
    "caught": _caught,
    "cleaned": _cleaned,
    "first": _first,
    "completed": _completed,
    "shielded": _shielded,
}
