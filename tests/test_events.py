"""Events: kept until they are waited for, given once and in order, and never lost to a race."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from aiki import (
    TIMEOUT,
    AikiError,
    Run,
    RunCancelled,
    Status,
    event,
    task,
    workflow,
)
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Payment:
    amount: float
    currency: str = "EUR"


paid = event("paid", Payment)
number = event("number", int)
other = event("other", int)
go = event("go")


@task
async def work(label: str) -> str:
    return label


takes = workflow("takes")


@takes.v("1.0.0")
async def takes_v1(run: Run, count: int) -> list[int]:
    return [await number.wait(run) for _ in range(count)]


async def test_a_run_that_waits_leaves_its_slot_and_is_given_the_data(app: App) -> None:
    wf = workflow("waits")

    @wf.v("1.0.0")
    async def waits(run: Run) -> str:
        payment = await paid.wait(run)
        return f"{payment.amount} {payment.currency}"

    worker = await app.serve(wf, takes, max_concurrent_workflow_runs=1)
    handle = await waits.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    assert (await handle.status()).reason == "waits for event/paid"
    await eventually(lambda: worker.hosted == 0, what="the slot")
    assert await app.result(takes_v1.bind(0)) == []
    await paid.send(handle, Payment(9.5))
    assert await handle.wait_for_completion(60) == "9.5 EUR"
    assert await outcomes(handle) == [("event/paid", "completed")]


@pytest.mark.plain_only("a run keeps its slot while a step executes")
async def test_a_run_that_is_at_work_is_given_the_data_too(app: App) -> None:
    wf = workflow("busy")
    gate = asyncio.Event()

    @task
    async def hangs() -> str:
        app.ledger.note("begun")
        await gate.wait()
        return "done"

    @wf.v("1.0.0")
    async def busy(run: Run) -> list[Any]:
        step = asyncio.create_task(hangs.start(run))
        found = [await number.wait(run), await number.wait(run)]
        gate.set()
        return [*found, await step]

    await app.serve(wf)
    handle = await busy.start(app.client)
    await eventually(app.ledger.lines)
    await number.send(handle, 1)
    await number.send(app.client, handle.id, 2)
    assert await handle.wait_for_completion(60) == [1, 2, "done"]


async def test_what_was_sent_before_the_wait_is_kept_in_its_order(app: App) -> None:
    handle = await takes_v1.start(app.client, 5)
    for each in range(3):
        await number.send(handle, each)  # it is queued, and nobody serves it yet
    await app.serve(takes)
    await becomes(handle, Status.AWAITING_EVENT)
    for each in range(3, 7):
        await number.send(handle, each)
    assert await handle.wait_for_completion(60) == [0, 1, 2, 3, 4]


async def test_names_have_mailboxes_of_their_own(app: App) -> None:
    wf = workflow("names")

    @wf.v("1.0.0")
    async def names(run: Run) -> list[int]:
        first = [await other.wait(run), await number.wait(run)]
        await go.wait(run)
        return [*first, await other.wait(run)]

    handle = await names.start(app.client)
    await number.send(handle, 1)
    await go.send(handle, None)
    await other.send(handle, 2)
    await other.send(handle, 3)
    await app.serve(wf)
    assert await handle.wait_for_completion(60) == [2, 1, 3]


async def test_several_that_wait_for_one_name_are_served_in_the_order_of_asking(app: App) -> None:
    wf = workflow("several")

    @wf.v("1.0.0")
    async def several(run: Run) -> list[int]:
        return await asyncio.gather(*(number.wait(run) for _ in range(5)))

    await app.serve(wf)
    handle = await several.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    for each in range(5):
        await number.send(handle, each)
    assert await handle.wait_for_completion(60) == [0, 1, 2, 3, 4]


async def test_waits_that_are_given_up_leave_messages_in_their_order(app: App) -> None:
    wf = workflow("given-up")

    @wf.v("1.0.0")
    async def given_up(run: Run) -> list[int]:
        tasks = [asyncio.create_task(number.wait(run)) for _ in range(3)]
        asyncio.get_running_loop().call_soon(lambda: [each.cancel() for each in tasks])
        taken = [
            each
            for each in await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(each, int)
        ]
        return [*taken, *[await number.wait(run) for _ in range(4 - len(taken))]]

    handles = [await given_up.start(app.client) for _ in range(5)]
    for handle in handles:
        for each in range(4):
            await number.send(handle, each)
    await app.serve(wf)
    for handle in handles:
        assert await handle.wait_for_completion(60) == [0, 1, 2, 3]


async def test_one_key_is_one_message_as_long_as_the_run_is_kept(app: App) -> None:
    handle = await takes_v1.start(app.client, 3)
    sends = [number.send(handle, 1, idempotency_key="one") for _ in range(5)]
    await asyncio.gather(*sends)
    await app.serve(takes)
    await becomes(handle, Status.AWAITING_EVENT)
    await number.send(handle, 99, idempotency_key="one")  # taken already
    await number.send(handle, 2, idempotency_key="two")
    await other.send(handle, 5, idempotency_key="one")  # keys are of one event
    await number.send(handle, 3)
    assert await handle.wait_for_completion(60) == [1, 2, 3]
    await number.send(handle, 1, idempotency_key="one")  # it was accepted, whatever came then


# Time-outs


async def test_a_wait_may_time_out_and_the_message_be_taken_by_the_next(app: App) -> None:
    wf = workflow("late")

    @wf.v("1.0.0")
    async def late(run: Run) -> list[str]:
        begun = run.now()
        first = await paid.wait(run, timeout=2)
        assert (run.now() - begun).total_seconds() >= 2
        if first is TIMEOUT:
            await go.send(run, run.id, None)
            second = await paid.wait(run)
            return ["timed out", second.currency, repr(first)]
        return [first.currency]

    await app.serve(wf, inline_wait=0.05)
    handle = await late.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    assert ", or 20" in (await handle.status()).reason
    await eventually(lambda: timed_out(handle), what="the time-out")
    await paid.send(handle, Payment(1, "USD"))
    assert await handle.wait_for_completion(60) == ["timed out", "USD", "aiki.TIMEOUT"]


async def timed_out(handle: Handle[Any]) -> bool:
    return ("event/paid", "timed out") in await outcomes(handle)


@pytest.mark.parametrize("sent", [False, True])
async def test_a_time_out_of_0_only_looks(app: App, *, sent: bool) -> None:
    wf = workflow("looks")

    @wf.v("1.0.0")
    async def looks(run: Run) -> list[str]:
        return [repr(await number.wait(run, timeout=0)), repr(await number.wait(run, timeout=0))]

    handle = await looks.start(app.client)
    if sent:
        await number.send(handle, 7)
    await app.serve(wf)
    expected = "7" if sent else "aiki.TIMEOUT"
    assert await handle.wait_for_completion(60) == [expected, "aiki.TIMEOUT"]


@pytest.mark.parametrize("inline", [0.001, 10], ids=["parked", "with a slot"])
async def test_an_event_that_races_its_time_out_is_given_or_kept(app: App, inline: float) -> None:
    """Whatever comes first counts, and a message that was accepted is taken by somebody, once."""
    wf = workflow("races")

    @wf.v("1.0.0")
    async def races(run: Run) -> str:
        found = await number.wait(run, timeout=0.03)
        if found is not TIMEOUT:
            return f"in time {found}"
        return f"too late {await number.wait(run)}"

    await app.serve(wf, inline_wait=inline)
    handles = [await races.start(app.client) for _ in range(60)]

    async def send(position: int, handle: Handle[str]) -> None:
        await asyncio.sleep(0.03 + position % 12 * 0.003)
        await number.send(handle, position)

    await asyncio.gather(*(send(*each) for each in enumerate(handles)))
    for position, handle in enumerate(handles):
        found = await handle.wait_for_completion(60)
        assert found in (f"in time {position}", f"too late {position}")


@pytest.mark.plain_only("time of the handler's own is lost at a park")
async def test_a_time_out_of_the_handlers_own_takes_no_message_with_it(app: App) -> None:
    wf = workflow("own")

    @wf.v("1.0.0")
    async def own(run: Run) -> list[int]:
        found: list[int] = []
        beside = asyncio.create_task(run.sleep("keeps the slot", 50))
        while len(found) < 40:
            try:
                async with asyncio.timeout(0.004):
                    found.append(await number.wait(run))
            except TimeoutError:
                app.ledger.note("late")
        beside.cancel()
        return found

    await app.serve(wf, inline_wait=60)
    handle = await own.start(app.client)
    for each in range(39):
        await number.send(handle, each)
        await asyncio.sleep(0.002 + each % 5 * 0.001)
    await eventually(app.ledger.lines, what="a time-out")
    await number.send(handle, 39)
    assert await handle.wait_for_completion(60) == list(range(40))


async def test_a_group_that_fails_gives_its_waits_up_and_their_messages_back(app: App) -> None:
    wf = workflow("fails")

    @task
    async def breaks() -> None:
        raise ValueError

    @wf.v("1.0.0")
    async def fails(run: Run) -> list[int]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(number.wait(run))
                group.create_task(other.wait(run, timeout=3600))
                group.create_task(breaks.start(run))
        except* AikiError:
            app.ledger.note("failed")
        return [await number.wait(run), await other.wait(run)]

    await app.serve(wf)
    handle = await fails.start(app.client)
    await eventually(app.ledger.lines)
    await number.send(handle, 1)
    await other.send(handle, 2)
    assert await handle.wait_for_completion(60) == [1, 2]
    recorded = await outcomes(handle)
    assert sorted(recorded)[:4] == [
        ("breaks", "failed"),
        ("event/number", "abandoned"),
        ("event/number", "completed"),
        ("event/other", "abandoned"),
    ]


# Cancel


@pytest.mark.parametrize("timeout", [None, 3600])
@pytest.mark.parametrize("where", ["parked", "with a slot"])
async def test_a_cancel_meets_a_run_that_waits_and_what_comes_then_is_for_its_cleanup(
    app: App, where: str, timeout: float | None
) -> None:
    wf = workflow("cancelled")

    @wf.v("1.0.0")
    async def cancelled(run: Run) -> None:
        beside = asyncio.create_task(run.sleep("beside", 3600))
        try:
            await number.wait(run, timeout=timeout)
        finally:
            beside.cancel()
            await work.start(run, f"cleanup {await number.wait(run)}")

    await app.serve(wf, inline_wait=0.05 if where == "parked" else 7200)
    handle = await cancelled.start(app.client)
    await eventually(handle.journal, what="the sleep beside it")
    if where == "parked":
        await becomes(handle, Status.AWAITING_EVENT)
    await handle.cancel("enough")
    await eventually(lambda: met(handle), what="the cancel at its wait")
    await number.send(handle, 5)
    with pytest.raises(RunCancelled):
        await handle.wait_for_completion(60)
    steps = await handle.journal()
    assert [step.result for step in steps if step.task == "work"] == ["cleanup 5"]


async def met(handle: Handle[Any]) -> bool:
    return any(outcome == "abandoned" for _, outcome in await outcomes(handle))
