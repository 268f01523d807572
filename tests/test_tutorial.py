"""The seed's tutorial, end to end."""

import re
from pathlib import Path

import pytest

from aiki import Run, RunFailed, exponential, task, workflow
from aiki.worker import SUSPEND_ALWAYS
from examples import order_processing
from examples.order_processing import Item, Order, Receipt, order_workflow, order_workflow_v1
from tests.support.app import App, outcomes
from tests.support.supervised import Supervised

ORDER = Order([Item("item-1", 2), Item("item-2", 1)], 99.99, "customer@example.com")


async def test_an_order_is_processed_step_by_step(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    await app.serve(order_workflow, id="order-worker-1", max_concurrent_workflow_runs=10)
    handle = await order_workflow_v1.start(app.client, ORDER)
    receipt = await handle.wait_for_completion(timeout=60)
    assert isinstance(receipt, Receipt)
    assert receipt.success
    assert await outcomes(handle) == [
        ("validate-order", "completed"),
        ("process-payment", "completed"),
        ("update-inventory", "completed"),
        ("send-confirmation", "completed"),
    ]
    assert capsys.readouterr().out.splitlines() == [
        f"Processing payment for {receipt.order_id}: $99.99",
        "Updating inventory for item-1",
        "Updating inventory for item-2",
        f"Sending confirmation to customer@example.com for order {receipt.order_id}",
    ]


async def test_an_empty_order_fails_with_the_reason_that_its_task_gave(app: App) -> None:
    await app.serve(order_workflow)
    handle = await order_workflow_v1.start(app.client, Order([], 0, "customer@example.com"))
    with pytest.raises(RunFailed, match="ValueError: Order must have items") as failed:
        await handle.wait_for_completion(timeout=60)
    cause = failed.value.failure.cause
    assert cause is not None
    assert (cause.type, cause.message) == ("ValueError", "Order must have items")
    assert await outcomes(handle) == [("validate-order", "failed")]


async def test_the_long_form_makes_the_same_and_only_the_payment_is_tried_again(app: App) -> None:
    def validate(items: list[Item], total: float) -> float:
        app.ledger.note("validate")
        return total if items else 0.0

    async def pay(amount: float) -> str:
        app.ledger.note("pay")
        if app.ledger.count()["pay"] < 3:
            raise ConnectionError("the provider does not answer")
        return f"pay-{amount}"

    validate_order = task(name="validate-order", exec=validate)
    process_payment = task(name="process-payment", exec=pay, retry=exponential(3, 0.01))

    async def process(run: Run, order: Order) -> str:
        total = await validate_order.start(run, order.items, order.total)
        return await process_payment.start(run, total)

    orders = workflow(name="order-processing")
    orders_v1 = orders.v("1.0.0", exec=process)

    await app.serve(orders)
    assert await app.result(orders_v1.bind(ORDER)) == "pay-99.99"
    assert app.ledger.lines() == ["validate", "pay", "pay", "pay"]


async def test_an_order_that_was_submitted_twice_is_processed_once(app: App) -> None:
    await app.serve(order_workflow)
    start = order_workflow_v1.with_options(idempotency_key="order-123")
    first, second = await start.start(app.client, ORDER), await start.start(app.client, ORDER)
    assert first.id == second.id
    assert await first.wait_for_completion(60) == await second.wait_for_completion(60)


async def test_under_a_supervisor_an_order_may_be_handed_on_after_each_of_its_steps(
    tmp_path: Path,
) -> None:
    suspending = {SUSPEND_ALWAYS: "1"}
    with Supervised(tmp_path, "examples.order_processing", environ=suspending) as found:
        await found.serves()
        async with found.client() as client:
            handle = await order_workflow_v1.start(client, ORDER)
            receipt = await handle.wait_for_completion(timeout=60)
            assert receipt.success
            assert len(await handle.journal()) == 4
            assert (await client.store.runs.snapshot(handle.id, timeout=10)).epoch == 5
        for effect in ("Processing payment", "Updating inventory for item-1", "Sending"):
            assert found.output().count(effect) == 1


@pytest.mark.usefixtures("mode")
async def test_the_whole_tutorial_is_one_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIKI_REDIS_URL", raising=False)
    await order_processing.main()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Workflow started: 0-\w+", lines[0])
    assert lines[-1].startswith("Order processed: Receipt(success=True, order_id='order-")
    assert (tmp_path / ".aiki").is_dir()
