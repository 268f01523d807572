"""What the type checkers must accept, and the types that they must find."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import aiki
from aiki import (
    AikiError,
    Call,
    ChildHandle,
    Client,
    Handle,
    Occurrence,
    Registry,
    Run,
    RunDescription,
    Schedule,
    ScheduleHandle,
    ScheduleStatus,
    Start,
    Status,
    Task,
    WorkflowVersion,
    fixed,
    start_many,
    task,
    workflow,
)
from aiki.call import PlainCall


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


@orders.v("3.0.0", retry=fixed(max_attempts=3, delay=1))
async def orders_v3(run: Run, order: Order) -> str:
    run.compensate(notify, run.id, client=run.attempt)
    run.compensate(sending, "you")
    run.compensate(check, order, strict=False)
    if run.generation < 3:
        await run.continue_as_new(order)
    return await pay.start(run, order)


orders_v4 = orders.v("4.0.0", exec=handle, retry=fixed(max_attempts=3, delay=1))


@orders.v("3.0.0")
async def children(run: Run, given: list[Order]) -> int:
    child = await orders_v1.start_as_child(run, given[0], client=True)
    assert_type(child, ChildHandle[str])
    assert_type(await child.wait_for_completion(timeout=timedelta(minutes=1)), str)
    await child.cancel("enough")
    keyed = orders_v2.with_options(idempotency_key="k", on_parent_close="abandon")
    assert_type(await keyed.start_as_child(run, "id"), ChildHandle[list[Order]])
    one, many = await asyncio.gather(child.wait_for_completion(), run.map(orders_v1, given))
    assert_type(one, str)
    assert_type(many, list[str])
    assert_type(await run.map(orders_v1, iter(given), max_parallel=10), list[str])
    assert_type(await run.map(orders_v1, given, on_error="raise"), list[str])
    assert_type(await run.map(orders_v1, given, on_error="return"), list[str | AikiError])
    waiting = orders_v1.with_options(on_parent_close="wait", tags=["red"])
    assert_type(await run.map(waiting, given), list[str])
    return len(many)


def definitions(order: Order) -> None:
    assert_type(check(order, strict=False), bool)
    assert_type(pay(order), Coroutine[Any, Any, str]).close()
    assert_type(sending, Task[[str], int, int])
    assert_type(sending_slowly, Task[[str], int, Coroutine[Any, Any, int]])
    assert_type(sending.with_options(timeout=None), Task[[str], int, int])
    assert_type(orders_v4, WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2.with_options(retry=fixed(2, 1)), WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2, WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2.with_options(pool="gpu"), WorkflowVersion[[str], list[Order]])
    assert_type(orders_v2.with_options(idempotency_key="k"), Start[[str], list[Order]])

    ours = orders_v2.with_options(tags=["red"], memo={"by": 1}, start_by=5, finish_by=None)
    assert_type(ours, WorkflowVersion[[str], list[Order]])
    soon = datetime.now(UTC) + timedelta(hours=1)
    for start in (ours.with_options(delay=timedelta(1)), ours.with_options(start_at=soon)):
        assert_type(start, Start[[str], list[Order]])
    assert_type(orders_v2.with_options(finish_by=soon), Start[[str], list[Order]])

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
    assert_type(aiki.client("redis://reader@localhost", read_only=True), Client)
    handle = await orders_v1.start(client, order, client=True)
    assert_type(handle, Handle[str])
    assert_type(await handle.wait_for_completion(timeout=timedelta(minutes=1)), str)
    start = orders_v2.with_options(idempotency_key="k", on_conflict="return_existing", pool="gpu")
    assert_type(await start.start(client, "id"), Handle[list[Order]])
    assert_type(orders_v1.bind(order), PlainCall[str])
    assert_type(start.bind("id"), Call[list[Order]])
    many = await start_many(client, [orders_v1.bind(order), orders_v1.bind(order, client=True)])
    assert_type(many, list[Handle[str] | AikiError])
    assert_type(await orders_v1(run, order), str)
    assert_type(client.handle("id"), Handle[object])
    assert_type(await handle.fork(at="step#0"), Handle[str])
    assert_type(await handle.pause(), Status)
    assert_type(await handle.retry(), None)
    assert_type(await handle.describe(), RunDescription)
    assert_type([run async for run in client.runs(tag="red")], list[RunDescription])
    assert_type(await client.count_runs(), dict[str, dict[Status, int]])
    await run.set_details("half done")


@aiki.lifespan
async def database() -> AsyncIterator[Order]:
    yield Order("a", 1.0)


@aiki.lifespan
@asynccontextmanager
async def managed() -> AsyncGenerator[int]:
    yield 1


@aiki.run_context
async def tenant(info: aiki.RunInfo) -> str:
    return info.id


@aiki.run_context
def plain_tenant(info: aiki.RunInfo) -> Order:
    return Order(info.id, database.get().total)


@aiki.run_context
async def entered_tenant(info: aiki.RunInfo) -> AsyncIterator[int]:
    yield info.claims


class Tracing(aiki.Middleware):
    async def task(
        self, _step: aiki.CurrentStep, call_next: Callable[[], Awaitable[Any]], /
    ) -> Any:
        return await call_next()

    async def run(self, _run: Run, call_next: Callable[[], Awaitable[Any]], /) -> Any:
        return await call_next()


@task(schedule_to_close=timedelta(hours=1), heartbeat_timeout=30)
def told(failure: aiki.Failure) -> None:
    step = aiki.current_step()
    step.heartbeat({"row": 1})
    step.heartbeat()
    print(step.heartbeat_details, step.is_cancelled, step.is_draining, failure.message)


hooked = workflow("hooked", lifespan=[database, managed], context=tenant, middleware=Tracing())


@hooked.v("1.0.0", on_failure=told)
async def hooked_v1(_run: Run) -> int:
    assert_type(database.get(), Order)
    assert_type(managed.get(), int)
    assert_type(tenant.get(), str)
    assert_type(plain_tenant.get(), Order)
    assert_type(entered_tenant.get(), int)
    with database.using(Order("b", 2.0)) as order:
        assert_type(order, Order)
    return 1


def hooks(client: Client) -> None:
    assert_type(hooked_v1, WorkflowVersion[[], int])
    assert_type(
        hooked.v("2.0.0", exec=handle, on_failure=told), WorkflowVersion[[str], list[Order]]
    )
    aiki.worker(client, lifespan=database, middleware=[Tracing()])
    aiki.client(middleware=Tracing())


async def schedules(client: Client, order: Order) -> None:
    daily = aiki.schedule(
        "daily", orders_v1.bind(order), cron="0 9 * * *", timezone="Europe/Amsterdam"
    )
    assert_type(daily, Schedule)
    handle = await daily.activate(client, on_conflict="replace")
    assert_type(handle, ScheduleHandle)
    assert_type(await handle.trigger(overlap="allow_all"), Occurrence)
    assert_type(await client.schedules(), list[ScheduleStatus])
    aiki.schedule(
        "often",
        orders_v2.with_options(pool="gpu", tags=["red"], finish_by=3600).bind("id"),
        every=timedelta(minutes=5),
        overlap="buffer_one",
        catch_up_window=3600,
        jitter=timedelta(seconds=30),
    )


def codecs(key: bytes) -> None:
    codec = aiki.Encrypted({"2030-01": key}, compress_over=4096)
    assert_type(codec.key_id, str)
    aiki.Encrypted({"2030-01": key}, reads_only=True)
    assert_type(aiki.Encrypted.from_file("keys"), aiki.Encrypted)
    aiki.client(codec=codec)
    aiki.client(codec=aiki.Compressed(over=1024))
    aiki.client(codec=None)
    try:
        raise aiki.UnknownKey("missing", key_id="2030-01")
    except aiki.DataError as error:
        assert_type(error, aiki.DataError)
