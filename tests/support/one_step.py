"""Runs of one step, and what it came to."""

from collections.abc import Callable, Coroutine
from typing import Any

from aiki import Run, TaskFailed, workflow
from tests.support.app import App

Handler = Callable[[Run], Coroutine[Any, Any, str]]


def reporting(start: Callable[[Run], Coroutine[Any, Any, Any]]) -> Handler:
    """Make a handler that returns what its one step came to."""

    async def handler(run: Run) -> str:
        try:
            return repr(await start(run))
        except TaskFailed as failed:
            return f"{failed.task} {failed.attempts} {failed.failure.type} {failed.failure.message}"

    return handler


async def told(app: App, start: Callable[[Run], Coroutine[Any, Any, Any]]) -> str:
    """Execute a run of one step, and give what it came to."""
    version = workflow("one-step").v("1.0.0", exec=reporting(start))
    await app.serve(version)
    return await app.result(version.bind())
