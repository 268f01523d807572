"""Runs that are on their way to a worker when it ends by a failure."""

from typing import Any

import pytest

from aiki import Run, Status, task, workflow
from aiki.store.runs import Runs
from tests.support.app import App, becomes


@pytest.mark.plain_only("it is about what a worker begins")
async def test_a_worker_that_has_failed_hands_back_what_it_was_still_given(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task
    async def effect() -> None:
        app.ledger.note("begun")

    async def handler(run: Run) -> None:
        await effect.start(run)

    claimed = Runs.claimed

    def failing(runs: Runs, *arguments: Any) -> Any:
        worker._interrupted(KeyboardInterrupt())  # which a task of another run has raised
        return claimed(runs, *arguments)

    version = workflow("late").v("1.0.0", exec=handler)
    worker = await app.serve(version)
    monkeypatch.setattr(Runs, "claimed", failing)
    handle = await version.start(app.client)
    await worker.stopping.wait()
    await becomes(handle, Status.QUEUED)
    with pytest.raises(KeyboardInterrupt):
        await app.end(worker)
    assert app.ledger.lines() == []
