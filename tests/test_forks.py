"""Runs that begin with what is recorded of another one, and runs that are deleted."""

import asyncio

import pytest

from aiki import (
    DataError,
    InvalidTransition,
    NotFound,
    Run,
    RunFailed,
    Status,
    awakeable,
    current_step,
    event,
    resolve,
    task,
    workflow,
)
from aiki.handle import Handle
from aiki.store.keys import new_run_id
from aiki.store.runs import NewRun
from aiki.workflow import WorkflowVersion
from tests.support.app import App, becomes, outcomes
from tests.support.cancels import Site

noted = event("noted")


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def completed(app: App) -> tuple[WorkflowVersion[[], list[str]], Handle[list[str]]]:
    """Let a run of four steps complete, which draws random numbers and reads the clock."""

    @task
    async def keyed(label: str) -> str:
        app.ledger.note(label)
        return f"{label} {current_step().run_id}"

    async def handler(run: Run) -> list[str]:
        drawn = [str(run.uuid()), str(run.random())]
        seen = [await keyed.start(run, label) for label in "ab"]
        at = run.now().isoformat()
        seen += [await keyed.start(run, label) for label in "cd"]
        return [*drawn, at, *seen]

    version = workflow("forked").v("1.0.0", exec=handler)
    await app.serve(version)
    handle = await version.start(app.client)
    await handle.wait_for_completion(60)
    return version, handle


async def test_a_fork_takes_over_what_was_recorded_before_a_step(app: App) -> None:
    _, handle = await completed(app)
    before = await handle.wait_for_completion(60)
    steps = await handle.journal()
    third = [step for step in steps if step.task == "keyed"][2]
    fork = await handle.fork(at=third.key)
    assert fork.id != handle.id
    after = await fork.wait_for_completion(60)
    assert after[:2] == before[:2], "random numbers are the same"
    assert after[2:5] == before[2:5], "so are the clock and the results"
    assert after[5:] == [f"{label} {fork.id}" for label in "cd"]
    assert app.ledger.lines() == [*"abcd", *"cd"]
    assert (await fork.describe()).forked_from == f"{handle.id} {third.key}"
    assert await handle.wait_for_completion(60) == before, "the other is as it was"


async def test_a_fork_of_a_fork_draws_as_the_first(app: App) -> None:
    _, handle = await completed(app)
    fork = await (await handle.fork()).fork()
    drawn = await fork.wait_for_completion(60)
    assert drawn == await handle.wait_for_completion(60), "all had a result"
    assert app.ledger.lines() == [*"abcd"]


async def test_a_fork_at_the_first_step_is_a_new_start(app: App) -> None:
    _, handle = await completed(app)
    fork = await handle.fork(at=(await handle.journal())[0].key)
    await fork.wait_for_completion(60)
    assert app.ledger.lines() == [*"abcd"] * 2


async def test_a_fork_of_a_failed_run_goes_on_where_it_failed(site: Site) -> None:
    failing = [True]

    @task
    async def shaky() -> str:
        if failing:
            raise ConnectionError
        return "worked"

    async def handler(run: Run) -> list[str]:
        try:
            return [await site.work.start(run, "a"), await shaky.start(run)]
        finally:
            await site.work.start(run, "cleanup")

    version = workflow("failing").v("1.0.0", exec=handler)
    await site.app.serve(version, divergence_after=20)
    handle = await version.start(site.app.client)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    failing.clear()
    fork = await handle.fork()
    assert await fork.wait_for_completion(60) == ["a", "worked"]
    assert site.app.ledger.lines() == ["a", "cleanup"]
    assert [task for task, _ in await outcomes(handle)] == ["work", "shaky", "work"], "as it was"


async def test_a_fork_of_a_cancelled_run_was_not_cancelled(site: Site) -> None:
    async def handler(run: Run) -> list[str]:
        try:
            return [await site.work.start(run, "a"), await site.holds_thread.start(run, "b")]
        except asyncio.CancelledError:
            await site.work.start(run, "cleanup")
            raise

    handle = await site.begin(handler, "b")
    await handle.cancel("enough")
    await site.ends(handle)
    site.let_go.set()
    fork = await handle.fork()
    assert await fork.wait_for_completion(60) == ["a", "b"]
    assert site.app.ledger.count()["a"] == 1


async def test_a_run_that_executes_can_be_forked(site: Site) -> None:
    async def handler(run: Run) -> list[str]:
        return [await site.work.start(run, "a"), await site.holds_thread.start(run, "b")]

    handle = await site.begin(handler, "b")
    fork = await handle.fork()
    site.let_go.set()
    assert await fork.wait_for_completion(60) == await handle.wait_for_completion(60)
    assert site.app.ledger.count() == {"a": 1, "b": 2}


async def test_what_cannot_be_forked_is_told(app: App) -> None:
    _, handle = await completed(app)
    with pytest.raises(DataError, match="nothing is recorded under 'unknown#0'"):
        await handle.fork(at="unknown#0")
    with pytest.raises(NotFound):
        await app.client.handle("0-unknown").fork()


# Deleted


async def test_a_run_that_is_over_is_deleted_with_everything(app: App) -> None:
    version, handle = await completed(app)
    await handle.delete()
    await handle.delete()
    for ask in (handle.status, handle.journal, handle.describe, handle.wait_for_completion):
        with pytest.raises(NotFound):
            await ask()
    for act in (handle.cancel, handle.terminate, handle.pause, handle.resume, handle.retry):
        with pytest.raises(NotFound):
            await act()
    for steer in (handle.wake_up, handle.fork):
        with pytest.raises(NotFound):
            await steer()
    with pytest.raises(NotFound):
        await noted.send(handle, None)
    assert [run.id async for run in app.client.runs()] == []
    base = app.base_of(handle.id)
    link = app.link_of(handle.id)
    kept = await link.send(("KEYS", f"{base}*{handle.id}*"))
    assert kept == [f"{base}run:{handle.id}".encode()]
    assert 7000 < await link.send(("TTL", kept[0])) <= 7200
    assert await app.result(version.bind()), "others are not touched"


async def test_a_run_that_is_not_over_is_not_deleted(site: Site) -> None:
    async def handler(run: Run) -> None:
        await site.hangs.start(run, "a")

    handle = await site.begin(handler, "a")
    with pytest.raises(InvalidTransition, match="from running to deleted; cancel or terminate"):
        await handle.delete()
    with pytest.raises(NotFound):
        await site.app.client.handle("0-unknown").delete()


async def test_who_waits_for_a_run_that_was_deleted_hears_that(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.completion.POLL", 0.2)
    version, handle = await completed(app)
    await handle.delete()
    with pytest.raises(NotFound):
        await version.handle(app.client, handle.id).wait_for_completion(60)


async def test_an_idempotency_key_is_free_again(app: App) -> None:
    version, _ = await completed(app)
    keyed = version.with_options(idempotency_key="k")
    handle = await keyed.start(app.client)
    await handle.wait_for_completion(60)
    await handle.delete()
    other = await keyed.start(app.client)
    assert other.id != handle.id
    assert await other.wait_for_completion(60)


async def test_a_start_that_is_sent_again_late_does_not_start_what_was_deleted(app: App) -> None:
    version, _ = await completed(app)
    sent = NewRun(new_run_id(0), version.name, version.version, "default", b"{}", "", "hash")
    runs = app.client.store.runs
    assert await runs.start([sent], timeout=10) == [sent.id]
    handle = version.handle(app.client, sent.id)
    await handle.wait_for_completion(60)
    await handle.delete()
    (refused,) = await runs.start([sent], timeout=10)
    assert isinstance(refused, NotFound)
    assert "was deleted" in str(refused)
    with pytest.raises(NotFound):
        await handle.status()


async def test_a_fork_at_the_step_that_hands_a_token_over_has_a_decision_of_its_own(
    app: App,
) -> None:
    mailed: list[str] = []

    @task
    async def mail(token: str) -> None:
        mailed.append(token)

    @workflow("approvals").v("1.0.0")
    async def approving(run: Run) -> str:
        approval = awakeable(run, "approval", str)
        await mail.start(run, approval.token)
        return await approval.wait()

    await app.serve(approving)
    handle = await approving.start(app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    (step,) = [step for step in await handle.journal() if step.task == "mail"]
    fork = await handle.fork(at=step.key)
    await becomes(fork, Status.AWAITING_EVENT)
    first, second = dict.fromkeys(mailed)
    await resolve(app.client, second, "yes")
    assert await fork.wait_for_completion(60) == "yes"
    await resolve(app.client, first, "no")
    assert await handle.wait_for_completion(60) == "no"


async def test_a_fork_between_the_start_of_a_child_and_its_end_takes_the_end_too(app: App) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @task
    async def work() -> str:
        return "worked"

    @child_wf.v("1.0.0")
    async def child(_run: Run, number: int) -> int:
        return number

    @wf.v("1.0.0")
    async def parent(run: Run) -> str:
        one = await child.start_as_child(run, 1)
        done = await work.start(run)
        return f"{done} {await one.wait_for_completion()}"

    await app.serve(child_wf, wf)
    handle = await parent.start(app.client)
    assert await handle.wait_for_completion(60) == "worked 1"
    (step,) = [step for step in await handle.journal() if step.task == "work"]
    fork = await handle.fork(at=step.key)
    assert await fork.wait_for_completion(60) == "worked 1"


async def test_a_child_that_was_deleted_between_two_attempts_is_gone(app: App) -> None:
    failing = {"yes"}
    child_wf, wf = workflow("child"), workflow("parent")

    @task
    async def shaky() -> None:
        if failing:
            raise ConnectionError("down")

    @child_wf.v("1.0.0")
    async def child(_run: Run) -> None:
        """End at once."""

    @wf.v("1.0.0")
    async def parent(run: Run) -> None:
        one = await child.start_as_child(run)
        await run.sleep("until it is over", 0.05)
        await shaky.start(run)
        await one.wait_for_completion()

    await app.serve(child_wf, wf)
    handle = await parent.start(app.client)
    with pytest.raises(RunFailed, match="down"):
        await handle.wait_for_completion(60)
    async for run in app.client.runs(workflow="child"):
        await app.client.handle(run.id).wait_for_completion(60)
        await app.client.handle(run.id).delete()
    failing.clear()
    await handle.retry()
    await becomes(handle, Status.STALLED)
    assert "is not there any more" in (await handle.status()).reason
