"""Connections by TLS: what is trusted, and what is said where nothing can be."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection

import aiki
from aiki import Run, StoreUnavailable, workflow
from aiki.client import Client
from aiki.store import certificates
from aiki.store.rights import sentinel_line
from tests.support.app import TIMEOUT
from tests.support.replicated import SERVICE
from tests.support.tls import Authority, SecureCluster, SecureSentinel, SecureServer
from tests.support.waiting import eventually

# A connection that is given up in its first steps of TLS, asyncio may leave to the garbage
# collector. That shall come here, and not in the middle of a later test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


greetings = workflow("greetings")

Secure = Callable[..., SecureServer]


@aiki.task
async def greet(name: str) -> str:
    """Greet somebody."""
    return f"hello, {name}"


@greetings.v("1.0.0")
async def greeting_v1(run: Run, name: str) -> str:
    """Greet after a nap."""
    await run.sleep("nap", 0.05)
    return await greet.start(run, name)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def secure(tmp_path: Path, authority: Authority) -> Iterator[Secure]:
    """Start servers that have a certificate for localhost and its addresses, and end them."""
    started: list[SecureServer] = []

    def start(*, clients: str = "no", host: str = "localhost", days: int = 1) -> SecureServer:
        certificate = authority.certify("server", [host], ["127.0.0.1"], days)
        home = tmp_path / f"server-{len(started)}"
        server = SecureServer(home, authority, certificate, clients=clients)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


async def greeted(url: str) -> str:
    """Let a worker and a client do something together: links, listening, reading and beating."""
    async with Client(url, start_timeout=5) as client:
        worker = aiki.worker(client, heartbeat=0.05)
        worker.workflow_registry.add(greetings)
        async with worker:
            handle = await greeting_v1.start(client, "Ada")
            return await handle.wait_for_completion(TIMEOUT)


async def refusal(url: str) -> str:
    """Give what is said where no connection can be made."""
    with pytest.raises(StoreUnavailable) as caught:
        await Client(url).connect()
    return str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_server_of_an_authority_of_ones_own_is_trusted_where_the_url_names_it(
    secure: Secure, authority: Authority, host: str
) -> None:
    url = f"rediss://{host}:{secure().port}?ssl_ca_certs={authority.file}"
    assert await greeted(url) == "hello, Ada"


async def test_a_server_of_an_unknown_authority_is_refused(secure: Secure, tmp_path: Path) -> None:
    port = secure().port
    other = Authority(tmp_path / "other")
    for url in (
        f"rediss://localhost:{port}",
        f"rediss://localhost:{port}?ssl_ca_certs={other.file}",
    ):
        said = await refusal(url)
        assert f"rediss://localhost:{port}" in said
        assert "certificate verify failed" in said
        assert "ssl_ca_certs=" in said


async def test_a_certificate_for_another_host_is_refused(
    secure: Secure, authority: Authority
) -> None:
    url = f"rediss://localhost:{secure(host='example.org').port}?ssl_ca_certs={authority.file}"
    said = await refusal(url)
    assert "not valid for 'localhost'" in said
    assert "connect by a name that its certificate is for" in said
    assert await greeted(url + "&ssl_check_hostname=false") == "hello, Ada"


async def test_a_certificate_that_has_expired_is_refused(
    secure: Secure, authority: Authority
) -> None:
    url = f"rediss://localhost:{secure(days=-1).port}?ssl_ca_certs={authority.file}"
    assert "certificate has expired" in await refusal(url)


async def test_a_server_that_wants_a_certificate_gets_it_from_the_url(
    secure: Secure, authority: Authority, tmp_path: Path
) -> None:
    url = f"rediss://localhost:{secure(clients='yes').port}?ssl_ca_certs={authority.file}"
    assert "ssl_certfile=" in await refusal(url)
    certificate, key = authority.certify("worker")
    assert await greeted(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}") == "hello, Ada"
    strange, strange_key = Authority(tmp_path / "other").certify("worker")
    said = await refusal(f"{url}&ssl_certfile={strange}&ssl_keyfile={strange_key}")
    assert "rediss://localhost" in said


async def test_who_speaks_tls_where_nobody_does_is_told_and_the_other_way_round(
    secure: Secure, authority: Authority
) -> None:
    server = secure()
    said = await refusal(f"rediss://localhost:{server.plain_port}?ssl_ca_certs={authority.file}")
    assert "does not speak TLS on this port" in said
    assert "rediss://" in await refusal(f"redis://localhost:{server.port}")


async def test_sentinels_are_asked_by_tls_and_their_password_may_stand_in_a_file(
    secure: Secure, authority: Authority, tmp_path: Path
) -> None:
    server, password = secure(), tmp_path / "password"
    password.write_text("sentinels-own\n")
    certificate = authority.certify("sentinel", ["localhost"], ["127.0.0.1"])
    sentinel = SecureSentinel(
        tmp_path / "sentinel", authority, certificate, server.port, "sentinels-own"
    )
    try:
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}?ssl_ca_certs={authority.file}"
        known = f"{url}&sentinel_password_file={password}"
        await eventually(partial(connects, known), what="a sentinel that knows its primary")
        assert await greeted(known) == "hello, Ada"
        await comes_to_be_told(url, "uthentication")
        password.write_text("another\n")
        await comes_to_be_told(known, "invalid username-password")

        # By a user who may ask for the primary and nothing else
        line = sentinel_line("asker", hashlib.sha256(b"another").hexdigest())
        async with Redis(
            port=sentinel.port, password="sentinels-own", ssl=True, ssl_ca_certs=str(authority.file)
        ) as admin:
            await admin.execute_command(*line.split(" "))
        named = f"{known}&sentinel_username=asker"
        await eventually(partial(connects, named), what="the primary, by the other user")
    finally:
        sentinel.stop()


ENDPOINTS = (
    ("ip", "localhost"),
    ("hostname", "localhost"),
    ("hostname", ""),
    ("unknown-endpoint", ""),
)


async def test_nodes_of_a_cluster_are_found_and_followed_by_tls(
    tmp_path: Path, authority: Authority
) -> None:
    """Given a slot that moves to another node under a client and a worker, however nodes are told.

    As addresses, as names, as names that there are not (then by address), or not at all: then they
    are ports of the one that was asked.
    """
    certificate = authority.certify("node", ["localhost"], ["127.0.0.1"])
    nodes = SecureCluster(tmp_path / "cluster", authority, certificate)
    url = f"{nodes.url}&partitions=3"
    try:
        nodes.start()
        async with Client(url, start_timeout=TIMEOUT) as client:
            worker = aiki.worker(client)
            worker.workflow_registry.add(greetings)
            async with worker:
                for kind, name in ENDPOINTS:
                    for each in nodes.servers.values():
                        each.ask("CONFIG", "SET", "cluster-announce-hostname", name)
                        each.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", kind)
                    await eventually(partial(connects, url), what=kind)
                    source, target = nodes.holder(), nodes.others()[0]
                    moved = source.errors("MOVED")
                    nodes.begin_move(source, target)
                    await asyncio.to_thread(nodes.move_keys, source, target)
                    nodes.end_move(source, target)
                    calls = [greeting_v1.bind(f"{kind} {name} {n}") for n in range(12)]
                    handles = await aiki.start_many(client, calls)
                    for call, handle in zip(calls, handles, strict=True):
                        assert isinstance(handle, aiki.Handle), call
                        assert await handle.wait_for_completion(TIMEOUT)
                    assert source.errors("MOVED") > moved
                    assert str(target.port_for_nodes) in client.store.address.whereabouts
    finally:
        nodes.stop()


async def comes_to_be_told(url: str, words: str) -> None:
    """Ask sentinels until one answers in time, which a busy machine may not let it do."""

    async def is_told() -> bool:
        return words in await refusal(url)

    await eventually(is_told, what=words)


async def connects(url: str) -> bool:
    client = Client(url)
    try:
        await client.connect()
    except StoreUnavailable:
        return False
    await client.aclose()
    return True


def test_what_is_trusted_is_read_once_until_a_file_changes(authority: Authority) -> None:
    """Given connections with the same options, which each would read what the system trusts."""

    def context() -> object:
        connection = SSLConnection(ssl_ca_certs=str(authority.file))
        certificates.share(connection)
        return cast("Any", connection.ssl_context).get()

    first = context()
    assert context() is first
    authority.file.write_bytes(authority.file.read_bytes() + b"\n")
    second = context()
    assert second is not first
    assert context() is second


async def test_certificates_may_be_renewed_while_connections_come_and_go(
    secure: Secure, authority: Authority, tmp_path: Path
) -> None:
    """Given a server that comes back with one of another authority, nobody starts anew."""
    file = tmp_path / "trusted.pem"
    shutil.copy(authority.file, file)
    server = secure()
    async with Client(f"rediss://localhost:{server.port}?ssl_ca_certs={file}") as client:
        server.stop()
        other = Authority(tmp_path / "other")
        for made, there in zip(
            other.certify("server", ["localhost"]), authority.certify("server"), strict=True
        ):
            shutil.copy(made, there)
        shutil.copy(other.file, file)
        server.start()
        assert (await greeting_v1.start(client, "Ada")).id
