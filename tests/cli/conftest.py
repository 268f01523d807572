"""A directory of its own for each test of the command, with a store and a worker if it wants."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import aiki
from tests.cli.till import shop


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty directory, with nothing in the environment that says another store."""
    for name in ("AIKI_REDIS_URL", "AIKI_DATA_DIR", "AIKI_NAMESPACE", "AIKI_DURABILITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def client(place: Path) -> AsyncGenerator[aiki.Client]:
    async with aiki.client(data_dir=place / ".aiki") as client:
        yield client


@pytest.fixture
async def worker(client: aiki.Client) -> AsyncGenerator[aiki.Worker]:
    worker = aiki.worker(client, id="till-1")
    worker.workflow_registry.add(shop)
    async with worker:
        yield worker
