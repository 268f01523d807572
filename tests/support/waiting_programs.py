"""Handlers that wait: they time out, sleep, exchange messages. They join the other programs."""

import asyncio

from aiki import TIMEOUT, TaskFailed
from tests.support.programs import (
    LONG,
    PROGRAMS,
    SHORT,
    WORKFLOWS,
    Play,
    never,
    program,
    refuses_to_end,
    tick,
)


@program("late AFTER")
async def a_step_that_times_out(play: Play) -> str:
    try:
        async with asyncio.timeout(SHORT):
            await play.hangs("a")
    except TimeoutError:
        return " ".join(["late", await play.work("after")])
    return "in time"


@program("late AFTER")
async def a_step_that_swallows_the_cancellation_of_its_time_out(play: Play) -> str:
    try:
        async with asyncio.timeout(SHORT):
            await play.step(refuses_to_end)
    except TimeoutError:
        return " ".join(["late", await play.work("after")])
    return "in time"


@program("late AFTER")
async def a_time_out_beside_a_branch_that_watches_it(play: Play) -> str:
    """Let what comes after a time-out depend on it in another branch."""
    seen: list[str] = []

    async def timed() -> None:
        try:
            await asyncio.wait_for(play.hangs("a"), SHORT)
        except TimeoutError:
            seen.append("late")

    async def watching() -> None:
        while not seen:
            await play.step(tick)

    await asyncio.gather(timed(), watching())
    return " ".join([*seen, await play.work("after")])


@program("outer AFTER")
async def time_outs_in_time_outs(play: Play) -> str:
    try:
        async with asyncio.timeout(SHORT):
            try:
                async with asyncio.timeout(LONG):
                    await asyncio.gather(play.hangs("a"), play.work("b"), play.hangs("c"))
            except TimeoutError:
                return "inner"
    except TimeoutError:
        return " ".join(["outer", await play.work("after")])
    return "in time"


@program("False AFTER False A LAST")
async def sleeps_and_steps_in_turn(play: Play) -> str:
    seen = [await play.nap("a", 0.005), await play.work("after"), await play.nap("a", 0)]
    both = await asyncio.gather(play.nap("b", 0.003), play.work("a"))
    return " ".join([*seen, both[1], await play.work("last")])


@program(None)
async def sleeps_in_branches_that_end_in_their_order(play: Play) -> str:
    seen: list[str] = []

    async def branch(label: str, seconds: float) -> None:
        await play.nap(label, seconds)
        seen.append(await play.work(label))

    await asyncio.gather(branch("a", 0.006), branch("b", 0.003), branch("c", 0.0))
    return await play.work("".join(seen))


@program("a b c D")
async def messages_to_itself_come_in_their_order(play: Play) -> str:
    early = asyncio.create_task(play.take("first"))
    for label in "abc":
        await play.post(label)
    seen = [await early, await play.take("second"), await play.take("third")]
    return " ".join([*seen, await play.work("d")])


@program("abc")
async def several_wait_for_messages_that_several_send(play: Play) -> str:
    takes = [asyncio.create_task(play.take(number)) for number in "123"]
    await asyncio.gather(*(play.post(label) for label in "abc"))
    return "".join(sorted(await asyncio.gather(*takes)))


@program("Timeout a TIMED_OUT")
async def a_message_that_comes_after_its_time(play: Play) -> str:
    first = await play.take("early", timeout=0.01)
    await play.post("a")
    second = await play.take("late", timeout=LONG)
    last = await play.take("none", timeout=0)
    last = last if last == "a" else await play.work("timed_out")
    return " ".join(["Timeout" if first == str(TIMEOUT) else first, second, last])


@program(None)
async def a_message_that_races_its_time(play: Play) -> str:
    async def sends() -> None:
        await play.nap("pause", 0.004)
        await play.post("a")

    first, _ = await asyncio.gather(play.take("first", timeout=0.008), sends())
    taken = first if first == "a" else await play.take("second")
    assert taken == "a"
    return await play.work(first)


@program("a b AFTER")
async def waits_that_are_given_up_leave_their_messages(play: Play) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(play.take("given up"))
            group.create_task(play.wait("never", never.wait(play.run, timeout=LONG)))
            group.create_task(play.nap("given up", LONG))
            group.create_task(play.breaks("x"))
    except* TaskFailed:
        play.see("failed")
    await play.post("a")
    await play.post("b")
    seen = [await play.take("first"), await play.take("second")]
    return " ".join([*seen, await play.work("after")])


@program(None)
async def times_and_numbers_are_told_once(play: Play) -> str:
    run = play.run
    for number in range(3):
        told, drawn = run.now(), (run.uuid(), run.random(), run.patched(f"p{number}"))
        await play.work(f"{number}")
        play.see(f"{told} {drawn}")  # only now is it certain that it is recorded
    return await play.work(f"{run.uuid()}")


EVERY_PROGRAM = PROGRAMS
EVERY_WORKFLOW = WORKFLOWS
