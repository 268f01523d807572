"""Runs that stand where a test cancels them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiki import Run, RunCancelled, Status, fixed, task, workflow
from aiki.handle import Handle
from tests.support.app import App, outcomes
from tests.support.waiting import eventually


class Site:
    """Tasks that hold a run where a test wants it, and the ledger of what was done."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.let_go = threading.Event()

        @task
        async def work(label: str) -> str:
            app.ledger.note(label)
            return label

        @task
        async def hangs(label: str) -> str:
            app.ledger.note(label)
            await asyncio.Event().wait()
            return label

        @task
        def holds_thread(label: str) -> str:
            app.ledger.note(label)
            self.let_go.wait(60)
            return label

        @task(retry=fixed(5, 3600))
        async def retries(label: str) -> str:
            app.ledger.note(label)
            raise ValueError(label)

        self.work = work
        self.hangs = hangs
        self.holds_thread = holds_thread
        self.retries = retries

    async def begin(
        self, handler: Callable[[Run], Coroutine[Any, Any, Any]], mark: str, **options: Any
    ) -> Handle[Any]:
        """Execute a run until this mark is in the ledger."""
        version = workflow("cancelled").v("1.0.0", exec=handler)
        await self.app.serve(version, **options)
        handle = await version.start(self.app.client)
        await eventually(lambda: mark in self.app.ledger.lines(), what=mark)
        return handle

    async def ends(self, handle: Handle[Any], reason: str = "enough") -> list[tuple[str, str]]:
        """Check that the run ends as cancelled, and give what is recorded."""
        with pytest.raises(RunCancelled) as cancelled:
            await handle.wait_for_completion(60)
        assert cancelled.value.reason == reason
        assert (await handle.status()).status is Status.CANCELLED
        return await outcomes(handle)
