"""A place where faults are tried: a server, supervisors on it, a client, and what came of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path

import psutil
import redis.asyncio

from aiki.client import Client
from aiki.handle import Handle
from aiki.states import Status
from tests.faults.audit import findings, litter
from tests.faults.ledger import Effect, read
from tests.faults.plight import plight
from tests.faults.proxy import Proxy
from tests.faults.story import Story
from tests.faults.traps import Traps
from tests.faults.workload import Order, Receipt, order_v1
from tests.support.server import RedisServer
from tests.support.store import Scene
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

WORKLOAD = "tests.faults.workload"


class Site:
    """Everything of one test, in one directory."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        embedded: bool = False,
        proxied: bool = False,
        url: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._data_dir = directory / "data" if embedded else None
        self.ledger = directory / "ledger"
        self.traps = Traps(directory)
        self.may_mend = False
        """Whether the sweep may have found something, where the fault leaves halves behind."""
        self.started: set[str] = set()
        """The orders that `start` has started, by the ids of their runs."""
        home = directory / "server"
        home.mkdir()
        self.server = RedisServer(home, *options)
        self.server.environ.update(environ or {})
        self.proxy = Proxy(self.server.socket)
        self._direct_url = url or self.server.url
        self.url = self.proxy.url if proxied else self._direct_url
        self.urls: dict[str, str] = {}
        """By which others log in, by their role, where it is not the usual one."""
        self.client = self.make_client()
        self._supervised: list[Supervised] = []

    def make_client(self, *, start_timeout: float = 60.0) -> Client:
        """Make one more client of the store."""
        if self._data_dir is not None:
            return Client(data_dir=self._data_dir, start_timeout=start_timeout)
        return Client(self.url, start_timeout=start_timeout)

    def admin(self) -> redis.asyncio.Redis:
        """Make a plain connection to the server, past the proxy; it belongs into `async with`."""
        return redis.asyncio.Redis.from_url(self.server.url)

    def supervised(
        self,
        *arguments: str,
        name: str = "supervisor",
        workers: int = 2,
        module: str = WORKLOAD,
        environ: Mapping[str, str] | None = None,
    ) -> Supervised:
        """Prepare a supervisor on the store, in a directory of its own."""
        home = self.directory / name
        home.mkdir(exist_ok=True)
        if self._data_dir is not None:
            store = ("--data-dir", str(self._data_dir))
        else:
            store = ("--redis", self.url)
        options = (*store, "--workers", str(workers), *arguments)
        found = Supervised(home, module, *options, environ=environ)
        found.ledger = self.ledger
        self._supervised.append(found)
        return found

    async def plight(self) -> str:
        """Tell where everything is, past the proxy."""
        logs = {each.directory.name: each.output() for each in self._supervised}
        if self._data_dir is not None:
            return await plight(Client(data_dir=self._data_dir, read_only=True), logs)
        return await plight(Client(self._direct_url, read_only=True, start_timeout=1.0), logs)

    def effects(self, run: str | None = None) -> list[Effect]:
        """Read what was done so far."""
        return read(self.ledger, run)

    def open(self, gate: str) -> None:
        """Let the steps that wait at a gate go on."""
        (self.directory / f"gate-{gate}").touch()

    def shut(self, gate: str) -> None:
        """Let those that come to the gate wait again."""
        (self.directory / f"gate-{gate}").unlink()

    async def start(self, name: str, **how: str) -> Handle[Receipt]:
        """Start an order whose steps behave as told."""
        handle = await order_v1.start(self.client, Order(name, how))
        self.started.add(handle.id)
        return handle

    async def start_many(
        self, count: int, name: str = "order", **how: str
    ) -> list[Handle[Receipt]]:
        """Start so many orders."""
        return await asyncio.gather(*(self.start(f"{name}-{n}", **how) for n in range(count)))

    def handle(self, run: str) -> Handle[Receipt]:
        """Make a handle of an order by its id."""
        return self.client.typed_handle(run, order_v1.result)

    async def under_way(
        self, handle: Handle[Receipt], step: str, times: int = 1, deadline: float = 60.0
    ) -> list[int]:
        """Wait until a step was begun so often, and give the processes that did, in order."""

        def begun() -> list[int]:
            starts = [e for e in self.effects(handle.id) if e.phase == "start"]
            pids = [effect.pid for effect in starts if effect.task == step]
            return pids if len(pids) >= times else []

        return await eventually(begun, deadline, f"start {times} of {step} of {handle.id}")

    async def comes_to_be(
        self, handle: Handle[Receipt], status: Status, deadline: float = 60.0
    ) -> None:
        """Wait until a run has this status."""

        async def arrived() -> bool:
            return (await handle.status()).status is status

        await eventually(arrived, deadline, f"run {handle.id} is {status}")

    async def complete(
        self, handles: Iterable[Handle[Receipt]], *, within: float = 90.0, stops: int = 0
    ) -> list[Story]:
        """Wait for the end of runs, and check what must hold for each, whatever has happened.

        Nobody begins a step that was done and is recorded. But a worker that is stopped after it
        has seen that its lease lasts, and before the first line of a step, begins that one step
        when it wakes, however late: one for each of so many `stops`.
        """
        handles = list(handles)
        async with asyncio.timeout(within):
            receipts = await asyncio.gather(*(each.wait_for_completion() for each in handles))
        effects = self.effects()
        stories = [
            await Story.checked(self.client, handle, receipt, effects)
            for handle, receipt in zip(handles, receipts, strict=True)
        ]
        late = {handle.id: each.late for handle, each in zip(handles, stories, strict=True)}
        assert sum(late.values()) <= stops, {run: count for run, count in late.items() if count}
        return stories

    async def is_alive(self, count: int = 10, within: float = 60.0) -> None:
        """See new orders through, each step once: the store and the workers are well again."""
        stories = await self.complete(await self.start_many(count, "afterwards"), within=within)
        assert [story for story in stories if not story.is_undisturbed()] == []

    async def is_consistent(
        self, *, workers: int, tidy: bool = False, deadline: float = 90.0
    ) -> None:
        """Wait until so many workers hold a lease and nothing is wrong with the store.

        `tidy` also waits for what housekeeping does only now and then.
        """
        scenes = [Scene(store) for store in self.client.partitions.all]
        found: list[str] = []

        async def is_right() -> bool:
            parts = [await findings(scene, workers=workers) for scene in scenes]
            found[:] = chain(*parts)
            return not found

        try:
            await eventually(is_right, deadline, "a consistent store")
        except AssertionError:
            raise AssertionError("\n".join(found)) from None
        if tidy:
            for scene in scenes:
                await eventually(partial(_is_tidy, scene), 30.0, "a tidy store")

    async def record(self, handle: Handle[Receipt]) -> dict[str, str]:
        """Read the record of a run as it is stored."""
        return await Scene(self.client.partitions.of(handle.id)).record(handle.id)

    async def ends(self, *supervisors: Supervised, remaining: int = 0) -> None:
        """End supervisors in order: with exit code 0, no process left, no trace in the store.

        `remaining` workers are other supervisors', which serve on.
        """
        assert self.traps.unsprung() == []
        for found in supervisors:
            found.send(signal.SIGTERM)
        for found in supervisors:
            assert await found.ends() == 0
            await found.leaves_nothing()
            assert self.may_mend or "the sweep mended" not in found.output()
        await self.is_consistent(workers=remaining)


@asynccontextmanager
async def site_at(
    directory: Path,
    *options: str,
    embedded: bool = False,
    proxied: bool = False,
    url: str = "",
    environ: Mapping[str, str] | None = None,
) -> AsyncGenerator[Site]:
    """Run a server (with these options and variables, or the embedded one), and a client of it.

    Proxied, everybody but `admin` comes to it through the site's proxy. With a URL, the servers
    are others', and none is run here.
    """
    site = Site(directory, *options, embedded=embedded, proxied=proxied, url=url, environ=environ)
    if not embedded and not url:
        site.server.start()
    try:
        async with AsyncExitStack() as stack:
            if proxied:
                await stack.enter_async_context(site.proxy.listening())
            await stack.enter_async_context(site.client)
            try:
                yield site
            except Exception:
                print(await site.plight())
                raise
    finally:
        site.server.stop()


@asynccontextmanager
async def serving(
    directory: Path, *arguments: str, workers: int = 2
) -> AsyncGenerator[tuple[Site, Supervised]]:
    """Run a server, a client and a supervisor that serves."""
    async with site_at(directory) as site:
        with site.supervised(*arguments, workers=workers) as found:
            await found.serves()
            yield site, found


def kill(*pids: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send processes a signal."""
    for pid in pids:
        os.kill(pid, number)


async def has_ended(*processes: psutil.Process, deadline: float = 30.0) -> None:
    """Wait until these processes are no more."""
    await eventually(lambda: not any(p.is_running() for p in processes), deadline, "their end")


async def stop(process: psutil.Process) -> None:
    """Stop a process, and see that it has stopped."""
    kill(process.pid, number=signal.SIGSTOP)
    await eventually(lambda: process.status() == psutil.STATUS_STOPPED, what="a stop")


async def _is_tidy(scene: Scene) -> bool:
    return not await litter(scene)
