"""Starting, following and finding runs from outside."""

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aiki
from aiki import (
    AikiError,
    Conflict,
    DataError,
    NotFound,
    Run,
    RunCancelled,
    RunFailed,
    Status,
    StoreUnavailable,
    start_many,
    task,
    workflow,
)
from aiki.client import Client
from aiki.completion import Completions
from aiki.store.connection import Address, Wire
from aiki.store.keys import prefix
from tests.support.app import App, becomes, outcomes
from tests.support.server import RedisServer
from tests.support.waiting import eventually

UNKNOWN = "0-00000000000000000000000000"

executes_nothing = pytest.mark.plain_only("executes nothing")


@task
async def double(number: int) -> int:
    return 2 * number


@task
def refuse(number: int) -> int:
    raise ValueError(f"no {number}")


doubling = workflow("doubling")


@doubling.v("1.0.0")
async def doubling_v1(run: Run, number: int) -> int:
    return await double.start(run, number)


@doubling.v("2.0.0")
async def doubling_v2(run: Run, number: int) -> list[int]:
    return [await double.start(run, number) for _ in range(2)]


refusing = workflow("refusing")


@refusing.v("1.0.0")
async def refusing_v1(run: Run, number: int) -> int:
    return await refuse.start(run, number)


async def test_a_started_run_is_executed_and_its_result_has_the_handlers_type(app: App) -> None:
    await app.serve(doubling)
    handle = await doubling_v2.start(app.client, 21)
    assert await handle.wait_for_completion(60) == [42, 42]
    assert (await handle.status()).status is Status.COMPLETED


async def test_many_are_started_at_once_and_each_answers_for_itself(app: App) -> None:
    await app.serve(doubling)
    keyed = doubling_v1.with_options(idempotency_key="the same")
    calls = [*(doubling_v1.bind(n) for n in range(50)), keyed.bind(1), keyed.bind(2)]
    found = await start_many(app.client, calls)
    handles = [handle for handle in found if not isinstance(handle, AikiError)]
    results = await asyncio.gather(*(handle.wait_for_completion(60) for handle in handles))
    assert results[:50] == [2 * n for n in range(50)]
    assert len({handle.id for handle in handles}) == 51
    assert [type(error) for error in found if isinstance(error, AikiError)] == [Conflict]


@executes_nothing
async def test_input_that_does_not_fit_is_refused_before_anything_is_sent(app: App) -> None:
    with pytest.raises(DataError):
        await doubling_v1.start(app.client, "many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert await app.client.count_runs() == {}


# Idempotency keys


async def test_the_same_key_and_input_give_the_same_run_also_when_it_is_over(app: App) -> None:
    keyed = doubling_v1.with_options(idempotency_key="order-123")
    first = await keyed.start(app.client, 1)
    assert (await keyed.start(app.client, 1)).id == first.id
    await app.serve(doubling)
    assert await first.wait_for_completion(60) == 2
    assert (await keyed.start(app.client, 1)).id == first.id


@executes_nothing
async def test_the_same_key_with_other_input_is_a_conflict_that_names_the_run(app: App) -> None:
    keyed = doubling_v1.with_options(idempotency_key="order-123")
    first = await keyed.start(app.client, 1)
    with pytest.raises(Conflict, match="order-123") as conflict:
        await keyed.start(app.client, 2)
    assert conflict.value.run_id == first.id


async def test_the_same_key_with_other_input_gives_the_existing_run_where_that_is_wanted(
    app: App,
) -> None:
    keyed = doubling_v1.with_options(idempotency_key="order-123", on_conflict="return_existing")
    first = await keyed.start(app.client, 1)
    second = await keyed.start(app.client, 2)
    await app.serve(doubling)
    assert second.id == first.id
    assert await second.wait_for_completion(60) == 2


@executes_nothing
async def test_a_hundred_starts_at_once_with_one_key_make_one_run(app: App) -> None:
    keyed = doubling_v1.with_options(idempotency_key="one")
    clients = [app.client, await app.connect(), await app.connect()]
    handles = await asyncio.gather(*(keyed.start(clients[n % 3], 1) for n in range(100)))
    assert len({handle.id for handle in handles}) == 1
    assert [sum(counts.values()) for counts in (await app.client.count_runs()).values()] == [1]


@executes_nothing
async def test_the_same_key_of_another_workflow_is_another_key(app: App) -> None:
    one = await doubling_v1.with_options(idempotency_key="k").start(app.client, 1)
    other = await refusing_v1.with_options(idempotency_key="k").start(app.client, 1)
    assert one.id != other.id


# Waiting


async def test_a_wait_without_time_only_looks(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    with pytest.raises(TimeoutError, match="queued"):
        await handle.wait_for_completion(0)
    await app.serve(doubling)
    await becomes(handle, Status.COMPLETED)
    assert await handle.wait_for_completion(0) == 2


async def test_a_wait_that_is_too_short_leaves_the_run_as_it_is(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    with pytest.raises(TimeoutError, match=r"within 0\.01 s: it is queued: waits for a worker"):
        await handle.wait_for_completion(0.01)
    await app.serve(doubling)
    assert await handle.wait_for_completion(60) == 2


@executes_nothing
async def test_a_wait_ends_in_time_where_the_store_is_silent(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        async with aiki.client(server.url) as client:
            handle = await doubling_v1.start(client, 1)
            server.signal(signal.SIGSTOP)
            async with asyncio.timeout(10):
                with pytest.raises(TimeoutError, match=r"not over within 0\.1 s, and the store"):
                    await handle.wait_for_completion(0.1)
            server.signal(signal.SIGCONT)
    finally:
        server.stop()


@pytest.mark.parametrize("timeout", [-1, float("nan"), True, "1"])
@executes_nothing
async def test_a_time_that_is_none_is_refused(app: App, timeout: float) -> None:
    handle = await doubling_v1.start(app.client, 1)
    with pytest.raises(DataError, match="timeout"):
        await handle.wait_for_completion(timeout)


async def test_all_who_wait_hear_the_same_end(app: App) -> None:
    handle = await refusing_v1.start(app.client, 7)
    other = (await app.connect()).handle(handle.id)
    waits = [asyncio.create_task(each.wait_for_completion(60)) for each in (handle, handle, other)]
    await app.serve(refusing)
    ends = await asyncio.gather(*waits, return_exceptions=True)
    why = "aiki.errors.TaskFailed: task 'refuse' failed after 1 attempt: ValueError: no 7"
    assert {str(end) for end in ends} == {f"run {handle.id} failed: {why}"}
    assert all(isinstance(end, RunFailed) for end in ends)


async def test_one_who_gives_up_waiting_does_not_disturb_another(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    impatient = asyncio.create_task(handle.wait_for_completion())
    patient = asyncio.create_task(handle.wait_for_completion(60))
    await eventually(lambda: watchers(app.client, handle.id), what="the watch")
    impatient.cancel()
    await asyncio.wait([impatient])
    await app.serve(doubling)
    assert await patient == 2


async def test_a_wait_survives_the_loss_of_its_connections(app: App) -> None:
    waiting = await app.connect()
    handle = await doubling_v1.start(waiting, 1)
    result = asyncio.create_task(handle.wait_for_completion(60))
    await eventually(lambda: watchers(waiting, handle.id), what="the watch")

    store = waiting.partitions.of(handle.id)
    refused = 0
    open_again = asyncio.Event()

    async def opened(*told: Any) -> Wire:
        nonlocal refused
        if not open_again.is_set():
            refused += 1
            raise StoreUnavailable("the network is away")
        return await Address.open(store.address, *told)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store.inbox._address, "open", opened)
        await app.link_of(handle.id).send(("CLIENT", "KILL", "TYPE", "pubsub"))
        await eventually(lambda: refused, what="the loss of the connection")
        await app.serve(doubling, client=await app.connect())
        await becomes(handle, Status.COMPLETED)
        assert not result.done()
        open_again.set()
        assert await result == 2


async def test_a_wait_survives_that_its_message_is_lost(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.completion.POLL", 0.1)
    waiting = await app.connect()
    handle = await doubling_v1.start(waiting, 1)
    result = asyncio.create_task(handle.wait_for_completion(60))
    await eventually(lambda: watchers(waiting, handle.id), what="the watch")
    key = f"{app.base_of(handle.id)}run:{handle.id}"
    await app.link_of(handle.id).send(("HDEL", key, "watchers"))
    await app.serve(doubling)
    assert await result == 2


async def test_a_long_result_is_fetched_and_not_sent_with_the_message(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[bytes] = []
    on_message = Completions._on_message

    def note(self: Completions, message: bytes) -> None:
        messages.append(message)
        on_message(self, message)

    monkeypatch.setattr(Completions, "_on_message", note)
    wf = workflow("long")

    @wf.v("1.0.0")
    async def long(_: Run, length: int) -> str:
        return "x" * length

    handles = [await long.start(app.client, length) for length in (10, 100_000)]
    results = [asyncio.create_task(handle.wait_for_completion(60)) for handle in handles]
    for handle in handles:
        await eventually(partial(watchers, app.client, handle.id), what="the watch")
    await app.serve(wf)
    assert [len(await result) for result in results] == [10, 100_000]
    assert sorted(message.split(b" ", 1)[1] for message in messages) == [
        b"completed", b'completed "xxxxxxxxxx"',
    ]  # fmt: skip


# Handles


async def test_a_run_is_found_by_its_id_and_its_result_is_plain_json(app: App) -> None:
    await app.serve(doubling)
    started = await doubling_v2.start(app.client, 4)
    handle = app.client.handle(started.id)
    assert await handle.wait_for_completion(60) == [8, 8]
    journal = await handle.journal()
    assert [step.result for step in journal] == [8, 8]
    assert [step.key.rpartition("#")[2] for step in journal] == ["0", "1"]
    assert all(step.started <= step.recorded for step in journal)


@executes_nothing
async def test_a_run_that_nobody_serves_says_what_it_waits_for(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    status = await handle.status()
    assert status.status is Status.QUEUED
    assert "doubling 1.0.0" in status.reason


@executes_nothing
async def test_what_is_asked_of_an_unknown_run_is_answered_not_found(app: App) -> None:
    handle = app.client.handle(UNKNOWN)
    for asked in (
        handle.status(),
        handle.wait_for_completion(),
        handle.wait_for_completion(0),
        handle.cancel("why not"),
        handle.journal(),
    ):
        with pytest.raises(NotFound, match=UNKNOWN):
            await asked


async def test_a_failed_step_is_in_the_journal_with_its_failure(app: App) -> None:
    await app.serve(refusing)
    handle = await refusing_v1.start(app.client, 3)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    (step,) = await handle.journal()
    assert step.failure is not None
    assert (step.outcome, step.attempts, step.failure.type) == ("failed", 1, "ValueError")
    assert 'raise ValueError(f"no {number}")' in step.failure.traceback


# Cancelling from outside; what a handler makes of it stands in test_cancel.py


async def test_cancelling_a_run_that_was_never_claimed_ends_it_at_once(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    assert await handle.cancel("changed my mind") is Status.CANCELLED
    with pytest.raises(RunCancelled, match="changed my mind") as cancelled:
        await handle.wait_for_completion(60)
    assert cancelled.value.reason == "changed my mind"
    await app.serve(doubling)
    assert await app.result(doubling_v1.bind(2)) == 4
    assert await outcomes(handle) == []


@executes_nothing
async def test_cancelling_twice_keeps_the_first_reason(app: App) -> None:
    handle = await doubling_v1.start(app.client, 1)
    assert await handle.cancel("first") is Status.CANCELLED
    assert await handle.cancel("second") is Status.CANCELLED
    with pytest.raises(RunCancelled, match="first"):
        await handle.wait_for_completion(60)


async def test_cancelling_a_run_that_is_over_changes_nothing(app: App) -> None:
    await app.serve(doubling)
    handle = await doubling_v1.start(app.client, 1)
    await handle.wait_for_completion(60)
    assert await handle.cancel("too late") is Status.COMPLETED
    assert await handle.wait_for_completion(60) == 2


async def watchers(client: Client, run_id: str) -> bool:
    store = client.partitions.of(run_id)
    key = f"{prefix(store.namespace, store.number)}run:{run_id}"
    return bool(await store.link.send(("HGET", key, "watchers")))
