"""What the type checkers must accept, and the types that they must find."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import aiki
from aiki import (
    AikiError,
    Call,
    Client,
    Handle,
    Registry,
    Run,
    Start,
    Task,
    WorkflowVersion,
    fixed,
    start_many,
    task,
    workflow,
)


@dataclass(frozen=True)
class Order:
    id: str
    total: float


@task
def check(order: Order, *, strict: bool = True) -> bool:
    return strict and order.total > 0


@task(retry=fixed(max_attempts=3, delay=timedelta(seconds=1)), timeout=30, once=True)
async def pay(order: Order) -> str:
    return order.id


@aiki.task()
async def notify(run: str, client: int = 0) -> None:
    print(run, client)


def send(to: str, /) -> int:
    return len(to)


async def send_slowly(to: str, /) -> int:
    return len(to)


sending = task(name="send", exec=send, retry=fixed(max_attempts=3, delay=1))
sending_slowly = task(name="send-slowly", exec=send_slowly, timeout=5, once=True)

orders = workflow("orders")


@orders.v("1.0.0")
async def orders_v1(run: Run, order: Order, *, client: bool = False) -> str:
    assert_type(await check.start(run, order, strict=not client), bool)
    assert_type(await notify.start(run, run="parameters have any name", client=1), None)
    number, paid = await asyncio.gather(sending.start(run, "you"), pay.start(run, order))
    assert_type(number, int)
    async with asyncio.TaskGroup() as group:
        sent = group.create_task(sending_slowly.start(run, "you"))
    assert_type(sent.result(), int)
    return assert_type(paid, str)


async def handle(run: Run, order_id: str, /) -> list[Order]:
    return [Order(order_id or run.id, 1.0)]


orders_v2 = orders.v("2.0.0", exec=handle)


def definitions(order: Order) -> None:
    assert_type(check(order, strict=False), bool)
    assert_type(pay(order), Coroutine[Any, Any, str]).close()
    assert_type(sending, Task[[str], int, int])
    assert_type(sending_slowly, Task[[str], int, Coroutine[Any, Any, int]])
    assert_type(sending.with_options(timeout=None), Task[[str], int, int])
    assert_type(orders_v2, WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2.with_options(pool="gpu"), WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2.with_options(idempotency_key="k"), Start[[str], list[Order]])

    registry = Registry()
    registry.add(orders)
    registry.add(orders_v1)
    registry.add(orders_v2.with_options(pool="gpu"))


def covariance() -> tuple[Task[[str], object, object], Start[[str], object], Call[object]]:
    function: Callable[[str], int] = sending
    assert function("you") == 3
    return sending, orders_v2, orders_v2.bind("id")


class Basket:
    items: tuple[str, ...] = ()


@orders_v1.query
def count(state: Basket, *, twice: bool = False) -> int:
    return len(state.items) * (1 + twice)


@orders_v1.update
async def add(run: Run, state: Basket, order: Order) -> str:
    assert_type(await run.until("some", lambda: state.items, timeout=1), bool)
    return await pay.start(run, order)


@add.validator
def check_add(state: Basket, order: Order) -> None:
    assert state.items or order.id


@orders_v1.query(name="another name")
def first(state: Basket) -> str | None:
    return state.items[0] if state.items else None


@orders_v1.update(name="clear all")
async def clear(run: Run, state: Basket) -> None:
    assert_type(run.state(Basket), Basket)
    state.items = ()


async def asking(handle: Handle[str], order: Order) -> None:
    assert_type(await count.ask(handle, twice=True), int)
    assert_type(await first.with_options(timeout=None).ask(handle), str | None)
    assert_type(await add.ask(handle, order), str)
    assert_type(await add.with_options(id="id", timeout=5).ask(handle, order), str)
    assert_type(await clear.ask(handle), None)


words = aiki.topic("words", str)
points = aiki.topic("orders", Order)


async def streams(handle: Handle[str], run: Run, order: Order) -> None:
    run.publish(words, "a word")
    aiki.current_step().publish(points, order)
    run.progress(1, 2.5)
    async for chunk in handle.stream(points, from_offset=3):
        assert_type(chunk, aiki.Chunk[Order])
        assert_type(chunk.data.total, float)
    assert_type(await handle.progress(), aiki.Progress | None)


async def starts(client: Client, run: Run, order: Order) -> None:
    handle = await orders_v1.start(client, order, client=True)
    assert_type(handle, Handle[str])
    assert_type(await handle.wait_for_completion(timeout=timedelta(minutes=1)), str)
    start = orders_v2.with_options(idempotency_key="k", on_conflict="return_existing", pool="gpu")
    assert_type(await start.start(client, "id"), Handle[list[Order]])
    assert_type(orders_v1.bind(order), Call[str])
    many = await start_many(client, [orders_v1.bind(order), orders_v1.bind(order, client=True)])
    assert_type(many, list[Handle[str] | AikiError])
    assert_type(await orders_v1(run, order), str)
    assert_type(client.handle("id"), Handle[object])
