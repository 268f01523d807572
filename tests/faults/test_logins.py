"""Users with the rights of a role and no others, and passwords that are changed under everybody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from aiki import StoreUnavailable
from aiki.client import Client
from aiki.store.rights import Role
from tests.cli.till import invoke
from tests.faults import caller
from tests.faults.cast import cast_of
from tests.faults.ledger import VARIABLE
from tests.faults.nursery import Nursery
from tests.faults.site import Site, site_at
from tests.faults.test_points import STORY
from tests.faults.test_server_states import under_way
from tests.faults.traffic import at_rest
from tests.faults.workload import Order, order_v1
from tests.support.logins import Logins, Send
from tests.support.tls import Authority, SecureServer

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
        logins = Logins(cast("Send", admin.execute_command), site.server.url, "default")
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


# Passwords that change


class Rotation:
    """A user of the server whose password stands in a file, and is changed."""

    def __init__(self, admin: Redis, file: Path) -> None:
        self._admin = admin
        self._file = file

    async def accept(self, password: str) -> None:
        """Let the server take this one too."""
        await self._admin.execute_command("ACL", "SETUSER", "app", f">{password}")

    def write(self, password: str) -> None:
        """Put one into the file, as secrets are put: all at once."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(password + "\n")
        fresh.replace(self._file)

    async def refuse(self, password: str) -> None:
        """Take one back, and end all connections that were made by it."""
        await self._admin.execute_command("ACL", "SETUSER", "app", f"<{password}")
        admin = cast("Any", self._admin)
        killed: int = await admin.execute_command("CLIENT", "KILL", "USER", "app")
        assert killed > 5, "connections of the client, the supervisor and its workers"


@asynccontextmanager
async def rotating(site: Site, admin: Redis) -> AsyncGenerator[Rotation]:
    """Let everybody who comes from now on log in by a file."""
    file = site.directory / "password"
    rotation = Rotation(admin, file)
    await admin.execute_command("ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all")
    rotation.write("first")
    site.url = site.url.replace("://", "://app@") + f"?password_file={file}"
    async with site.make_client() as client:
        other, site.client = site.client, client
        yield rotation
        site.client = other


@pytest.mark.slow
async def test_a_password_is_changed_under_load_and_nobody_notices(tmp_path: Path) -> None:
    """Checks I1 to I5, I13: two passwords for a while, a new file, and no old connection left."""
    async with (
        site_at(tmp_path) as site,
        site.admin() as admin,
        rotating(site, admin) as rotation,
        under_way(site) as traffic,
    ):
        for before, after in (("first", "second"), ("second", "third")):
            await rotation.accept(after)
            rotation.write(after)
            await rotation.refuse(before)
            await traffic.flows()
            assert "no connection yet" not in traffic.found.output()
        await traffic.end()
        assert "first" not in traffic.found.output()
        assert "third" not in traffic.found.output()


@pytest.mark.slow
async def test_a_password_that_is_taken_back_too_soon_is_waited_for(tmp_path: Path) -> None:
    """Checks I1 to I5, I13 and I16: nobody can log in until the file has the right one."""
    async with (
        site_at(tmp_path) as site,
        site.admin() as admin,
        rotating(site, admin) as rotation,
        site.make_client(start_timeout=1.0) as hasty,
        under_way(site) as traffic,
    ):
        await rotation.accept("second")
        await rotation.refuse("first")
        async with at_rest(traffic.found):
            with pytest.raises(StoreUnavailable, match=r"WRONGPASS|invalid username-password"):
                await order_v1.start(hasty, Order("nobody knows"))
            (tmp_path / "password").write_text("")
            with pytest.raises(StoreUnavailable, match="password is empty"):
                await site.make_client().connect()
        rotation.write("second")
        await traffic.flows(1, within=5.0)
        await traffic.end(strangers=1)


@pytest.mark.slow
async def test_a_supervisor_serves_by_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    """Checks I1 to I4 and I13: the server ends connections, and its certificate is renewed."""
    authority = Authority(tmp_path / "authority")
    certificate = authority.certify("server", ["localhost"])
    server = SecureServer(tmp_path / "secure", authority, certificate, clients="yes")
    file, key = authority.certify("supervisor")
    options = f"ssl_ca_certs={authority.file}&ssl_certfile={file}&ssl_keyfile={key}"
    server.start()
    try:
        url = f"rediss://localhost:{server.port}?{options}"
        async with site_at(tmp_path, url=url) as site, under_way(site) as traffic:
            authority.certify("server", ["localhost"])
            server.kill()
            server.start()
            await traffic.flows()
            await traffic.end()
    finally:
        server.stop()
