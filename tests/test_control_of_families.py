"""Control where runs have children, and where a task is told of their failure."""

import pytest

from aiki import (
    Failure,
    InvalidTransition,
    Run,
    RunFailed,
    Status,
    awakeable,
    fixed,
    reject,
    task,
    workflow,
)
from tests.support.app import App, becomes
from tests.support.cancels import Site
from tests.support.waiting import eventually


@pytest.fixture
def site(app: App) -> Site:
    return Site(app)


async def test_each_generation_has_children_of_its_own(site: Site) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0")
    async def child(run: Run, number: int) -> str:
        await site.work.start(run, f"{number}")
        return run.id

    @wf.v("1.0.0")
    async def parent(run: Run, seen: list[str]) -> list[str]:
        one = await (await child.start_as_child(run, 1)).wait_for_completion()
        seen = [*seen, one, *await run.map(child, [2, 3])]
        if len(seen) < 9:
            await run.continue_as_new(seen)
        return seen

    await site.app.serve(child_wf, wf)
    ids = await site.app.result(parent.bind([]), 60)
    assert len(set(ids)) == 9
    assert site.app.ledger.count() == {"1": 3, "2": 3, "3": 3}


async def test_a_fork_has_the_results_of_the_children_that_it_did_not_start(site: Site) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0")
    async def child(run: Run, number: int) -> int:
        await site.work.start(run, f"{number}")
        return number

    @wf.v("1.0.0")
    async def parent(run: Run) -> list[int]:
        one = await (await child.start_as_child(run, 1)).wait_for_completion()
        others = await run.map(child, [2, 3])
        await site.work.start(run, "last")
        return [one, *others]

    await site.app.serve(child_wf, wf)
    handle = await parent.start(site.app.client)
    assert await handle.wait_for_completion(60) == [1, 2, 3]
    last = (await handle.journal())[-1]
    fork = await handle.fork(at=last.key)
    assert await fork.wait_for_completion(60) == [1, 2, 3]
    assert await (await fork.fork()).wait_for_completion(60) == [1, 2, 3]
    assert site.app.ledger.count() == {"1": 1, "2": 1, "3": 1, "last": 2}


async def test_a_parent_goes_on_once_its_child_was_retried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At once, and not when the sweep finds that it was not told
    monkeypatch.setattr("aiki.housekeeping.SWEEP_EVERY", 3600.0)
    failing = [True]
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0")
    async def child(run: Run) -> str:
        site.app.ledger.note(run.id)
        if failing:
            raise ConnectionError
        return "worked"

    @wf.v("1.0.0")
    async def parent(run: Run) -> str:
        started = await child.start_as_child(run)
        return await started.wait_for_completion()

    await site.app.serve(child_wf, wf)
    handle = await parent.start(site.app.client)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    failing.clear()
    (child_id,) = set(site.app.ledger.lines())
    await child.handle(site.app.client, child_id).retry()
    await becomes(site.app.client.handle(child_id), Status.COMPLETED)
    await handle.retry()
    assert await handle.wait_for_completion(60) == "worked"


async def test_a_child_that_failed_fails_its_parent_for_good(site: Site) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0", retry=fixed(2, 0.01))
    async def child(run: Run) -> None:
        site.app.ledger.note(f"child {run.attempt}")
        raise ConnectionError

    @wf.v("1.0.0", retry=fixed(5, 0.01))
    async def parent(run: Run, caught: bool) -> None:  # noqa: FBT001 - the input of a run
        started = await child.start_as_child(run)
        try:
            await started.wait_for_completion()
        except RunFailed:
            if not caught:
                raise
            site.app.ledger.note(f"parent {run.attempt}")
            raise ValueError from None

    await site.app.serve(child_wf, wf)
    handle = await parent.start(site.app.client, caught=False)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    assert site.app.ledger.lines() == ["child 1", "child 2"]
    handle = await parent.start(site.app.client, caught=True)
    with pytest.raises(RunFailed, match="ValueError"):
        await handle.wait_for_completion(60)
    assert site.app.ledger.lines()[4:] == [f"parent {n}" for n in (1, 2, 3, 4, 5)]


async def test_a_rejection_stays_one_when_the_run_is_retried(site: Site) -> None:
    tokens: set[str] = set()

    async def handler(run: Run) -> str:
        promise = awakeable(run, "approval", str)
        tokens.add(promise.token)
        try:
            return await promise.wait()
        finally:
            await site.work.start(run, "cleanup")

    version = workflow("rejected").v("1.0.0", exec=handler)
    await site.app.serve(version)
    handle = await version.start(site.app.client)
    await becomes(handle, Status.AWAITING_EVENT)
    await reject(site.app.client, tokens.pop(), "no")
    for _ in range(2):
        with pytest.raises(RunFailed, match="no"):
            await handle.wait_for_completion(60)
        await handle.retry()
    with pytest.raises(RunFailed, match="no"):
        await handle.wait_for_completion(60)


async def test_a_child_is_not_deleted_before_its_parent_has_taken_its_end(site: Site) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0")
    async def child(run: Run) -> str:
        site.app.ledger.note(run.id)
        return "done"

    @wf.v("1.0.0")
    async def parent(run: Run) -> str:
        started = await child.start_as_child(run)
        await site.holds_thread.start(run, "held")
        return await started.wait_for_completion()

    await site.app.serve(child_wf, wf)
    handle = await parent.start(site.app.client)
    await eventually(lambda: len(site.app.ledger.lines()) == 2, what="both")
    (child_id,) = {line for line in site.app.ledger.lines() if line != "held"}
    ended = site.app.client.handle(child_id)
    await becomes(ended, Status.COMPLETED)
    with pytest.raises(InvalidTransition, match="has still to take its end"):
        await ended.delete()
    site.let_go.set()
    assert await handle.wait_for_completion(60) == "done"
    await ended.delete()


async def test_children_of_a_run_that_is_terminated_end_too(site: Site) -> None:
    child_wf, wf = workflow("child"), workflow("parent")

    @child_wf.v("1.0.0")
    async def child(run: Run) -> None:
        site.app.ledger.note(run.id)
        await site.hangs.start(run, "hangs")

    @wf.v("1.0.0")
    async def parent(run: Run) -> None:
        await (await child.start_as_child(run)).wait_for_completion()

    await site.app.serve(child_wf, wf)
    handle = await parent.start(site.app.client)
    await eventually(lambda: "hangs" in site.app.ledger.lines(), what="the child")
    (child_id,) = set(site.app.ledger.lines()) - {"hangs"}
    await handle.terminate("no more")
    await becomes(site.app.client.handle(child_id), Status.CANCELLED)


async def test_a_failure_is_told_once_the_last_attempt_was_made_and_undone(site: Site) -> None:
    wf = workflow("told")

    @task
    async def tell(failure: Failure) -> None:
        site.app.ledger.note(f"told {failure.message}")

    @wf.v("1.0.0", on_failure=tell, retry=fixed(2, 0.01))
    async def told(run: Run) -> None:
        run.compensate(site.work, "undone")
        raise ValueError(f"attempt {run.attempt}")

    await site.app.serve(wf)
    handle = await told.start(site.app.client)
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    assert site.app.ledger.lines() == ["undone", "told attempt 2"]


async def test_a_failure_after_a_retry_is_told_again(site: Site) -> None:
    wf = workflow("told-again")

    @task
    async def tell(failure: Failure) -> None:
        site.app.ledger.note(f"told {failure.message}")

    @wf.v("1.0.0", on_failure=tell)
    async def told(run: Run) -> None:
        await site.work.start(run, "a")
        raise ValueError("broken")

    await site.app.serve(wf)
    handle = await told.start(site.app.client)
    for _ in range(2):
        with pytest.raises(RunFailed):
            await handle.wait_for_completion(60)
        await handle.retry()
    with pytest.raises(RunFailed):
        await handle.wait_for_completion(60)
    assert site.app.ledger.count() == {"a": 1, "told broken": 3}
