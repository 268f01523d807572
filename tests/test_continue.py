"""Runs that begin anew with a fresh journal, under the id that they have."""

import asyncio
from dataclasses import dataclass, field

import pytest

from aiki import (
    DataError,
    NotFound,
    Run,
    RunCancelled,
    Status,
    awakeable,
    current_step,
    event,
    resolve,
    task,
    topic,
    workflow,
)
from tests.support.app import App, becomes
from tests.support.cancels import Site
from tests.support.lives import one_life
from tests.support.waiting import eventually

told = event("told", int)


@dataclass
class Inbox:
    heard: list[str] = field(default_factory=list[str])


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_each_generation_has_its_own_input_journal_keys_and_random_numbers(
    app: App,
) -> None:
    @task
    async def keyed(number: int) -> str:
        app.ledger.note(f"{number} {current_step().key}")
        return current_step().key

    drawn: set[str] = set()

    async def handler(run: Run, left: int, seen: list[str]) -> list[str]:
        drawn.add(f"{run.uuid()} {run.random()}")
        assert run.generation == len(seen)
        key = await keyed.start(run, 1)
        if left:
            await run.continue_as_new(left - 1, seen=[*seen, key])
        return [*seen, key]

    version = workflow("anew").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client, 2, [])
    keys = await handle.wait_for_completion(60)
    assert len(set(keys)) == 3
    assert keys[0].startswith(f"{handle.id}/")
    assert keys[2].startswith(f"{handle.id}~2/")
    assert [line.split()[0] for line in app.ledger.lines()] == ["1"] * 3, "each once"
    assert len(drawn) == 3
    assert len(await handle.journal()) == 1, "that of the last generation"
    assert (await handle.describe()).generation == 2


async def test_what_was_sent_and_not_taken_is_carried_over_in_order_and_once(app: App) -> None:
    async def handler(run: Run, sum_: int, left: int) -> int:
        for _ in range(2):
            sum_ = 10 * sum_ + await told.wait(run)
        if left > 1:
            await run.continue_as_new(sum_, left - 1)
        return sum_

    version = workflow("counting").v("1.0.0", exec=handler)
    handle = await version.start(app.client, 0, 3)
    for number in range(1, 6):
        await told.send(handle, number, idempotency_key=f"n{number}")
    await app.serve(version)
    await becomes(handle, Status.AWAITING_EVENT)
    await told.send(handle, 1, idempotency_key="n1")  # it came in the first generation
    await told.send(handle, 6)
    assert await handle.wait_for_completion(60) == 123456


@dataclass
class Sum:
    of: int = 0
    is_full: bool = False


async def test_an_update_is_answered_once_whatever_generation_it_is_asked_again_in(
    app: App,
) -> None:
    entered, opened = asyncio.Event(), asyncio.Event()

    @task
    async def keep(number: int) -> int:
        app.ledger.note(f"keep {number}")
        entered.set()
        await opened.wait()
        return number

    wf = workflow("updated-anew")

    @wf.v("1.0.0")
    async def updated(run: Run, left: int) -> str:
        state = run.state(Sum)
        await run.until("full", lambda: state.is_full)
        if left:
            await run.continue_as_new(left - 1)
        return "full"

    @updated.update
    async def add(run: Run, state: Sum, number: int) -> int:
        state.is_full = True
        state.of += await keep.start(run, number)
        return state.of

    await app.serve(wf)
    handle = await updated.start(app.client, 1)
    first = add.with_options(id="first")
    asking = asyncio.create_task(first.ask(handle, 1))
    await entered.wait()  # the handler goes on already, and continues once this has its answer
    opened.set()
    assert await asking == 1

    async def is_anew() -> bool:
        return (await handle.describe()).generation == 1

    await eventually(is_anew)
    assert await first.ask(handle, 1) == 1
    assert await add.with_options(id="second").ask(handle, 2) == 2, "of another generation"
    assert await handle.wait_for_completion(60) == "full"
    assert await first.ask(handle, 1) == 1
    assert set(app.ledger.lines()) == {"keep 1", "keep 2"}


async def test_streams_go_on_in_the_next_generation(app: App) -> None:
    words = topic("words", str)

    @task
    async def say(word: str) -> None:
        current_step().publish(words, word)

    async def handler(run: Run, left: int) -> None:
        run.publish(words, f"begin {left}")
        await say.start(run, "the same")
        if left:
            await run.continue_as_new(left - 1)

    version = workflow("streaming-anew").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client, 2)
    chunks = [chunk async for chunk in handle.stream(words)]
    assert [chunk.data for chunk in chunks if not chunk.step] == ["begin 2", "begin 1", "begin 0"]
    said = [chunk for chunk in chunks if chunk.step]
    assert [chunk.data for chunk in said] == ["the same"] * 3
    assert len({chunk.step for chunk in said}) == 3, "whose each is, is told"
    assert [chunk.offset for chunk in chunks] == list(range(6))


async def test_a_token_of_an_older_generation_resolves_nothing_in_a_later_one(app: App) -> None:
    tokens: list[str] = []

    async def handler(run: Run, again: bool) -> str:  # noqa: FBT001 - the input of a run
        promise, spare = awakeable(run, "approval", str), awakeable(run, "spare", str)
        if promise.token not in tokens:
            tokens.extend([promise.token, spare.token])
        if again:
            assert await promise.wait() == "first"
            await run.continue_as_new(again=False)
        return f"{await promise.wait()} {await spare.wait()}"

    version = workflow("approving").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client, again=True)
    await becomes(handle, Status.AWAITING_EVENT)
    await resolve(app.client, tokens[0], "first")
    await eventually(lambda: len(tokens) == 4, what="the next generation")
    await becomes(handle, Status.AWAITING_EVENT)
    await resolve(app.client, tokens[0], "it was resolved before, so this does nothing")
    with pytest.raises(NotFound):
        await resolve(app.client, tokens[1], "too late")
    await resolve(app.client, tokens[2], "second")
    await resolve(app.client, tokens[3], "spare")
    assert await handle.wait_for_completion(60) == "second spare"


async def test_an_input_that_does_not_fit_is_refused_in_the_handler(site: Site) -> None:
    async def handler(run: Run, number: int) -> str:
        with pytest.raises(DataError, match="number"):
            await run.continue_as_new("much")
        return await site.work.start(run, str(number))

    version = workflow("refusing").v("1.0.0", exec=handler)
    await site.app.serve(version)
    assert await site.app.result(version.bind(1)) == "1"


async def test_what_is_still_under_way_is_given_up(site: Site) -> None:
    async def handler(run: Run, again: bool) -> str:  # noqa: FBT001 - the input of a run
        if not again:
            return await site.work.start(run, "b")
        left = asyncio.create_task(site.hangs.start(run, "a"))
        await site.work.start(run, "x")
        try:
            await run.continue_as_new(again=False)
        except Exception:  # noqa: BLE001 - nothing is raised that it could catch
            return "caught"
        finally:
            left.cancel()

    version = workflow("leaving").v("1.0.0", exec=handler)
    await site.app.serve(version)
    assert await site.app.result(version.bind(again=True)) == "b"


async def test_a_cancel_that_it_has_not_met_is_met_in_the_next_generation_or_before(
    site: Site,
) -> None:
    async def handler(run: Run, number: int) -> None:
        try:
            await site.work.start(run, str(number))
        except asyncio.CancelledError:
            await site.work.start(run, "cleanup")
            raise
        await run.continue_as_new(number + 1)

    version = workflow("endless").v("1.0.0", exec=handler)
    await site.app.serve(version)
    handle = await version.start(site.app.client, 0)
    await eventually(lambda: len(site.app.ledger.lines()) > 3, what="some generations")
    await handle.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handle.wait_for_completion(60)
    done = site.app.ledger.lines()
    assert done.count("cleanup") <= 1
    assert len(set(done)) == len(done), "no generation executed its step twice"


async def test_a_run_that_was_cancelled_does_not_begin_anew(site: Site) -> None:
    async def handler(run: Run, number: int) -> None:
        try:
            await site.hangs.start(run, "a")
        finally:
            await run.continue_as_new(number + 1)

    version = workflow("stubborn").v("1.0.0", exec=handler)
    await site.app.serve(version)
    handle = await version.start(site.app.client, 0)
    await eventually(lambda: "a" in site.app.ledger.lines(), what="the step")
    await handle.cancel("enough")
    await site.ends(handle)


async def test_what_an_accepted_update_does_to_the_input_comes_along(site: Site) -> None:
    @workflow("chat").v("1.0.0")
    async def chat(run: Run, heard: list[str]) -> list[str]:
        inbox = run.state(Inbox)
        inbox.heard = heard
        if run.generation == 0:
            await run.until("something", lambda: bool(inbox.heard))
            await run.continue_as_new(inbox.heard)
        return inbox.heard

    @chat.update
    async def hear(run: Run, inbox: Inbox, word: str) -> None:
        await (site.holds_thread if word == "late" else site.work).start(run, word)
        inbox.heard.append(word)

    await site.app.serve(chat)
    handle = await chat.start(site.app.client, [])
    late = asyncio.create_task(hear.ask(handle, "late"))
    await eventually(lambda: "late" in site.app.ledger.lines(), what="the update")
    await hear.ask(handle, "first")
    site.let_go.set()
    await late
    assert await handle.wait_for_completion(60) == ["first", "late"]


@pytest.mark.parametrize("unheard", [False, True], ids=["unsent", "unheard"])
@pytest.mark.parametrize("death", range(5))
async def test_an_owner_may_die_at_any_point_of_it(
    site: Site, death: int, *, unheard: bool
) -> None:
    async def handler(run: Run, sum_: int, left: int) -> int:
        sum_ = 10 * sum_ + await told.wait(run)
        await site.work.start(run, f"{left}")
        if left > 1:
            await run.continue_as_new(sum_, left - 1)
        return sum_

    version = workflow("mortal").v("1.0.0", exec=handler)
    handle = await version.start(site.app.client, 0, 3)
    for number in (1, 2, 3):
        await told.send(handle, number)
    while (await handle.status()).status is not Status.COMPLETED:
        await one_life(site.app, [version], [handle], {handle.id: death + 1}, unheard=unheard)
    assert await handle.wait_for_completion(0) == 123
