"""Sending events: from a run, to many, and what is refused."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import pytest

from aiki import (
    DataError,
    DefinitionError,
    InvalidTransition,
    LimitExceeded,
    NotFound,
    Run,
    Status,
    event,
    task,
    workflow,
)
from aiki.errors import StoreRefused
from aiki.store import mailbox
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life


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


async def test_a_send_in_a_run_is_a_step_that_reaches_its_end_once(app: App) -> None:
    sends = workflow("sends")

    @sends.v("1.0.0")
    async def sending(run: Run, to: str) -> str:
        for each in range(3):
            await number.send(run, to, each)
        await number.send(run, to, 1)  # equal to one before, and another one
        await number.send(run, to, 1, idempotency_key="one")
        await number.send(run, to, 1, idempotency_key="one")
        return "sent"

    handle = await takes_v1.start(app.client, 6)
    senders = [await sending.start(app.client, handle.id)]
    await one_life(app, [sends], senders, {senders[0].id: 2}, unheard=True)
    await app.serve(sends, takes)
    assert await senders[0].wait_for_completion(60) == "sent"
    await number.send(handle, 9)
    assert await handle.wait_for_completion(60) == [0, 1, 2, 1, 1, 9]
    assert await outcomes(senders[0]) == [("send/event/number", "completed")] * 6


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
async def test_a_sender_may_die_at_each_of_its_writes(app: App, *, unheard: bool) -> None:
    sends = workflow("sends")

    @sends.v("1.0.0")
    async def sending(run: Run, to: str) -> None:
        await asyncio.gather(*(number.send(run, to, each) for each in range(3)))

    handles = [await takes_v1.start(app.client, 4) for _ in range(6)]
    senders = [await sending.start(app.client, handle.id) for handle in handles]
    writes = {sender.id: count for count, sender in enumerate(senders)}
    await one_life(app, [sends], senders, writes, unheard=unheard)
    await app.serve(sends, takes)
    for handle, sender in zip(handles, senders, strict=True):
        await sender.wait_for_completion(60)
        await number.send(handle, 9)
        found = await handle.wait_for_completion(60)
        assert (sorted(found[:3]), found[3]) == ([0, 1, 2], 9)


async def test_a_run_is_told_the_same_each_time_of_a_send_that_was_refused(app: App) -> None:
    sends = workflow("sends")
    seen: list[list[str]] = []

    @sends.v("1.0.0")
    async def sending(run: Run, over: str) -> list[str]:
        found: list[str] = []
        for to in ("0-unknown", over):
            try:
                await number.send(run, to, 1)
            except (NotFound, InvalidTransition) as refused:
                found.append(f"{type(refused).__name__}: {refused}")
            await work.start(run, str(found))
        seen.append(found)
        return found

    await app.serve(sends, takes)
    over = await takes_v1.start(app.client, 0)
    await over.wait_for_completion(60)
    handle = await sending.start(app.client, over.id)
    found = await handle.wait_for_completion(60)
    assert found[0].startswith("NotFound: there is no run '0-unknown'")
    assert found[1].startswith(f"InvalidTransition: run {over.id} is completed and takes no")
    assert [outcome for _, outcome in await outcomes(handle)] == ["failed", "completed"] * 2


async def test_a_send_that_the_store_refuses_for_good_stalls_its_run(app: App) -> None:
    """No handler hears of the store: caught there, it would be no part of the record."""
    sends = workflow("sends")

    @sends.v("1.0.0")
    async def sending(run: Run, to: str) -> str:
        try:
            await number.send(run, to, 1)
        except StoreRefused:
            return "heard of it"
        return "sent"

    target = await takes_v1.start(app.client, 1)
    base, link = app.base_of(target.id), app.link_of(target.id)
    await link.send(("SET", f"{base}run:{target.id}:seen", "damaged"))
    await app.serve(sends)
    handle = await sending.start(app.client, target.id)
    await becomes(handle, Status.STALLED)
    assert "refused to send send/event/number:" in (await handle.status()).reason


async def test_a_run_may_send_to_itself(app: App) -> None:
    both = workflow("both")

    @both.v("1.0.0")
    async def both_v1(run: Run) -> list[int]:
        waits = asyncio.create_task(number.wait(run))
        await number.send(run, run.id, 3)
        return [await waits]

    await app.serve(both)
    assert await app.result(both_v1.bind()) == [3]


async def test_many_runs_are_told_at_once_each_with_its_outcome(app: App) -> None:
    await app.serve(takes)
    over = await takes_v1.start(app.client, 0)
    await over.wait_for_completion(60)
    handles = [await takes_v1.start(app.client, 1) for _ in range(20)]
    ids = [*(handle.id for handle in handles), over.id, "0-unknown"]
    found = await number.send_many(app.client, ids, 4, idempotency_key="all")
    assert found[:20] == [None] * 20
    assert [type(each) for each in found[20:]] == [InvalidTransition, NotFound]
    for handle in handles:
        assert await handle.wait_for_completion(60) == [4]
    bad: Any = "four"
    with pytest.raises(DataError):
        await number.send_many(app.client, ids, bad)
    assert await number.send_many(app.client, [], 4) == []


# What is refused


async def test_a_send_to_what_takes_none_is_refused_and_stores_nothing(app: App) -> None:
    await app.serve(takes)
    over = await takes_v1.start(app.client, 0)
    await over.wait_for_completion(60)
    with pytest.raises(InvalidTransition, match=r"is completed and takes no message any more"):
        await number.send(over, 1)
    with pytest.raises(NotFound, match="there is no run '0-unknown'"):
        await number.send(app.client, "0-unknown", 1)
    assert await app.keys("*:mailbox") == await app.keys("*:seen") == []


@pytest.mark.plain_only("nothing is executed")
async def test_data_that_does_not_fit_is_refused_where_it_is_sent(app: App) -> None:
    handle = await takes_v1.start(app.client, 1)
    bad: list[Any] = ["five", None, 1.5, [1], math.nan]
    for data in bad:
        with pytest.raises(DataError, match="data of event number"):
            await number.send(handle, data)
    not_a_payment: Any = {"amount": 1}
    with pytest.raises(DataError):
        await paid.send(handle, not_a_payment)
    with pytest.raises(DataError):
        await paid.send(handle, Payment(math.inf))
    with pytest.raises(LimitExceeded):
        await event("text", str).send(handle, "x" * (1 << 20))
    assert await app.keys("*:mailbox") == []


@pytest.mark.plain_only("nothing is executed")
async def test_what_is_no_send_is_refused(app: App) -> None:
    handle = await takes_v1.start(app.client, 1)
    send: Any = number.send
    for arguments in [
        (),
        (handle,),
        (handle, handle.id, 1),
        (app.client, 1),
        (5, 1),
        (handle.id, 1),
    ]:
        with pytest.raises(DefinitionError, match="event 'number' is sent with a handle and"):
            await send(*arguments)
    with pytest.raises(DefinitionError, match="the id of a run is a str, not int"):
        await send(app.client, 5, 1)
    for key in ("", " x", "x" * 257, 5):
        with pytest.raises(DataError, match="idempotency key"):
            await send(handle, 1, idempotency_key=key)


@pytest.mark.parametrize("name", ["", "a:b", "a/b", " a", "a\n", "x" * 201, 5, None])
@pytest.mark.plain_only("nothing is executed")
def test_a_bad_name_is_refused_where_it_is_defined(name: Any) -> None:
    with pytest.raises(DefinitionError, match=r"event .*test_event_sends.py:\d+"):
        event(name)


@pytest.mark.plain_only("nothing is executed")
def test_a_type_without_a_stored_form_is_refused_where_it_is_defined() -> None:
    with pytest.raises(DefinitionError, match="data of event odd"):
        event("odd", asyncio.Event)


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, True, "1", 4e9])
@pytest.mark.plain_only("nothing is recorded")
async def test_no_time_out_but_0_seconds_to_10_years(app: App, timeout: Any) -> None:
    async def handler(run: Run) -> str:
        with pytest.raises(DataError, match="timeout must be"):
            await number.wait(run, timeout=timeout)
        return "refused"

    version = workflow("limits").v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "refused"


@pytest.mark.plain_only("nothing is executed")
async def test_a_full_mailbox_refuses_more_until_something_was_taken(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_UNREAD", 3)
    handle = await takes_v1.start(app.client, 4)
    for each in range(3):
        await number.send(handle, each)
    with pytest.raises(LimitExceeded, match=r"is full: 3 messages of \d+ bytes are unread"):
        await number.send(handle, 3, idempotency_key="three")
    await app.serve(takes)
    await becomes(handle, Status.AWAITING_EVENT)
    await number.send(handle, 3, idempotency_key="three")
    assert await handle.wait_for_completion(60) == [0, 1, 2, 3]


@pytest.mark.plain_only("nothing is executed")
async def test_a_mailbox_is_full_by_its_bytes_too(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_UNREAD_BYTES", 1000)
    text = event("text", str)
    wf = workflow("texts")

    @wf.v("1.0.0")
    async def texts(run: Run) -> list[int]:
        return [len(await text.wait(run)) for _ in range(3)]

    handle = await texts.start(app.client)
    await text.send(handle, "x" * 450)
    await text.send(handle, "x" * 450)
    with pytest.raises(LimitExceeded):
        await text.send(handle, "x" * 450)
    await app.serve(wf)
    await becomes(handle, Status.AWAITING_EVENT)
    await text.send(handle, "x" * 449)
    assert await handle.wait_for_completion(60) == [450, 450, 449]


async def test_data_that_does_not_fit_its_wait_stalls_the_run_and_stays(app: App) -> None:
    wider = event("number", str)
    handle = await takes_v1.start(app.client, 1)
    await wider.send(handle, "five")
    await app.serve(takes)
    await becomes(handle, Status.STALLED)
    reason = (await handle.status()).reason
    assert "What came for event/number#0 does not fit the code" in reason
    assert await handle.journal() == []
    assert len(await app.keys(f"*{handle.id}:mailbox")) == 1
    await number.send(handle, 5)  # a stalled run is kept, and so is what is sent to it
    assert await handle.cancel() is Status.CANCELLED


async def test_a_message_for_which_the_run_has_no_room_stalls_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.commits.MAX_RUN_BYTES", 20)
    text = event("text", str)
    wf = workflow("room")

    @wf.v("1.0.0")
    async def room(run: Run) -> str:
        try:
            return await text.wait(run)
        except LimitExceeded:
            return "heard of it"

    await app.serve(wf)
    handle = await room.start(app.client)
    await text.send(handle, "x" * 30)
    await becomes(handle, Status.STALLED)
    assert "would hold more than" in (await handle.status()).reason


async def test_events_are_waited_for_and_sent_nowhere_but_in_the_handler(app: App) -> None:
    runs: list[Run] = []

    @task
    async def tries() -> list[str]:
        found: list[str] = []
        for each in (number.wait(runs[-1]), number.send(runs[-1], "0-x", 1)):
            try:
                await each
            except DefinitionError as refused:
                found.append(str(refused))
        return found

    async def handler(run: Run) -> list[str]:
        runs.append(run)
        return await tries.start(run)

    version = workflow("elsewhere").v("1.0.0", exec=handler)
    await app.serve(version)
    waited, sent = await app.result(version.bind())
    assert waited.startswith("event 'number' was waited for inside a task")
    assert sent.startswith("event 'number' was sent inside a task")
    with pytest.raises(DefinitionError, match="outside that run's handler"):
        await number.wait(runs[-1])
