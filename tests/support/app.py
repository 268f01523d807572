"""An application of the library in the test's own process: a client, workers, a ledger."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aiki.branches import make_task
from aiki.call import Call
from aiki.client import Client
from aiki.envelope import PayloadCodec
from aiki.handle import Handle
from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.keys import prefix
from aiki.worker import SUSPEND_ALWAYS, RedisStreams, Worker
from aiki.workflow import Workflow, WorkflowVersion
from tests.support.ledger import Ledger
from tests.support.waiting import eventually

R = TypeVar("R")

TIMEOUT = 60.0  # for what is over at once, on a machine that may be busy

# Set to a number, the store of each application has so many partitions.
PARTITIONS = "AIKI_TEST_PARTITIONS"

Definition = Workflow | WorkflowVersion[..., Any]


class App:
    """Clients and workers on a namespace of the test's own; they end with the test."""

    def __init__(self, url: str, namespace: str, directory: Path) -> None:
        self.url = url
        self.namespace = namespace
        self._stack = AsyncExitStack()
        self._client: Client | None = None
        self._running: list[Worker] = []
        self.ledger = Ledger(directory / "ledger")

    @property
    def client(self) -> Client:
        """The client that most tests need only one of."""
        assert self._client is not None
        return self._client

    async def open(self) -> None:
        """Connect the client."""
        self._client = await self.connect()

    async def connect(self, codec: PayloadCodec | None = None) -> Client:
        """Make another client of the same namespace, with a connection of its own."""
        return await self._stack.enter_async_context(
            Client(self.url, namespace=self.namespace, start_timeout=TIMEOUT, codec=codec)
        )

    def worker(
        self, *definitions: Definition, client: Client | None = None, **options: Any
    ) -> Worker:
        """Make a worker that serves these definitions, and do not start it."""
        lease = options.pop("lease", 60.0)
        worker = Worker(
            client or self.client, subscriber=RedisStreams(claim_min_idle_time=lease), **options
        )
        for definition in definitions:
            worker.workflow_registry.add(definition)
        return worker

    async def serve(
        self, *definitions: Definition, client: Client | None = None, **options: Any
    ) -> Worker:
        """Start a worker that serves these definitions until the test ends."""
        worker = self.worker(*definitions, client=client, **options)
        await worker.start()
        self._running.append(worker)
        return worker

    async def told_owner(self, handle: Handle[Any]) -> bool:
        """Tell whether the owner of a run has heard of its cancel, and confirmed it."""
        base, link = self.base_of(handle.id), self.link_of(handle.id)
        owner = (await link.send(("HGET", f"{base}run:{handle.id}", "owner"))).decode()
        return not await link.send(("EXISTS", f"{base}worker:{owner}:notices"))

    def link_of(self, run_id: str) -> Link:
        """Give the connection to where the keys of a run are."""
        return self.client.partitions.of(run_id).link

    def base_of(self, run_id: str) -> str:
        """Give what the keys of a run begin with."""
        return prefix(self.namespace, self.client.partitions.of(run_id).number)

    async def give_up(self, worker: Worker, handle: Handle[Any], **how: Any) -> str:
        """Recover a worker as one that has died, where a run is; give what it was called there."""
        store = self.client.partitions.of(handle.id)
        life = worker.incarnations[store.number]
        await store.workers.recover(life, cause="a test", **how)
        return life

    async def keys(self, pattern: str) -> list[bytes]:
        """Name the keys of all partitions that match a pattern behind the namespace."""
        asked = ("KEYS", f"aiki:{self.namespace}:{pattern}")
        found = [await each.link.send(asked) for each in self.client.partitions.all]
        return sorted(set(chain(*found)))  # several partitions may be on one server

    async def end(self, worker: Worker) -> None:
        """End a worker at once: what it executes is given back and goes unrecorded."""
        self._running.remove(worker)
        await worker.stop(grace=0)

    async def result(self, call: Call[R], timeout: float = TIMEOUT) -> R:
        """Start a run and wait for its result."""
        handle = await self.client.start_call(call)
        return await handle.wait_for_completion(timeout)

    async def close(self) -> None:
        """End the workers, then the clients. What a worker failed with fails the test."""
        try:
            for worker in list(self._running):
                await self.end(worker)
        finally:
            await self._stack.aclose()


async def becomes(handle: Handle[Any], status: Status, deadline: float = TIMEOUT) -> None:
    """Wait until a run has this status."""

    async def has_it() -> bool:
        return (await handle.status()).status is status

    await eventually(has_it, deadline, f"{status} of {handle.id}")


async def outcomes(handle: Handle[Any]) -> list[tuple[str, str]]:
    """Give the recorded steps of a run by task name and outcome, as they were recorded."""
    return [(step.task, step.outcome) for step in await handle.journal()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Execute each test that has an application in both modes, unless it says why it cannot."""
    if "mode" in metafunc.fixturenames:
        plain_only = metafunc.definition.get_closest_marker("plain_only")
        if plain_only is None:
            metafunc.parametrize("mode", ["plain", "suspend"], indirect=True)
        elif not plain_only.args:
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: plain_only takes a reason")


@pytest.fixture
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Execute plainly, or handing the run back after each commit, to be replayed every time."""
    mode: str = getattr(request, "param", "plain")
    monkeypatch.setenv(SUSPEND_ALWAYS, "1" if mode == "suspend" else "0")
    return mode


@pytest.fixture
async def app(
    store_url: str,
    tmp_path: Path,
    mode: str,  # noqa: ARG001 - workers find it in the environment
) -> AsyncIterator[App]:
    """Make an application on a namespace that nobody else uses."""
    asyncio.get_running_loop().set_task_factory(make_task)  # as the supervisor's workers do
    partitions = os.environ.get(PARTITIONS)
    url = store_url + (f"?partitions={partitions}" if partitions else "")
    app = App(url, secrets.token_hex(6), tmp_path)
    try:
        await app.open()
        yield app
    finally:
        await app.close()
