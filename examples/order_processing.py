"""The tutorial: an order is validated, paid for, taken from the stock and confirmed.

Under a supervisor: `python -m aiki.supervisor examples.order_processing`.
In one process, with a client and a worker of its own: `python -m examples.order_processing`.
"""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import aiki
from aiki import Run, exponential, task, workflow


@dataclass(frozen=True)
class Item:
    """Some of one article."""

    id: str
    quantity: int


@dataclass(frozen=True)
class Order:
    """What a customer sends."""

    items: list[Item]
    total: float
    email: str


@dataclass(frozen=True)
class Validation:
    """What an order that can be processed is known by."""

    order_id: str
    total: float


@dataclass(frozen=True)
class Payment:
    """What the payment provider answers."""

    payment_id: str


@dataclass(frozen=True)
class Receipt:
    """What a processed order ends with."""

    success: bool
    order_id: str
    payment_id: str


@task  # its name is "validate-order"
def validate_order(items: list[Item], total: float) -> Validation:
    """Refuse an empty order, and give the others an id."""
    if not items:
        raise ValueError("Order must have items")
    return Validation(order_id=f"order-{uuid4()}", total=total)


@task(retry=exponential(max_attempts=3, base_delay=0.5))
async def process_payment(order_id: str, amount: float) -> Payment:
    """Charge the customer; a real provider gets `aiki.current_step().key`, and charges once."""
    print(f"Processing payment for {order_id}: ${amount:.2f}")
    return Payment(payment_id=f"pay-{uuid4()}")


@task
async def update_inventory(items: list[Item]) -> None:
    """Take the items from the stock."""
    for item in items:
        print(f"Updating inventory for {item.id}")


@task
async def send_confirmation(email: str, order_id: str) -> None:
    """Tell the customer."""
    print(f"Sending confirmation to {email} for order {order_id}")


order_workflow = workflow("order-processing")


@order_workflow.v("1.0.0")
async def order_workflow_v1(run: Run, order: Order) -> Receipt:
    """Process one order; a step that has ended never runs again, whatever dies meanwhile."""
    validation = await validate_order.start(run, order.items, order.total)
    payment = await process_payment.start(run, validation.order_id, validation.total)
    await update_inventory.start(run, order.items)
    await send_confirmation.start(run, order.email, validation.order_id)
    return Receipt(success=True, order_id=validation.order_id, payment_id=payment.payment_id)


async def main() -> None:
    """Start a worker, process one order with it, and stop it."""
    order = Order(
        items=[Item(id="item-1", quantity=2), Item(id="item-2", quantity=1)],
        total=99.99,
        email="customer@example.com",
    )
    async with aiki.client() as client:
        worker = aiki.worker(
            client,
            id="order-worker-1",
            max_concurrent_workflow_runs=10,
            subscriber=aiki.RedisStreams(claim_min_idle_time=60.0),
        )
        worker.workflow_registry.add(order_workflow)
        await worker.start()  # runs in the background

        handle = await order_workflow_v1.start(client, order)
        print("Workflow started:", handle.id)
        print("Order processed:", await handle.wait_for_completion())

        await worker.stop()


if __name__ == "__main__":
    asyncio.run(main())
