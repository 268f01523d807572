"""Users with the rights of a role and no others, and passwords that are changed under everybody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aiki.client import Client
from aiki.store.rights import Role
from tests.cli.till import invoke
from tests.faults import caller
from tests.faults.cast import cast_of
from tests.faults.ledger import VARIABLE
from tests.faults.nursery import Nursery
from tests.faults.site import Site, site_at
from tests.faults.test_points import STORY
from tests.support.logins import Logins

# All that a client may send; `audit --repair` is for supervisors.
CALLS = (
    caller.start, caller.post, caller.wake, caller.pause, caller.terminate, caller.retry,
    caller.fork, caller.delete, caller.ask, caller.read, caller.occasion,
)  # fmt: skip
# Asked for once, and done without.
DONE_WITHOUT = {(Role.SUPERVISOR, "config|get")}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@asynccontextmanager
async def users(site: Site) -> AsyncGenerator[Logins]:
    """Make a user for each role, by which all who come from now on log in."""
    async with site.admin() as admin:
        logins = Logins(admin.execute_command, site.server.url, "default")
        for role in (Role.CLIENT, Role.WORKER, Role.SUPERVISOR):
            site.urls[role] = await logins.add(role)
        yield logins
        assert {*await logins.refused()} - DONE_WITHOUT == set()


@pytest.mark.parametrize("story", ["voyage", "chores"])
async def test_workers_and_supervisors_do_their_whole_job_with_the_rights_of_their_role(
    tmp_path: Path, nursery: Nursery, story: str
) -> None:
    """Given a client, workers and supervisors each with a user of their own, nothing is refused."""
    async with site_at(tmp_path) as site, users(site), cast_of(site, nursery, "") as cast:
        async with Client(site.urls[Role.CLIENT]) as client:
            admin, site.client = site.client, client
            try:
                await STORY[story](cast)
            finally:
                site.client = admin
        await cast.ends()
        await site.is_consistent(workers=0)


async def test_clients_do_their_whole_job_with_the_rights_of_their_role(
    tmp_path: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ledger"))
    async with site_at(tmp_path) as site, users(site), cast_of(site, nursery, "") as cast:
        cast.enter("supervisor")
        cast.enter("worker")
        async with Client(site.urls[Role.CLIENT]) as client, asyncio.TaskGroup() as group:
            for part in CALLS:
                group.create_task(part(client), name=part.__name__)
        await cast.ends()
        await site.is_consistent(workers=0)


async def test_a_supervisor_and_its_workers_need_no_more_than_its_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a user of the role, a worker is killed, an order completes, and the audit mends."""
    monkeypatch.chdir(tmp_path)
    async with site_at(tmp_path) as site, users(site):
        url, site.url = site.url, site.urls[Role.SUPERVISOR]
        with site.supervised(workers=1) as found:
            await found.serves()
            handle = await site.start("order", charge="gate:over")
            (pid,) = await site.under_way(handle, "charge")
            os.kill(pid, signal.SIGKILL)
            site.open("over")
            await site.complete([handle])
            audit = await invoke("audit", "--repair", "--redis", site.url)
            assert audit.exit_code == 0, audit.output
            site.url = url
            await site.ends(found)
