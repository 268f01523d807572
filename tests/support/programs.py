"""Handlers whose branches meet, fail and are cancelled in many ways, and what they come to.

Each notes what it sees as it sees it. A later life of a run must see the same in the same order
before it sees anything new: that is what a replay is.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiki import (
    Run,
    TaskFailed,
    Workflow,
    WorkflowVersion,
    current_step,
    event,
    task,
    workflow,
)

mail = event("mail", str)
never = event("never")

SHORT = 0.05  # a time-out that passes while a step hangs
LONG = 30.0  # one that never does


class Witness:
    """What the runs of a test did and saw, by their ids."""

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self.lives: defaultdict[str, list[Trace]] = defaultdict(list)


class Trace(list[str]):
    """What a handler saw in one life, until it ended or its owner left it."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self.is_over = False

    def see(self, what: str) -> None:
        if not (self.is_over or self._run.execution.is_closed):
            self.append(what)


WITNESS = Witness()


async def _work() -> None:
    WITNESS.effects[current_step().key] += 1
    if random.random() < 0.5:
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.003]))


@task
async def work(label: str) -> str:
    await _work()
    return label.upper()


@task
async def breaks(label: str) -> str:
    await _work()
    raise ValueError(label)


@task
async def hangs(label: str) -> str:
    await _work()
    await asyncio.Event().wait()
    return label


@task
def works_in_thread(label: str) -> str:
    WITNESS.effects[current_step().key] += 1
    return label.upper()


@task
async def token() -> str:
    """Give something else each time."""
    await _work()
    return f"{random.randrange(2**32):x}"


@task
async def tick() -> str:
    WITNESS.effects[current_step().key] += 1
    await asyncio.sleep(SHORT / 8)
    return ""


@task
async def refuses_to_end() -> str:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return "went on"


class Play:
    """One life of a run: its steps, and what is seen of them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.trace = Trace(run)
        WITNESS.lives[run.id].append(self.trace)
        self.see = self.trace.see

    async def step(self, which: Any, *arguments: str) -> str:
        label = "".join([which.name, *arguments])
        self.see(f"ask {label}")
        try:
            result: str = await which.start(self.run, *arguments)
        except BaseException as error:
            self.see(f"{type(error).__name__} {label}")
            raise
        self.see(f"got {label}")
        return result

    async def nap(self, label: str, seconds: float) -> str:
        """Sleep, and tell as what."""
        return await self.wait(f"nap {label}", self.run.sleep(label, seconds))

    async def post(self, label: str) -> str:
        """Send a message to this run itself."""
        return await self.wait(f"post {label}", mail.send(self.run, self.run.id, label))

    async def take(self, label: str, timeout: float | None = None) -> str:
        """Wait for a message."""
        wait = mail.wait(self.run) if timeout is None else mail.wait(self.run, timeout=timeout)
        return await self.wait(f"take {label}", wait)

    async def wait(self, label: str, coming: Coroutine[Any, Any, object]) -> str:
        self.see(f"ask {label}")
        try:
            found = str(await coming)
        except BaseException as error:
            self.see(f"{type(error).__name__} {label}")
            raise
        self.see(f"got {label}: {found}")
        return found

    def work(self, label: str) -> Coroutine[Any, Any, str]:
        return self.step(work, label)

    def breaks(self, label: str) -> Coroutine[Any, Any, str]:
        return self.step(breaks, label)

    def hangs(self, label: str) -> Coroutine[Any, Any, str]:
        return self.step(hangs, label)


@dataclass(frozen=True)
class Program:
    name: str
    version: WorkflowVersion[[], str]
    expected: str | None


PROGRAMS: list[Program] = []
WORKFLOWS: list[Workflow] = []


def program(
    expected: str | None,
) -> Callable[[Callable[[Play], Coroutine[Any, Any, str]]], Program]:
    """Make a workflow of a handler; `expected` is its result where that is always the same."""

    def made(play: Callable[[Play], Coroutine[Any, Any, str]]) -> Program:
        async def handler(run: Run) -> str:
            return await play(Play(run))

        handler.__qualname__ = play.__name__
        wf = workflow(play.__name__)
        found = Program(play.__name__, wf.v("1.0.0", exec=handler), expected)
        PROGRAMS.append(found)
        WORKFLOWS.append(wf)
        return found

    return made


@program("A B caught C2 D")
async def one_after_the_other(play: Play) -> str:
    seen = [await play.work("a"), await play.step(works_in_thread, "b")]
    try:
        await play.breaks("c")
    except TaskFailed:
        seen.append("caught")
    last = [await play.work(f"c{number}") for number in range(3)][-1]
    return " ".join([*seen, last, await play.work("d")])


@program("A1 B1 C1")
async def gather_of_branches(play: Play) -> str:
    async def branch(label: str) -> str:
        return await play.work(await play.work(label) + "1")

    return " ".join(await asyncio.gather(*(branch(label) for label in "abc")))


@program("1 matched")
async def equal_steps_in_parallel_branches(play: Play) -> str:
    """Each branch must find its own result again, though all ask for it by the same address."""

    async def branch(number: str) -> tuple[str, str]:
        mine = await play.step(token)
        return await play.work(number + mine), (number + mine).upper()

    pairs = await asyncio.gather(*(branch(number) for number in "123"))
    matched = all(found == wanted for found, wanted in pairs)
    return f"{len({matched})} {'matched' if matched else 'mixed up'}"


@program("caught AFTER A B")
async def gather_whose_member_fails(play: Play) -> str:
    left = [asyncio.create_task(play.work(label)) for label in "ab"]
    seen: list[str] = []
    try:
        await asyncio.gather(*left, play.breaks("c"))
    except TaskFailed:
        seen = ["caught", await play.work("after")]
    return " ".join([*seen, *await asyncio.gather(*left)])


@program("A TaskFailed B AFTER")
async def gather_that_returns_failures(play: Play) -> str:
    found = await asyncio.gather(
        play.work("a"), play.breaks("x"), play.work("b"), return_exceptions=True
    )
    names = [each if isinstance(each, str) else type(each).__name__ for each in found]
    return " ".join([*names, await play.work("after")])


@program("1 failed CLEANUP AFTER")
async def group_whose_member_fails(play: Play) -> str:
    async def member() -> None:
        try:
            await play.work("a")
            await play.hangs("b")
        finally:
            play.see("leaving")
            await play.work("cleanup")

    seen = ""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(member())
            group.create_task(play.breaks("c"))
            group.create_task(play.hangs("d"))
    except* TaskFailed as failed:
        seen = f"{len(failed.exceptions)} failed"
    return " ".join([seen, "CLEANUP", await play.work("after")])


@program("inner outer LAST")
async def groups_in_groups(play: Play) -> str:
    seen: list[str] = []

    async def inner() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for member in (play.hangs("a"), play.breaks("b")):
                    group.create_task(member)
        except* TaskFailed:
            seen.append("inner")
            raise

    async def beside() -> None:
        async with asyncio.TaskGroup() as group:
            for label in "cd":
                group.create_task(play.hangs(label))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(beside())
            group.create_task(inner())
    except* TaskFailed:
        seen.append("outer")
    return " ".join([*seen, await play.work("last")])


@program("stopped AFTER")
async def group_whose_body_fails_before_its_members_begin(play: Play) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(play.work("a"))
            raise KeyError  # noqa: TRY301 - in the body of the group
    except* KeyError:
        play.see("stopped")
    return " ".join(["stopped", await play.work("after")])


@program(None)
async def as_completed_in_whatever_order(play: Play) -> str:
    # Of coroutines it would make tasks in an order of its own.
    tasks = [asyncio.create_task(play.work(label)) for label in "abcd"]
    seen = [await each for each in asyncio.as_completed(tasks)]
    return await play.work("".join(seen))  # another step for each order


@program(None)
async def first_of_several_and_the_others_cancelled(play: Play) -> str:
    tasks = [asyncio.create_task(play.work(label)) for label in "abc"]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    ended = "".join(sorted(each.result() for each in tasks if not each.cancelled()))
    play.see(f"{len(done)} first, {ended} ended")
    return await play.work(ended)


@program("B A")
async def a_task_awaited_later(play: Play) -> str:
    early = asyncio.create_task(play.work("a"))
    return " ".join([await play.work("b"), await early])


@program("OVER")
async def steps_left_pending_at_the_end(play: Play) -> str:
    left = [asyncio.create_task(play.hangs(label)) for label in "ab"]
    result = await play.work("over")
    assert not any(each.done() for each in left)
    return result


@program("cancelled A AFTER")
async def a_shielded_step_goes_on(play: Play) -> str:
    inner = asyncio.create_task(play.work("a"))
    outer = asyncio.ensure_future(asyncio.shield(inner))
    outer.cancel()
    try:
        await outer
    except asyncio.CancelledError:
        play.see("cancelled")
    return " ".join(["cancelled", await inner, await play.work("after")])


@program("gather AFTER")
async def a_gather_that_is_cancelled(play: Play) -> str:
    both = asyncio.gather(play.hangs("a"), play.hangs("b"))
    await play.work("c")
    both.cancel()
    try:
        await both
    except asyncio.CancelledError:
        play.see("cancelled")
    return " ".join(["gather", await play.work("after")])


@program("taken back AFTER")
async def a_handler_that_cancels_itself_and_takes_it_back(play: Play) -> str:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().call_soon(me.cancel)
    try:
        await play.hangs("a")
    except asyncio.CancelledError:
        me.uncancel()
    return " ".join(["taken back", await play.work("after")])


@program("KeyError CLEANUP")
async def an_exception_out_of_finally(play: Play) -> str:
    try:
        try:
            await play.breaks("a")
        finally:
            raise KeyError(await play.work("cleanup"))
    except KeyError as error:
        return f"KeyError {error.args[0]}"
