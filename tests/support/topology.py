"""The servers that a test's store is on: one, the nodes of a cluster, or one behind sentinels."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.cluster import PRIMARIES, cluster
from tests.support.replicated import replicated
from tests.support.server import CLUSTER, RedisServer

# Set to anything, the URL of each store names the sentinels that watch its server.
SENTINEL = "AIKI_TEST_SENTINEL"


class Servers(Protocol):
    """Where a store may be."""

    @property
    def url(self) -> str:
        """By which clients and workers come to it."""
        ...

    def empty(self) -> None:
        """Forget all data, and none of the scripts."""
        ...


@contextmanager
def running(directory: Path) -> Generator[Servers]:
    """Run the servers that are asked for. They keep nothing on disk."""
    options = ("--appendonly", "no")
    if os.environ.get(SENTINEL):
        with replicated(directory, *options, replicas=0) as service:
            yield service
    elif os.environ.get(CLUSTER) == str(PRIMARIES):
        with cluster(directory, *options, replicas=0) as nodes:
            yield nodes
    else:
        server = RedisServer(directory, *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def process_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run servers for all tests of this process."""
    with running(tmp_path_factory.mktemp("redis")) as servers:
        yield servers


@pytest.fixture
def store_url(process_servers: Servers, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a store, and empty it when the test is over: a sweep goes round all of it."""
    one_server = request.node.get_closest_marker("one_server")
    if one_server is not None and (os.environ.get(SENTINEL) or os.environ.get(CLUSTER)):
        pytest.skip(*one_server.args)
    yield process_servers.url
    process_servers.empty()


@pytest.fixture
def redis_server(
    process_servers: Servers,
    store_url: str,  # noqa: ARG001 - which empties it
) -> RedisServer:
    """Give the server itself, where the store has one that is not behind others."""
    if not isinstance(process_servers, RedisServer):
        pytest.skip("it has to do with a server itself, and not with a store")
    return process_servers
