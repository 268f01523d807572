"""A world of simulated processes: a client, workers, and what happens to them."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from aiki.client import Client
from aiki.errors import AikiError
from aiki.handle import Handle
from aiki.heartbeat import Heartbeat
from aiki.store.workers import AboutWorker
from aiki.worker import SUSPEND_ALWAYS, RedisStreams, Worker
from tests.simulation.loop import BEGINNING, FOR_EVER, Node, SimulatedLoop
from tests.simulation.network import Server, SimulatedAddress, unseen
from tests.simulation.watch import Watch, told
from tests.support.audit import audit
from tests.support.programs import WITNESS
from tests.support.random_programs import (
    make_program,
    random_children,
    random_program,
    random_programs,
)
from tests.support.store import Scene

NAMESPACE = "simulated"
BASE = f"aiki:{NAMESPACE}:{{0}}:"
LEASE = 6.0
WORKERS = 3
ALONE_AFTER = 6.0  # or most of the time passes while runs are in quarantine
STORM = 20.0  # simulated seconds in which faults happen, and runs are started
# Of the workers hand a run back after each commit, what executes for long meanwhile included. None
# does where nothing else happens either.
SUSPENDING = 0.3
PATIENCE = 200.0  # simulated seconds until everything is over once no more faults happen


@dataclass
class Process:
    """A worker in a node of its own."""

    node: Node
    client: Client
    worker: Worker


@dataclass(frozen=True)
class Report:
    """What came of a simulation."""

    trace: str
    scripts: int
    faults: dict[str, int]
    seconds: float


class World:
    """What is simulated from one seed."""

    def __init__(self, url: str, seed: str, *, is_faulty: bool) -> None:
        with redis.Redis.from_url(url) as admin:
            admin.flushall()
        self.rng = random.Random(f"{seed}: what happens")
        self.loop = SimulatedLoop(random.Random(f"{seed}: who is next"))
        self.server = Server(url, self.loop, random.Random(f"{seed}: the network"), BASE)
        WITNESS.effects.clear()
        WITNESS.lives.clear()
        self.watch = Watch(self.server, BASE, WITNESS.effects)
        self.server.on_script = self.watch.on_script
        self.is_faulty = is_faulty
        self.processes: list[Process] = []
        self.handles: list[Handle[list[str]]] = []
        self.is_healed = False
        self.trace = ""
        self._made = 0

    def simulate(self, runs: int) -> Report:
        """Let it all happen, and check what must have come of it."""
        try:
            self.loop.run_until_complete(self._story(runs))
        except BaseException as error:
            error.add_note(told(self.watch.lines))
            raise
        finally:
            self._end()
        return Report(
            self.trace,
            self.watch.scripts.total(),
            dict(self.server.faults),
            self.loop.time() - BEGINNING,
        )

    async def _story(self, runs: int) -> None:
        client = self._client("client")
        await client.connect()
        for _ in range(WORKERS):
            await self._come()
        self.server.is_faulty = self.is_faulty
        fate = asyncio.create_task(self._fate()) if self.is_faulty else None
        for number in range(runs):
            await asyncio.sleep(self.rng.expovariate(runs / STORM))
            program = make_program(self.rng, self.rng.choice([2, 3]), [])
            self.handles.append(await random_program.start(client, program, number))
        if fate is not None:
            await fate
        self.is_healed, self.server.is_faulty = True, False
        results = await asyncio.gather(
            *(handle.wait_for_completion(PATIENCE) for handle in self.handles)
        )
        for handle, result in zip(self.handles, results, strict=True):
            _check_run(handle.id, result)
        for step, count in self.watch.effects_at_record.items():
            assert WITNESS.effects[step] == count, f"{step} was executed after it was recorded"
            assert self.is_faulty or count <= 1, f"{step} was executed {count} times"
        await self._until_all_are_over()
        for process in self.processes:
            await process.node.run(process.worker.stop())
        self.trace = self.watch.trace  # without the audit, whose order is that of a hash
        await audit(Scene(client.store))

    async def _until_all_are_over(self) -> None:
        """Wait for the children too, of which nobody waits for the end."""
        over = self.loop.time() + PATIENCE
        while self.watch.unfinished:
            assert self.loop.time() < over, f"never over: {self.watch.unfinished}"
            await asyncio.sleep(1)

    # Processes

    def _client(self, name: str) -> Client:
        client = Client(self.server.url, namespace=NAMESPACE, start_timeout=600)
        client._address = SimulatedAddress(self.server, name)
        return client

    async def _come(self) -> None:
        """Start a worker, until it is there."""
        self._made += 1
        node = self.loop.add(f"worker-{self._made}")
        client: Client | None = None
        while client is None or client._partitions is None:
            client = self._client(node.name)
            with suppress(AikiError):
                await node.run(client.connect())
        worker = Worker(
            client,
            id=node.name,
            subscriber=RedisStreams(claim_min_idle_time=LEASE),
            max_concurrent_workflow_runs=self.rng.choice([2, 5, 50]),
        )
        worker._suspend_always = self.is_faulty and self.rng.random() < SUSPENDING
        worker.workflow_registry.add(random_programs)
        worker.workflow_registry.add(random_children)
        await node.run(worker.start())
        self.processes.append(Process(node, client, worker))

    async def _fate(self) -> None:
        """Let things happen to workers."""
        over = self.loop.time() + STORM
        while self.loop.time() < over:
            await asyncio.sleep(self.rng.expovariate(1))
            process = self.rng.choice(self.processes)
            match self.rng.choice(["freeze", "freeze", "kill", "actor", "actor", "slow"]):
                case "freeze":
                    self._note("a worker frozen")
                    frost = self.rng.choice([0.5, LEASE, 2.5 * LEASE])
                    process.node.frozen_until = self.loop.time() + self.rng.uniform(0.3, 1) * frost
                case "kill":
                    self._note("a worker killed")
                    process.node.frozen_until = FOR_EVER
                    self.server.cut(process.node.name)
                    self.processes.remove(process)
                    await self._come()
                case "actor" if process.worker._actors._driven:
                    self._note("an actor killed")
                    run_id = self.rng.choice(sorted(process.worker._actors._driven))
                    process.worker._actors._driven[run_id][1].cancel()
                case _:
                    await asyncio.sleep(self.rng.uniform(0, 5))

    def _note(self, fault: str) -> None:
        self.server.faults[fault] += 1

    # The end

    def _end(self) -> None:
        """Take everything down, so that nothing is left for another test to trip over."""
        self.server.on_script = unseen
        self.server.is_faulty = False
        self.loop.set_exception_handler(_ignore)
        self.loop.failure = None
        self.server.close()
        for node in self.loop.nodes:
            node.frozen_until = 0.0
        tasks = asyncio.all_tasks(self.loop)
        with suppress(AssertionError):
            for _ in range(20):
                tasks = {task for task in asyncio.all_tasks(self.loop) if not task.done()}
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=60))
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.server.end()
        self.loop.close()


def _check_run(run_id: str, result: list[str]) -> None:
    """Check that each life saw the beginning of what the result is, and each message came once."""
    for life in WITNESS.lives[run_id]:
        seen = list(life)
        assert seen == result[: len(seen)], f"{run_id}:\n{seen}\nis no beginning of\n{result}"
    taken = Counter(
        seen.partition(": ")[2]
        for seen in result
        if seen.startswith("got take") and not seen.endswith("TIMEOUT")
    )
    assert max(taken.values(), default=0) <= 1, f"{run_id} took some twice: {taken}"


class _Clock:
    """What modules use of `time`."""

    CLOCK_BOOTTIME = CLOCK_MONOTONIC = 0

    def __init__(self, loop: SimulatedLoop) -> None:
        self.monotonic = loop.time
        self._loop = loop

    def clock_gettime(self, _clock: int) -> float:
        return self._loop.time()

    def time_ns(self) -> int:
        return round(self._loop.time() * 1e9) + 1_600_000_000_000_000_000


class _Secrets:
    """What modules use of `secrets`: as random, and the same again."""

    def __init__(self, rng: random.Random) -> None:
        self.randbits = rng.getrandbits
        self._rng = rng

    def token_urlsafe(self, size: int) -> str:
        return self._rng.randbytes(size).hex()

    token_hex = token_urlsafe


class _Heartbeat(Heartbeat):
    """Beats by the loop. It stands still with its node, as a thread does with its process."""

    def start(self, asked_at: float) -> None:
        self._leased_until = asked_at + self._lease
        self._loop.call_later(self._interval, self._turn)

    def _turn(self) -> None:
        if self._stopped.is_set():
            self._heart.close()
            return
        if not self._is_hung():
            self._beat()
        self._loop.call_later(self._interval, self._turn)


@contextmanager
def _governed(loop: SimulatedLoop, seed: str) -> Generator[None]:
    """Have the library ask for times and random numbers here."""
    with pytest.MonkeyPatch.context() as patch:
        clock, state = _Clock(loop), random.getstate()
        for module in ("heartbeat", "step", "current_step", "store.keys"):
            patch.setattr(sys.modules[f"aiki.{module}"], "time", clock)
        secrets = _Secrets(random.Random(f"{seed}: secrets"))
        for module in ("store.keys", "store.store"):
            patch.setattr(sys.modules[f"aiki.{module}"], "secrets", secrets)
        patch.setattr("aiki.life.Heartbeat", _Heartbeat)
        patch.setattr(sys.modules["aiki.presence"], "ALONE_AFTER", ALONE_AFTER)
        patch.setattr("aiki.life.AboutWorker", _about)
        patch.delenv(SUSPEND_ALWAYS, raising=False)
        random.seed(f"{seed}: the library")
        try:
            yield
        finally:
            random.setstate(state)


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Hear nothing of what is torn down."""


def _about(label: str, *_: Any) -> AboutWorker:
    return AboutWorker(label, "a host", 1, 1.0)


def simulate(url: str, seed: str, *, runs: int, is_faulty: bool) -> Report:
    """Simulate a world from a seed."""
    world = World(url, seed, is_faulty=is_faulty)
    with _governed(world.loop, seed):
        return world.simulate(runs)
