"""A run comes to the same, whatever happens to its owners meanwhile, and repeats nothing."""

import asyncio
import time

import pytest

from aiki import Run, Status, current_step, start_many, task, workflow
from aiki.handle import Handle
from aiki.rounds import PATIENCE
from tests.support.app import App
from tests.support.lives import check_lives, one_life, recorded_effects
from tests.support.programs import SHORT, WITNESS, Play, Program, tick, work
from tests.support.waiting import eventually
from tests.support.waiting_programs import EVERY_PROGRAM as PROGRAMS
from tests.support.waiting_programs import EVERY_WORKFLOW as WORKFLOWS

named = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


@named
async def test_a_program_comes_to_what_it_comes_to_and_executes_each_step_once(
    app: App, program: Program
) -> None:
    await app.serve(*WORKFLOWS)
    handle = await program.version.start(app.client)
    await check_end(program, handle)
    for step in await handle.journal():
        if step.outcome not in ("abandoned", "noted") and "/" not in step.task:
            assert WITNESS.effects[f"{handle.id}/{step.key}"] == 1
    check_lives(handle)


async def test_always_suspended_a_run_has_a_life_for_each_step_and_one_for_its_end(
    app: App, mode: str
) -> None:
    begun: list[str] = []

    async def handler(run: Run) -> str:
        begun.append(run.id)
        return "".join([await work.start(run, label) for label in "abc"])

    version = workflow("short").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == "ABC"
    lives = 4 if mode == "suspend" else 1
    assert begun == [handle.id] * lives
    runs = app.client.partitions.of(handle.id).runs
    assert (await runs.snapshot(handle.id, timeout=10)).epoch == lives


async def test_a_branch_that_was_made_asks_for_its_step_before_the_handlers_next_one(
    app: App, mode: str
) -> None:
    """Of two equal steps, the one that is asked for first is numbered first: in every life."""
    hangs = [mode == "suspend"]  # so that the other step is recorded, and this one is not

    @task
    async def which() -> str:
        if hangs and hangs.pop():
            await asyncio.Event().wait()
        return current_step().key

    async def handler(run: Run) -> list[str]:
        await work.start(run, "a")
        branch = asyncio.create_task(which.start(run))
        await work.start(run, "b")
        own = await which.start(run)
        return [(await branch)[-2:], own[-2:]]

    version = workflow("equals").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    assert await handle.wait_for_completion(60) == ["#0", "#1"]


async def test_a_loop_that_stands_still_puts_no_branch_ahead_of_a_time_out(app: App) -> None:
    arrived, opened = asyncio.Event(), asyncio.Event()
    stalls: list[float] = []

    @task
    async def gate() -> None:
        arrived.set()
        await opened.wait()

    async def handler(run: Run) -> str:
        play = Play(run)
        seen: list[str] = []
        if stalls:
            # Before the time-out passes again, and for longer than a replay is patient
            asyncio.get_running_loop().call_later(SHORT / 2, time.sleep, stalls.pop())

        async def timed() -> None:
            try:
                await asyncio.wait_for(play.hangs("a"), SHORT)
            except TimeoutError:
                seen.append(await play.work("late"))

        timing = asyncio.create_task(timed())
        while not seen:
            await play.step(tick)
        await timing
        await gate.start(run)
        return "".join(seen)

    version = workflow("stalls").v("1.0.0", exec=handler)
    worker = await app.serve(version)
    handle = await version.start(app.client)
    await arrived.wait()
    await app.end(worker)
    stalls.append(PATIENCE + 2 * SHORT)
    await app.serve(version)
    await eventually(lambda: not stalls, what="a life whose loop stands still")
    opened.set()
    assert await handle.wait_for_completion(60) == "LATE"
    check_lives(handle)


@named
@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
async def test_an_owner_may_die_at_each_of_its_writes(
    app: App, program: Program, *, unheard: bool
) -> None:
    writes = await count_writes(app, program)
    handles = await start(app, program, writes + 2)
    await one_life(
        app, WORKFLOWS, handles, {handle.id: n for n, handle in enumerate(handles)}, unheard=unheard
    )
    done = await recorded_effects(handles)
    await app.serve(*WORKFLOWS)
    for handle in handles:
        await check_end(program, handle)
        check_lives(handle)
    assert {key: WITNESS.effects[key] for key in done} == done


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
async def test_every_owner_may_die_after_one_write(app: App, *, unheard: bool) -> None:
    programs = [program for program in PROGRAMS if "time" not in program.name]
    handles = [handle for each in programs for handle in await start(app, each, 1)]
    done: dict[str, int] = {}
    for _ in range(40):
        left = [handle for handle in handles if not (await handle.status()).status.is_final]
        if not left:
            break
        # Where what is written last is never heard of, one more would be the same write again.
        await one_life(
            app, WORKFLOWS, left, {handle.id: 2 - unheard for handle in left}, unheard=unheard
        )
        now = await recorded_effects(handles)
        assert {key: now[key] for key in done} == done
        done = now
    for program, handle in zip(programs, handles, strict=True):
        await check_end(program, handle)
        check_lives(handle)


async def start(app: App, program: Program, count: int) -> list[Handle[str]]:
    found = await start_many(app.client, [program.version.bind()] * count)
    return [handle for handle in found if isinstance(handle, Handle)]


async def count_writes(app: App, program: Program) -> int:
    (handle,) = await start(app, program, 1)
    runs = await one_life(app, WORKFLOWS, [handle], {}, unheard=False)
    return runs.written[handle.id]


async def check_end(program: Program, handle: Handle[str]) -> None:
    result = await handle.wait_for_completion(60)
    assert (await handle.status()).status is Status.COMPLETED
    if program.expected is not None:
        assert result == program.expected
