"""Races: what an owner, senders and people do to one run, in every order a seed can think of.

A script is atomic, so a race is an order of scripts. Each player is a generator that stops before
each of its scripts, and who goes next is drawn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from aiki.errors import InvalidTransition
from aiki.records import ClaimedRun, EntryKind, Message, Ownership, ReadyEntry, entry_rest
from aiki.states import Status
from tests.support.audit import audit
from tests.support.store import STREAM, TIMEOUT, Scene, entry_of

AUDITED = 200  # of the tries: to look at everything that is stored takes long
LANES = 50  # tries at a time
REST = entry_rest(1, 0, 0, "a label", b"")
WAIT = "event/paid#{}"


@dataclass
class Try:
    """One run, and what became of everything that was done to it."""

    scene: Scene
    worker: str
    rng: random.Random
    run_id: str = ""
    accepted: list[bytes] = field(default_factory=list[bytes])
    refused: list[bytes] = field(default_factory=list[bytes])
    taken: list[bytes] = field(default_factory=list[bytes])
    timed_out: int = 0
    waits: int = 0

    async def begin(self) -> Ownership:
        self.run_id = await self.scene.start_run()
        return (await self.claim()).ownership

    async def claim(self) -> ClaimedRun:
        """Claim it by what its record says; which entry was delivered is no matter here."""
        record = await self.scene.record(self.run_id)
        entry = ReadyEntry(STREAM, record["entry"], self.run_id, record["epoch"])
        return await self.scene.claim(entry, self.worker)

    async def play(self, *players: AsyncIterator[None]) -> None:
        """Let the players go on, each up to its next script, in an order that is drawn."""
        left = list(players)
        while left:
            player = self.rng.choice(left)
            try:
                await anext(player)
            except StopAsyncIteration:
                left.remove(player)

    async def take(self, owner: Ownership, message: Message) -> None:
        kind = EntryKind.RESULT
        key, entry = WAIT.format(self.waits), entry_of(owner, kind, message.payload)
        for _ in range(self.rng.choice([1, 1, 2])):  # the reply may be lost
            word = await self.scene.store.runs.consume_message(owner, key, entry, message.number)
            assert isinstance(word, int), word
        self.waits += 1
        self.taken.append(message.payload)

    # Players

    async def sends(self, count: int) -> AsyncIterator[None]:
        for number in range(count):
            payload = f"{self.run_id} {number}".encode()
            copies = self.rng.choice([1, 1, 2])
            for copy in range(copies):
                yield
                try:
                    await self.scene.post(self.run_id, payload, key=f"{number}")
                except InvalidTransition:
                    assert copy == 0 or payload in self.refused, "accepted, and refused when resent"
                    self.refused.append(payload)
                else:
                    assert payload not in self.refused, "refused, and accepted when resent"
                    if copy == 0:
                        self.accepted.append(payload)

    async def cancels(self) -> AsyncIterator[None]:
        yield
        await self.scene.cancel(self.run_id)

    async def wakes(self) -> AsyncIterator[None]:
        yield
        await self.scene.store.mailbox.wake_up(self.run_id, timeout=TIMEOUT)

    # What must hold

    async def left(self) -> list[bytes]:
        """Give what lies in the mailbox, in order."""
        key = f"{self.scene.base}run:{self.run_id}:mailbox"
        flat = await self.scene.command("HGETALL", key)
        found = sorted(zip(map(int, flat[::2]), flat[1::2], strict=True))
        return [raw.partition(b"\n")[2] for _, raw in found]

    async def check_messages(self) -> None:
        """Check that each that was accepted was taken once or is there, in its order."""
        assert [*self.taken, *await self.left()] == self.accepted


many = pytest.mark.parametrize("tries", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])


async def each(
    scene: Scene, rng: random.Random, tries: int, one: Callable[[Try], Awaitable[None]]
) -> None:
    """Try it so often, and look at everything that is stored when the first are over."""
    worker = await scene.register()
    seeds = [rng.random() for _ in range(tries)]

    async def lane(seeds: Iterator[float]) -> None:
        for seed in seeds:
            await one(Try(scene, worker, random.Random(seed)))

    first, others = iter(seeds[:AUDITED]), iter(seeds[AUDITED:])
    await asyncio.gather(*(lane(first) for _ in range(LANES)))
    await audit(scene)
    await asyncio.gather(*(lane(others) for _ in range(LANES)))


async def until_parked(
    run: Try, owner: Ownership, *, timed: Sequence[str] = (), takes: bool = True
) -> AsyncIterator[None]:
    """Do what an owner does that waits: park, unless there is news, and take what came."""
    seen, runs = 0, run.scene.store.runs
    while True:
        yield
        word = await runs.park(owner, Status.AWAITING_EVENT, seen, timed, timed)
        if word == b"PARKED":
            return
        assert word == b"STAY"
        yield
        told = await runs.read_news(owner, seen)
        assert told is not None
        news, is_cancel_wanted = told
        seen = news.count
        if is_cancel_wanted:
            return
        for message in news.mail if takes else ():
            yield
            await run.take(owner, message)


@many
async def test_no_message_is_lost_to_a_run_that_is_about_to_park(
    scene: Scene, rng: random.Random, tries: int
) -> None:
    """F58: with the mailbox looked at, and the park not sent yet."""

    async def one(run: Try) -> None:
        owner = await run.begin()
        await run.play(until_parked(run, owner), run.sends(run.rng.randint(1, 3)))
        await run.check_messages()
        left, status = await run.left(), await run.scene.status(run.run_id)
        assert status is (Status.QUEUED if left else Status.AWAITING_EVENT)
        if left:
            claimed = await run.claim()
            assert [message.payload for message in claimed.news.mail] == left
        else:
            await run.scene.post(run.run_id, b"last", key="last")
            assert await run.scene.status(run.run_id) is Status.QUEUED

    await each(scene, rng, tries, one)


@many
async def test_no_wake_up_is_lost_to_a_run_that_is_about_to_park(
    scene: Scene, rng: random.Random, tries: int
) -> None:
    async def one(run: Try) -> None:
        owner = await run.begin()
        key = "sleep/x#0"
        reply = await run.scene.store.runs.open_wait(owner, key, REST, lasts_ms=3600_000)
        assert reply[2] == b"0"
        waking = [run.wakes() for _ in range(run.rng.randint(1, 2))]
        await run.play(until_parked(run, owner, timed=[key]), *waking)
        record = await run.scene.record(run.run_id)
        # Either it stayed, and knows; or it is called, and will
        assert record["wakes"] == str(len(waking))
        assert record["status"] in ("queued", "sleeping", "awaiting_event")
        if record["status"] != "queued":
            assert record["epoch"] == "1"
            seen = int(record["news"])
            assert seen == len(waking), "it parked with all of them seen"

    await each(scene, rng, tries, one)


@many
async def test_a_message_that_was_accepted_before_the_time_out_comes_before_it(
    scene: Scene, rng: random.Random, tries: int
) -> None:
    async def one(run: Try) -> None:
        owner = await run.begin()
        runs = run.scene.store.runs
        key = WAIT.format(0)
        await runs.open_wait(owner, key, REST, lasts_ms=0)

        async def waits() -> AsyncIterator[None]:
            seen = 0
            while True:
                yield
                accepted = len(run.accepted)
                entry = entry_of(owner, EntryKind.TIMEOUT, b"")
                word = await runs.end_wait(owner, key, entry, seen=seen, woken=False)
                if isinstance(word, int):
                    assert accepted == 0, "a message was there, and it timed out"
                    run.timed_out += 1
                    run.waits += 1
                    return
                assert word == [b"NEWS"]
                yield
                told = await runs.read_news(owner, seen)
                assert told is not None
                seen = told[0].count
                if told[0].mail:
                    yield
                    await run.take(owner, told[0].mail[0])
                    return

        await run.play(waits(), run.sends(run.rng.randint(1, 2)))
        await run.check_messages()
        assert run.timed_out + len(run.taken) == 1

    await each(scene, rng, tries, one)


@pytest.mark.parametrize("also", ["cancel", "nothing"])
@many
async def test_a_message_to_a_run_that_ends_is_there_or_refused_and_never_half(
    scene: Scene, rng: random.Random, also: str, tries: int
) -> None:
    """F60: also where a cancel comes between."""

    async def one(run: Try) -> None:
        owner = await run.begin()

        async def ends() -> AsyncIterator[None]:
            yield
            word = await run.scene.commit(owner, "step#0")
            if isinstance(word, int) and word & 1 and run.rng.random() < 0.7:
                yield
                await run.scene.abandon(owner, "point#0", deliver_cancel=True)
                yield
                assert await run.scene.finish(owner, Status.CANCELLED) == b"OK"
            else:
                yield
                assert await run.scene.finish(owner) == b"OK"

        beside = [run.cancels()] if also == "cancel" else []
        await run.play(ends(), run.sends(run.rng.randint(1, 3)), *beside)
        await run.check_messages()
        record = await run.scene.record(run.run_id)
        assert Status(record["status"]).is_final
        assert ("result" in record) is (record["status"] == "completed")
        size = sum(len(b"event/paid\n" + each) for each in run.accepted)
        assert record.get("unread", "0") == str(size)

    await each(scene, rng, tries, one)


@many
async def test_a_cancel_and_a_commit_come_in_either_order_and_nothing_rises_again(
    scene: Scene, rng: random.Random, tries: int
) -> None:
    """F61: with the owner's death between, and a zombie that goes on."""

    async def one(run: Try) -> None:
        owner = await run.begin()
        log: list[object] = []

        async def works(mine: Ownership) -> AsyncIterator[None]:
            for number in range(3):
                yield
                word = await run.scene.commit(mine, f"step-{number}#0")
                log.append(word)
                if word == b"FENCED":
                    return
                if isinstance(word, int) and word & 1:
                    yield
                    await run.scene.abandon(mine, "point#0", deliver_cancel=True)
                    yield
                    log.append(await run.scene.finish(mine, Status.CANCELLED))
                    return
            yield
            log.append(await run.scene.finish(mine))

        async def released() -> AsyncIterator[None]:
            yield
            epoch = owner.epoch
            if await run.scene.store.runs.release(run.run_id, epoch, run.worker) == b"OK":
                yield
                if await run.scene.status(run.run_id) is Status.QUEUED:
                    heir = (await run.claim()).ownership
                    async for _ in works(heir):
                        yield

        again = [run.cancels() for _ in range(run.rng.randint(1, 2))]
        await run.play(works(owner), released(), *again)
        record = await run.scene.record(run.run_id)
        assert record["status"] in ("completed", "cancelled"), record
        assert log.count(b"OK") <= 1
        before = await run.scene.record(run.run_id)
        assert await run.scene.cancel(run.run_id) == record["status"]
        assert await run.scene.commit(owner, "late#0") == b"FENCED"
        assert await run.scene.record(run.run_id) == before

    await each(scene, rng, tries, one)


@many
async def test_timers_of_one_moment_fire_once_each_wherever_they_fire(
    scene: Scene, rng: random.Random, tries: int
) -> None:
    """F57: with three processes at it."""

    async def park(run: Try) -> None:
        owner = await run.begin()
        await scene.store.runs.open_wait(owner, "sleep/x#0", REST, lasts_ms=3600_000)
        assert await scene.park(owner, "sleep/x#0", status=Status.SLEEPING) == b"PARKED"

    await each(scene, rng, tries, park)
    assert (await scene.store.timers.fire())[0] == 0
    await scene.fall_due()

    async def fires() -> int:
        fired = 0
        while (count := (await scene.store.timers.fire())[0]) > 0:
            fired += count
        return fired

    assert sum(await asyncio.gather(*(fires() for _ in range(3)))) == tries
    assert len(await scene.entries()) == tries
    assert len(set(await scene.entries())) == tries
    assert await scene.members("timers") == []
