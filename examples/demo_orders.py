"""The tutorial's workflow, at a speed at which one can watch it: see `examples/demo.py`.

Each step writes into the file `ledger` when it begins and when it ends, which is how the demo
knows what was really executed, whatever the store says. Then it does what the tutorial's does.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from aiki import Run, current_step, exponential, task, workflow
from examples import order_processing as tutorial
from examples.order_processing import Item, Order, Payment, Receipt, Validation

STEP = 0.5  # seconds that each step takes
LEDGER = Path("ledger")  # in the directory in which the supervisor was started


@asynccontextmanager
async def slowly() -> AsyncGenerator[None]:
    """Take some time, and note when the step begins and ends."""
    step = current_step()
    name = step.key.partition("/")[2].partition(":")[0]

    def note(what: str) -> None:
        with LEDGER.open("a") as ledger:
            ledger.write(f"{step.run_id} {name} {what} {os.getpid()}\n")

    note("begins")
    await asyncio.sleep(STEP)
    yield
    note("ends")


@task
async def validate_order(items: list[Item], total: float) -> Validation:
    async with slowly():
        return tutorial.validate_order(items, total)


@task(retry=exponential(max_attempts=3, base_delay=0.5))
async def process_payment(order_id: str, amount: float) -> Payment:
    async with slowly():
        return await tutorial.process_payment(order_id, amount)


@task
async def update_inventory(items: list[Item]) -> None:
    async with slowly():
        await tutorial.update_inventory(items)


@task
async def send_confirmation(email: str, order_id: str) -> None:
    async with slowly():
        await tutorial.send_confirmation(email, order_id)


order_workflow = workflow("order-processing")


@order_workflow.v("1.0.0")
async def order_workflow_v1(run: Run, order: Order) -> Receipt:
    validation = await validate_order.start(run, order.items, order.total)
    payment = await process_payment.start(run, validation.order_id, validation.total)
    await update_inventory.start(run, order.items)
    await send_confirmation.start(run, order.email, validation.order_id)
    return Receipt(success=True, order_id=validation.order_id, payment_id=payment.payment_id)
