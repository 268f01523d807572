"""What is called for a run: its handler, within its middleware and its hook for failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from aiki.errors import TaskFailed
from aiki.failures import failure_from_exception
from aiki.run import Run
from aiki.step import StepSpec
from aiki.workflow import WorkflowVersion

_logger = logging.getLogger("aiki.actor")

Calling = Callable[[], Coroutine[Any, Any, Any]]


def calling(
    run: Run, definition: WorkflowVersion[..., Any], around: Sequence[Any], handler: Calling
) -> Calling:
    """Give the call of a handler with all that belongs around it."""
    for each in reversed(around):
        handler = partial(each.run, run, handler)
    on_failure = definition.hooks.on_failure
    if on_failure is None:
        return handler
    return partial(_telling, run, definition, on_failure, handler)


async def _telling(
    run: Run, definition: WorkflowVersion[..., Any], on_failure: StepSpec, handler: Calling
) -> Any:
    try:
        result = await handler()
        definition.result.encode(result)  # or the run would fail by it, and nobody be told
    except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if not run.execution.cancel_delivered:
            try:
                await run.execute_hook(on_failure, failure_from_exception(error))
            except TaskFailed as failed:
                _logger.warning("run %s: its failure could not be told: %s", run.id, failed)
        raise
    return result
