"""The store and its model side by side: what Hypothesis does to both, and what must be equal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
)

from aiki.errors import Conflict, NotFound
from aiki.records import ClaimedRun, Ownership, ReadyEntry
from aiki.store.runs import NewRun
from tests.model.comparison import compare
from tests.model.model import Model
from tests.model.records import Offer, When
from tests.model.site import Site
from tests.support import stopped_clock
from tests.support.store import ALONE, POOL, STREAM, TIMEOUT, VERSION, WORKFLOW

LEASE = 10_000  # ms
YES = st.booleans()
SELDOM = st.sampled_from([False, False, False, True])


@dataclass(frozen=True, eq=False)
class Delivered:
    """A ready entry that a worker has read, and the offer that the model knows it as."""

    entry: ReadyEntry
    offer: Offer
    worker: str
    alone: bool


class WorkerRules(RuleBasedStateMachine):
    """Starts, and what workers do: they come, beat, read, claim and die."""

    runs = Bundle("runs")
    workers = Bundle("workers")
    delivered = Bundle("delivered")
    owners = Bundle("owners")
    some_run = runs | owners.map(lambda owner: owner.run_id)
    some_worker = workers | owners.map(lambda owner: owner.incarnation)

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.scene = site.scene
        self.model = Model(stopped_clock.BEGINNING)
        self.sent: list[tuple[Callable[[], Awaitable[Any]], Callable[[], Any]]] = []
        self.order: list[str] = []  # in which a script comes by the members of a set
        self.named = 0
        site.run(site.begin())

    def do(self, on_store: Callable[[], Awaitable[Any]], on_model: Callable[[], Any]) -> None:
        """Send a script, and remember it, so that it can be sent again."""
        self.sent.append((on_store, on_model))
        self.both(on_store, on_model)

    def both(self, on_store: Callable[[], Awaitable[Any]], on_model: Callable[[], Any]) -> None:
        """Let the same happen to both, and compare what they say and what they hold."""
        self.site.run(self._both(on_store, on_model))

    async def _both(
        self, on_store: Callable[[], Awaitable[Any]], on_model: Callable[[], Any]
    ) -> None:
        said = await on_store()
        expected = on_model()
        assert said == expected, f"the store says {said}, the model {expected}"
        await compare(self.scene, self.model)

    def name(self, kind: str) -> str:
        """Make a name that was not there before."""
        self.named += 1
        return f"{kind}{self.named:03}"  # as long as all others, as ids are

    @initialize(target=owners)
    def begin(self) -> Ownership:
        """Begin with what is most common: a run that somebody has."""
        self.start("", "hash", 0, None, None)
        owner = self.take(self.register(), alone=False)
        assert isinstance(owner, Ownership)
        return owner

    # Starting

    @rule(
        target=runs,
        key=st.sampled_from(["", "", "one", "two"]),
        digest=st.sampled_from(["hash", "hash", "another"]),
        at=st.sampled_from([0, 0, 0, 60_000]),
        start=st.sampled_from([None, None, 5000]),
        finish=st.sampled_from([None, None, 90_000]),
    )
    def start(self, key: str, digest: str, at: int, start: int | None, finish: int | None) -> str:
        run_id, when = self.name("0-run"), When(at, start, finish)
        new = NewRun(run_id, WORKFLOW, VERSION, POOL, b"input", key, digest, when.more)

        async def on_store() -> str:
            (said,) = await self.scene.store.runs.start([new], timeout=TIMEOUT)
            if isinstance(said, Conflict):
                return f"conflict with {said.run_id}"
            return "gone" if isinstance(said, NotFound) else str(said)

        self.do(on_store, lambda: self.model.start(run_id, key, digest, when, b"input"))
        return run_id

    # Workers

    @rule(target=workers)
    def register(self) -> str:
        name = self.name("worker")
        asked = (self.scene.store.store_id, name, LEASE, "{}", STREAM, ALONE)
        self.do(
            lambda: self.scene.script("register_worker", *asked),
            lambda: self.model.register(name, LEASE),
        )
        return name

    @rule(worker=some_worker)
    def beat(self, worker: str) -> None:
        async def on_store() -> Any:
            store_id = self.scene.store.store_id
            word, *notices = await self.scene.script("beat", store_id, worker, LEASE)
            return [word, *map(sorted, notices)]

        self.do(on_store, lambda: self.model.beat(worker, LEASE))

    @rule(target=delivered, worker=some_worker, alone=SELDOM)
    def deliver(self, worker: str, *, alone: bool) -> MultipleResults[Delivered] | Delivered:
        found: list[ReadyEntry] = []
        offers: list[Offer] = []

        async def on_store() -> list[tuple[str, int]]:
            found[:] = await self.scene.deliver(worker, ALONE if alone else STREAM, count=1)
            return [(entry.run_id, int(entry.epoch)) for entry in found]

        def on_model() -> list[tuple[str, int]]:
            offer = self.model.deliver(worker, alone=alone)
            offers[:] = [] if offer is None else [offer]
            return [(each.run_id, each.epoch) for each in offers]

        self.do(on_store, on_model)
        return Delivered(found[0], offers[0], worker, alone) if found else multiple()

    @rule(target=owners, of=delivered, serves_alone=YES)
    def claim(self, of: Delivered, *, serves_alone: bool) -> MultipleResults[Ownership] | Ownership:
        return self._claim(of, serves_alone=serves_alone)

    @rule(target=owners, worker=some_worker, alone=SELDOM)
    def take(self, worker: str, *, alone: bool) -> MultipleResults[Ownership] | Ownership:
        """Read and claim at once, which is what mostly happens."""
        of = self.deliver(worker, alone=alone)
        return self._claim(of, serves_alone=alone) if isinstance(of, Delivered) else multiple()

    def _claim(
        self, of: Delivered, *, serves_alone: bool
    ) -> MultipleResults[Ownership] | Ownership:
        secret = self.name("token")
        owned: list[Ownership] = []

        async def on_store() -> Any:
            got = await self.scene.try_claim(of.entry, of.worker, secret, quarantine=serves_alone)
            if not isinstance(got, ClaimedRun):
                return got
            owned.append(got.ownership)
            journal = {key: (each.kind, each.payload) for key, each in got.journal.items()}
            mail = {each.number: each.topic for each in got.news.mail}
            return got.ownership.token, got.input, got.cancel, got.news.count, journal, mail

        def on_model() -> Any:
            run = self.model.claim(
                of.offer, of.worker, secret, from_alone=of.alone, serves_alone=serves_alone
            )
            if isinstance(run, bytes):
                return run
            journal = {key: (each.kind, each.payload) for key, each in run.journal.items()}
            mail = {number: each.split(b"\n")[0].decode() for number, each in run.mailbox.items()}
            return run.token, run.input, run.cancel, run.news, journal, mail

        self.do(on_store, on_model)
        return owned[0] if owned else multiple()

    @rule(worker=some_worker, counted=YES, suspects=st.sampled_from([None, 1000]), expired=YES)
    def recover(self, worker: str, *, counted: bool, suspects: int | None, expired: bool) -> None:
        async def on_store() -> Any:
            runs = await self.scene.command("SMEMBERS", f"{self.scene.base}worker:{worker}:runs")
            self.order = [run_id.decode() for run_id in runs]
            _, queued, stalled = await self.scene.script(
                "recover_worker", worker, int(expired), "it died", int(counted),
                "" if suspects is None else suspects,
                self.model.quarantine_after, self.model.stall_after, 100,
            )  # fmt: skip
            return [each.decode() for each in queued], [each.decode() for each in stalled]

        self.do(
            on_store,
            lambda: self.model.recover(
                worker,
                self.order,
                counted=counted,
                suspects_after=suspects,
                only_if_expired=expired,
            ),
        )
