"""The order workflow that is measured: the tutorial's, with four tasks that do next to nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from aiki import Client, Handle, Run, WorkflowVersion, start_many, task, workflow

STEPS = 4
# A lost run would be waited for without end.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Item:
    id: str
    quantity: int


@dataclass(frozen=True)
class Order:
    items: list[Item]
    total: float
    email: str


@dataclass(frozen=True)
class Validation:
    order_id: str
    total: float


@dataclass(frozen=True)
class Payment:
    payment_id: str
    status: str


@dataclass(frozen=True)
class Receipt:
    success: bool
    order_id: str
    payment_id: str


@task
async def validate_order(items: list[Item], total: float) -> Validation:
    return Validation(order_id=f"order-{len(items)}", total=total)


@task
async def process_payment(order_id: str, amount: float) -> Payment:
    return Payment(payment_id=f"pay-{order_id}", status="completed" if amount > 0 else "free")


@task
async def update_inventory(items: list[Item]) -> bool:
    return bool(items)


@task
async def send_confirmation(email: str, order_id: str) -> bool:
    return bool(email and order_id)


order_workflow = workflow("order-processing")


@order_workflow.v("1.0.0")
async def order_workflow_v1(run: Run, order: Order) -> Receipt:
    validation = await validate_order.start(run, order.items, order.total)
    payment = await process_payment.start(run, validation.order_id, validation.total)
    await update_inventory.start(run, order.items)
    await send_confirmation.start(run, order.email, validation.order_id)
    return Receipt(success=True, order_id=validation.order_id, payment_id=payment.payment_id)


batches = workflow("order-batches")


@batches.v("1.0.0")
async def mapped_batch(run: Run, orders: list[Order]) -> int:
    return len(await run.map(order_workflow_v1, orders, max_parallel=len(orders)))


@batches.v("2.0.0")
async def gathered_batch(run: Run, orders: list[Order]) -> int:
    children = await asyncio.gather(
        *(order_workflow_v1.start_as_child(run, order) for order in orders)
    )
    return len(await asyncio.gather(*(child.wait_for_completion() for child in children)))


ORDER = Order([Item("item-1", 2), Item("item-2", 1)], 99.99, "customer@example.com")


async def process_orders(client: Client, count: int) -> float:
    """Have so many orders processed; seconds from the first start to the last completion."""
    async with asyncio.timeout(_PATIENCE):
        begun = time.perf_counter()
        calls = [order_workflow_v1.bind(ORDER) for _ in range(count)]
        started = await start_many(client, calls)
        await asyncio.gather(*(_receipt(handle) for handle in started))
        return time.perf_counter() - begun


async def process_batch(
    client: Client, batch: WorkflowVersion[[list[Order]], int], count: int
) -> float:
    """Have so many orders processed as the children of one run; seconds from start to end."""
    async with asyncio.timeout(_PATIENCE):
        begun = time.perf_counter()
        handle = await batch.start(client, [ORDER] * count)
        await handle.wait_for_completion()
        return time.perf_counter() - begun


async def process_one(client: Client) -> str:
    """Have one order processed, and give the id of its run."""
    async with asyncio.timeout(_PATIENCE):
        handle = await order_workflow_v1.start(client, ORDER)
        await handle.wait_for_completion()
        return handle.id


async def _receipt(started: Handle[Receipt] | Exception) -> Receipt:
    if isinstance(started, Exception):
        raise started
    return await started.wait_for_completion()
