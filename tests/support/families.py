"""A workflow whose runs are children in many tests, and what is looked up of them."""

from itertools import product

import aiki
from aiki import Run, task, workflow
from aiki.store.keys import prefix
from tests.support.app import App

children = workflow("children")
squares = workflow("squares")
go_on = aiki.event("go-on")


@task
async def double(number: int) -> int:
    return number * 2


@children.v("1.0.0")
async def doubles(run: Run, number: int) -> int:
    return await double.start(run, number)


@children.v("2.0.0")
async def fails(_run: Run, message: str) -> None:
    raise ValueError(message)


@children.v("3.0.0")
async def sleeps(run: Run, seconds: float = 3600.0) -> str:
    await run.sleep("long", seconds)
    return "slept"


@children.v("4.0.0")
async def returns_much(_run: Run, size: int) -> str:
    return "x" * size


async def read(app: App, run_id: str, field: str) -> bytes | None:
    """Read a field of a run's record."""
    key = f"{app.base_of(run_id)}run:{run_id}"
    found: bytes | None = await app.link_of(run_id).send(("HGET", key, field))
    return found


async def remove_what_is_over(app: App) -> None:
    """Let the retention of everything that is over end: what a long time would do."""
    for store in app.client.partitions.all:
        workflows = await store.catalog.workflows()
        for status, name in product(("completed", "failed", "cancelled"), workflows):
            key = f"{prefix(app.namespace, store.number)}index:{status}/{name}"
            for run_id in await store.link.send(("ZRANGE", key, "0", "-1")):
                await store.link.send(("ZADD", key, "XX", "1", run_id))
        await store.timers.remove_finished(3600, workflows)


async def children_of(app: App) -> list[str]:
    return [run.id async for run in app.client.runs(workflow=children.name)]


@squares.v("1.0.0")
async def square(_run: Run, number: int) -> int:
    return number * number


@squares.v("2.0.0")
async def picky(run: Run, number: int) -> int:
    if number % 3 == 2:
        raise ValueError(f"not {number}")
    if number % 3 == 1:
        await go_on.wait(run)
    return number


@squares.v("3.0.0")
async def who(run: Run, _number: int) -> str:
    return run.id


@squares.v("4.0.0")
async def gives_much(_run: Run, size: int) -> str:
    return "x" * size
