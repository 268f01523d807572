"""What is called for a run: its handler, within its middleware and its hook for failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from aiki.ending import Ending
from aiki.errors import TaskFailed
from aiki.failures import failure_from_exception
from aiki.run import Run
from aiki.step import StepSpec
from aiki.workflow import WorkflowVersion

_logger = logging.getLogger("aiki.actor")

Calling = Callable[[], Coroutine[Any, Any, Any]]


def calling(
    run: Run,
    definition: WorkflowVersion[..., Any],
    around: Sequence[Any],
    ending: Ending,
    handler: Calling,
) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Give the call of a handler with all that belongs around it; it gives the stored result."""
    for each in reversed(around):
        handler = partial(each.run, run, handler)
    ended = partial(ending.of, handler)
    on_failure = definition.hooks.on_failure
    return ended if on_failure is None else partial(_telling, run, on_failure, ending, ended)


async def _telling(
    run: Run,
    on_failure: StepSpec,
    ending: Ending,
    handler: Callable[[], Coroutine[Any, Any, bytes]],
) -> bytes:
    try:
        return await handler()
    except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        # One that has another attempt has not failed yet
        if not run.execution.cancel_delivered and ending.delay is None:
            try:
                await run.execute_hook(on_failure, failure_from_exception(error))
            except TaskFailed as failed:
                _logger.warning("run %s: its failure could not be told: %s", run.id, failed)
        raise
