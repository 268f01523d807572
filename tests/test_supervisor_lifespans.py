"""Lifespans and contexts of workflows that a supervisor's workers serve."""

import signal
from pathlib import Path

import pytest

from aiki.supervisor.exits import Exit
from tests.support.supervised import Supervised, start

SHOP = """
import os
import aiki
from aiki import Run, task, workflow

def note(text):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{text}\\n")

@aiki.lifespan
async def database():
    note("opened")
    if os.path.exists("down"):
        raise ConnectionError("the database is down")
    yield "a connection"
    note("closed")

@aiki.run_context
def tenant(info: aiki.RunInfo) -> str:
    return f"{info.input['name']} by {database.get()}"

@task
def serve() -> str:
    return tenant.get()

shop = workflow("shop", lifespan=database, context=tenant)

@shop.v("1.0.0")
async def shop_v1(run: Run, name: str) -> str:
    return await serve.start(run)
"""


@pytest.mark.parametrize("given", ["shop", "shop:shop_v1"])
async def test_under_a_supervisor_lifespans_come_with_the_workflow(
    tmp_path: Path, given: str
) -> None:
    found = Supervised(tmp_path, given, "--workers", "1")
    found.write("shop", SHOP)
    with found:
        await found.serves()
        async with found.client() as client:
            handle = await start(client, "shop", name="ada")
            assert await handle.wait_for_completion(60) == "ada by a connection"
        assert found.effects() == ["opened"]
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED
        assert found.effects() == ["opened", "closed"]


async def test_a_lifespan_that_fails_at_boot_ends_the_supervisor_with_its_traceback(
    tmp_path: Path,
) -> None:
    found = Supervised(tmp_path, "shop", "--workers", "2")
    found.write("shop", SHOP)
    (tmp_path / "down").touch()
    with found:
        assert await found.ends(60) == Exit.BOOT
    assert found.effects() == ["opened"]
    output = found.output()
    assert "could not boot: ConnectionError: the database is down" in output
    assert 'raise ConnectionError("the database is down")' in output


async def test_a_lifespan_that_fails_later_is_tried_again(tmp_path: Path) -> None:
    found = Supervised(tmp_path, "shop", "--workers", "1")
    found.write("shop", SHOP)
    with found:
        await found.serves()
        (tmp_path / "down").touch()
        (worker,) = await found.has_workers(1)
        worker.kill()
        await found.says("could not boot: ConnectionError", 60)
        (tmp_path / "down").unlink()
        async with found.client() as client:
            handle = await start(client, "shop", name="ada")
            assert await handle.wait_for_completion(60) == "ada by a connection"
