"""A workflow that tells which release executes it."""

from __future__ import annotations

from importlib.metadata import version

import aiki
from aiki import Run, task, workflow
from aiki.store.scripts import SCRIPTS

which = workflow("which")


@task
async def tell() -> list[str]:
    """Tell the version, the place, and by what the server knows a script."""
    return [version("aiki"), aiki.__file__, SCRIPTS["commit_step"].sha]


@which.v("1.0.0")
async def which_v1(run: Run) -> list[str]:
    """Tell what executes it."""
    return await tell.start(run)
