"""Workers that do anything in any order, and copies of old commands that come at any time.

Whatever happens: an end is final, a recorded outcome stays, epochs only rise, and everything is
where its record says. And when the chaos is over, every run still comes to its end.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from aiki.errors import InvalidTransition
from aiki.records import ClaimedRun, EntryKind, NextAttempt, Ownership, ReadyEntry
from aiki.states import FINAL, Status
from aiki.store.connection import Command
from aiki.store.keys import new_run_id, new_token
from tests.support.audit import audit, audit_indexes
from tests.support.store import ALONE, STREAM, TIMEOUT, Scene

ROUNDS = 400
RUNS = 12
STEPS = ("a#0", "a#1", "b#0")
NOT_COPIED = ("sweep", "open_store", "try_commands")


@dataclass
class Chaos:
    """What the actors of the chaos remember; nothing here is ever forgotten."""

    scene: Scene
    rng: random.Random
    workers: list[str] = field(default_factory=list[str])
    dead: list[str] = field(default_factory=list[str])
    entries: list[tuple[ReadyEntry, str]] = field(default_factory=list[tuple[ReadyEntry, str]])
    owners: list[Ownership] = field(default_factory=list[Ownership])
    sent: list[Command] = field(default_factory=list[Command])
    seen: dict[str, tuple[dict[str, str], dict[bytes, bytes]]] = field(
        default_factory=dict[str, tuple[dict[str, str], dict[bytes, bytes]]]
    )

    def listen(self) -> None:
        """Remember every script that is sent."""
        send = self.scene.store.link.send

        def remember(command: Command) -> asyncio.Future[object]:
            if command[0] == "EVALSHA":
                self.sent.append(command)
            return send(command)

        self.scene.store.link.send = self.scene.store.runs._send = remember  # type: ignore[method-assign]

    # What may happen

    async def start(self) -> None:
        if len(self.seen) < RUNS:
            key = self.rng.choice(["", "", "one", "two"])
            more = self.rng.sample(["at +60000", "start +60000", "finish +60000", "tag red"], 2)
            await self.scene.start_run(
                run_id=new_run_id(0), key=key, more=self.rng.choice(["", "\n".join(more)])
            )

    async def come(self) -> None:
        if len(self.workers) < 4:
            self.workers.append(await self.scene.register())

    async def die(self) -> None:
        if self.workers:
            worker = self.workers.pop(self.rng.randrange(len(self.workers)))
            self.dead.append(worker)
            batch = self.rng.choice(["1", "100"])
            counted = self.rng.choice("01")
            await self.scene.script(
                "recover_worker", worker, "0", "it died", counted, "", "2", "5", batch
            )

    async def finish_recoveries(self) -> None:
        for worker in await self.scene.store.workers.find_expired(60):
            await self.scene.kill(worker, counted=self.rng.random() < 0.5)

    async def deliver(self) -> None:
        worker = self.rng.choice([*self.workers, *self.dead, "a stranger"])
        stream = self.rng.choice([STREAM, ALONE])
        if await self.scene.command("EXISTS", self.scene.base + stream):
            found = await self.scene.deliver(worker, stream, count=2)
            self.entries += [(entry, worker) for entry in found]

    async def claim(self) -> None:
        if self.entries:
            entry, worker = self.rng.choice(self.entries[-20:])
            alone = self.rng.random() < 0.7
            claimed = await self.scene.try_claim(entry, worker, new_token(), quarantine=alone)
            if isinstance(claimed, ClaimedRun):
                self.owners.append(claimed.ownership)

    async def write(self) -> None:
        if not self.owners:
            return
        scene, rng = self.scene, self.rng
        owner = rng.choice(self.owners[-8:])
        key = rng.choice(STEPS)
        match rng.randrange(12):
            case 0 | 1 | 2:
                kind = rng.choice([EntryKind.RESULT, EntryKind.FAILURE])
                await scene.commit(owner, key, rng.randbytes(3), kind)
            case 3 | 4:
                await scene.attempt(owner, key, number=rng.randrange(1, 4), delay=3600)
            case 5:
                await scene.abandon(owner, key)
            case 6:
                record = await scene.record(owner.run_id)
                await scene.abandon(owner, key, deliver_cancel="cancel" in record)
            case 7 | 8:
                await scene.park(owner, *rng.sample(STEPS, rng.randrange(1, 3)))
            case 9:
                await scene.store.runs.release(owner.run_id, owner.epoch, owner.incarnation)
            case 10:
                await scene.store.runs.stall(owner, "a reason")
            case _:
                await scene.finish(owner, rng.choice(sorted(FINAL)))

    async def cancel(self) -> None:
        if self.seen and self.rng.random() < 0.2:
            await self.scene.cancel(self.rng.choice(sorted(self.seen)))

    async def control(self) -> None:
        if not self.seen or self.rng.random() < 0.6:
            return
        control, run_id = self.scene.store.control, self.rng.choice(sorted(self.seen))
        epoch = int(self.seen[run_id][0]["epoch"])
        with suppress(InvalidTransition):
            match self.rng.randrange(4):
                case 0:
                    await control.pause(run_id, timeout=TIMEOUT)
                case 1:
                    await control.resume(run_id, timeout=TIMEOUT)
                case 2 if self.rng.random() < 0.2:
                    await control.terminate(run_id, "at once", timeout=TIMEOUT)
                case _ if self.owners:
                    owner = self.rng.choice(self.owners[-8:])
                    attempt = NextAttempt(epoch + 2, 1, 3_600_000, "it failed", [], [])
                    await control.retry_later(owner, attempt)
                case _:
                    pass

    async def time_passes(self) -> None:
        await self.scene.fall_due()
        await self.scene.store.timers.fire()
        await self.scene.script("requeue_idle", 0, 100)
        if self.rng.random() < 0.2:
            await self.scene.stall_unserved()

    async def copy(self) -> None:
        if self.sent:
            await self.scene.store.link.send(self.rng.choice(self.sent))
            self.sent.pop()  # a copy is no original

    # What must hold

    async def look(self) -> None:
        """Compare each run with what it was when it was looked at before."""
        for key in await self.scene.keys():
            run_id = key.removeprefix("run:")
            if not key.startswith("run:") or ":" in run_id:
                continue
            record = await self.scene.record(run_id)
            flat = await self.scene.command("HGETALL", f"{self.scene.base}{key}:journal")
            journal = dict(zip(flat[::2], flat[1::2], strict=True))
            if run_id in self.seen:
                compare(*self.seen[run_id], record, journal)
            self.seen[run_id] = record, journal


def compare(
    was: dict[str, str],
    recorded: dict[bytes, bytes],
    now: dict[str, str],
    records: dict[bytes, bytes],
) -> None:
    if was["status"] in FINAL:
        assert (was, recorded) == (now, records), "an end is final"
    assert int(now["epoch"]) >= int(was["epoch"])
    if now.get("token", "") not in ("", was.get("token", "")) and now["status"] == Status.RUNNING:
        assert int(now["epoch"]) > int(was["epoch"]), "a new owner has a new epoch"
    for key, entry in recorded.items():
        if entry[:1] != b"o" and records[key] != entry:
            assert records[key][:1] == b"a", "only an abandonment replaces what is recorded"
            assert records[key].split()[1] == entry.split()[1], "and only by who recorded it"
    if was.get("cancel_at"):
        assert now["cancel_at"] == was["cancel_at"]


@pytest.mark.parametrize("number", range(4))
async def test_no_order_of_events_and_late_copies_breaks_what_must_hold(
    scene: Scene, rng: random.Random, number: int
) -> None:
    chaos = Chaos(scene, rng)
    chaos.listen()
    events = {
        chaos.start: 4, chaos.come: 3, chaos.die: 1, chaos.finish_recoveries: 1,
        chaos.deliver: 8, chaos.claim: 10, chaos.write: 14, chaos.cancel: 1,
        chaos.control: 4,
        chaos.time_passes: 2, chaos.copy: 8,
    }  # fmt: skip
    for turn in range(ROUNDS):
        (event,) = rng.choices(list(events), list(events.values()))
        await event()
        await chaos.look()
        if turn % 20 == 0:
            await audit_indexes(scene)
    assert len(chaos.seen) > 5, f"too little happened in chaos {number}"

    # Then all is well again, and everything comes to its end.
    for worker in chaos.workers:
        await scene.kill(worker, counted=False)
    await chaos.finish_recoveries()
    await audit(scene)
    worker = await scene.register()
    for run_id in chaos.seen:
        with suppress(InvalidTransition):
            await scene.store.control.resume(run_id, timeout=TIMEOUT)
    for _ in range(3):
        await chaos.time_passes()
        for stream in (STREAM, ALONE):
            if await scene.command("EXISTS", scene.base + stream):
                for entry in await scene.deliver(worker, stream):
                    claimed = await scene.try_claim(entry, worker, quarantine=True)
                    if isinstance(claimed, ClaimedRun):
                        assert await scene.finish(claimed.ownership) == b"OK"
    await chaos.look()
    assert {record["status"] for record, _ in chaos.seen.values()} <= {*FINAL, Status.STALLED}
    assert await scene.entries() == []
    await audit(scene)
