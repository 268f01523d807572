"""What a worker serves once it runs."""

import pytest

from aiki import Run, workflow
from aiki.errors import ConfigError
from tests.support.app import App


async def nothing(_: Run) -> None:
    """Do nothing."""


async def test_nothing_is_added_while_it_runs(app: App) -> None:
    first, second = (workflow(name).v("1.0.0", exec=nothing) for name in ("first", "second"))
    worker = await app.serve(first)
    with pytest.raises(ConfigError, match="would not serve what is added now"):
        worker.workflow_registry.add(second)
    await app.end(worker)
    worker.workflow_registry.add(second)
