"""A store for tests: one server per test process, a fresh namespace per test, and a scene on it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from aiki.errors import AikiError, StoreRefused
from aiki.records import (
    ClaimedRun,
    DamagedRun,
    EntryKind,
    Ownership,
    ReadyEntry,
    ScheduleRecord,
    StoredSchedule,
    closed_entry,
    entry_rest,
)
from aiki.schedule import every as by_interval
from aiki.schedule import timing
from aiki.states import Status
from aiki.store import Store
from aiki.store.connection import Address
from aiki.store.keys import new_run_id, new_token, prefix
from aiki.store.overview import Overview
from aiki.store.runs import NewRun
from aiki.store.scripts import SCRIPTS
from aiki.store.workers import AboutWorker

WORKFLOW, VERSION, POOL = "orders", "1.0.0", "default"
STREAM = f"ready:{WORKFLOW}/{VERSION}/{POOL}"
ALONE = f"{STREAM}/quarantine"
LEASE = 60.0
TIMEOUT = 30.0

Dump = dict[str, Any]


class Scene:
    """One namespace, what a test does in it, and what is stored there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.base = prefix(store.namespace, store.number)

    # What happens

    async def script(self, name: str, *arguments: str | bytes | int) -> Any:
        """Run a script with exactly these arguments."""
        return await self.store.link.send(
            ("EVALSHA", SCRIPTS[name].sha, "1", self.base, *arguments)
        )

    async def command(self, *command: str | bytes | int) -> Any:
        """Send any command."""
        return await self.store.link.send(command)

    async def register(self, *streams: str, name: str = "") -> str:
        """Begin a worker's life, and give its incarnation."""
        incarnation = name or new_token()
        about = AboutWorker("a label", "a host", 1, 1.0)
        word = await self.store.workers.register(
            incarnation, LEASE, about, streams or (STREAM, ALONE)
        )
        assert word == "OK"
        return incarnation

    async def start_run(
        self,
        *,
        run_id: str = "",
        key: str = "",
        version: str = VERSION,
        digest: str = "hash",
        more: str = "",
    ) -> str:
        """Start a run."""
        new = NewRun(
            run_id or new_run_id(0), WORKFLOW, version, POOL, b'{"order":1}', key, digest, more
        )
        (started,) = await self.store.runs.start([new], timeout=TIMEOUT)
        if isinstance(started, AikiError):
            raise started
        return started

    async def deliver(self, incarnation: str, stream: str = STREAM, count: int = 1000) -> list[Any]:
        """Let a worker read what is ready, without waiting for more."""
        reply = await self.command(
            "XREADGROUP", "GROUP", "workers", incarnation, "COUNT", count, "STREAMS",
            self.base + stream, ">",
        )  # fmt: skip
        return [
            ReadyEntry(stream, entry.decode(), fields[1].decode(), fields[3].decode())
            for entry, fields in (reply[0][1] if reply else ())
        ]

    async def deliver_one(self, incarnation: str, stream: str = STREAM) -> ReadyEntry:
        """Let a worker read the one entry that is ready."""
        (entry,) = await self.deliver(incarnation, stream)
        assert isinstance(entry, ReadyEntry)
        return entry

    async def try_claim(
        self, entry: ReadyEntry, incarnation: str, token: str = "", *, quarantine: bool = False
    ) -> ClaimedRun | DamagedRun | StoreRefused | bytes:
        """Claim what an entry offers; the run, or the word why not."""
        (claimed,) = await self.try_claims([entry], incarnation, token, quarantine=quarantine)
        return claimed

    async def try_claims(
        self,
        entries: Sequence[ReadyEntry],
        incarnation: str,
        token: str = "",
        *,
        quarantine: bool = False,
    ) -> list[ClaimedRun | DamagedRun | StoreRefused | bytes]:
        """Claim at once what entries of one stream offer."""
        runs = self.store.runs
        tokens = [token or new_token() for _ in entries]
        reply = await runs.claim(entries, tokens, incarnation, quarantine=quarantine)
        return runs.claimed(entries, tokens, incarnation, reply)

    async def claim(
        self, entry: ReadyEntry, incarnation: str, token: str = "", *, quarantine: bool = False
    ) -> ClaimedRun:
        """Claim what an entry offers, and get it."""
        claimed = await self.try_claim(entry, incarnation, token, quarantine=quarantine)
        assert isinstance(claimed, ClaimedRun), claimed
        return claimed

    async def take(self, incarnation: str, *, quarantine: bool = False) -> ClaimedRun:
        """Read the one entry that is ready, and claim it."""
        entry = await self.deliver_one(incarnation, ALONE if quarantine else STREAM)
        return await self.claim(entry, incarnation, quarantine=quarantine)

    async def running(self, incarnation: str = "", **start: str) -> Ownership:
        """Start a run and claim it."""
        incarnation = incarnation or await self.register()
        await self.start_run(**start)
        return (await self.take(incarnation)).ownership

    async def commit(
        self, owner: Ownership, key: str, payload: bytes = b"1", kind: EntryKind = EntryKind.RESULT
    ) -> int | bytes:
        """Record a step's end."""
        entry = entry_of(owner, kind, payload)
        return await self.store.runs.commit_step(owner, key, entry)

    async def attempt(
        self, owner: Ownership, key: str, *, number: int = 1, delay: float = 60.0
    ) -> int | bytes:
        """Record a failed attempt."""
        rest = entry_rest(number, number, 5, "a label", b"it failed")
        return await self.store.runs.commit_attempt(owner, key, round(delay * 1000), rest)

    async def abandon(
        self, owner: Ownership, key: str, *, deliver_cancel: bool = False
    ) -> int | bytes:
        """Record that a step is not waited for."""
        entry = entry_of(owner, EntryKind.ABANDONED, b"")
        return await self.store.runs.abandon_step(owner, key, entry, deliver_cancel=deliver_cancel)

    async def park(
        self, owner: Ownership, *keys: str, status: Status = Status.AWAITING_RETRY, seen: int = 0
    ) -> bytes:
        """Leave the worker until the waits of these keys are due."""
        return await self.store.runs.park(owner, status, seen, keys, keys)

    async def post(
        self, run_id: str, payload: bytes = b"1", *, topic: str = "event/paid", key: str = "key"
    ) -> None:
        """Send a message to a run."""
        message_id = f"{topic}/{key}" if key else None
        mailbox = self.store.mailbox
        await mailbox.post(run_id, topic, payload, message_id=message_id, timeout=TIMEOUT)

    async def parked(
        self,
        incarnation: str = "",
        *,
        delay: float = 60.0,
        status: Status = Status.AWAITING_RETRY,
    ) -> Ownership:
        """Start a run, claim it, and park it behind a failed attempt."""
        owner = await self.running(incarnation)
        await self.attempt(owner, "step#0", delay=delay)
        assert await self.park(owner, "step#0", status=status) == b"PARKED"
        return owner

    async def fall_due(self) -> None:
        """Let every wait be over: what time would do."""
        timers = self.base + "timers"
        for run_id in await self.command("ZRANGE", timers, 0, -1):
            await self.command("ZADD", timers, 1, run_id)

    async def stall_unserved(self) -> list[bytes]:
        """Hold every run whose version nobody serves now: what a long time would do."""
        ids: list[bytes] = await self.script("stall_unserved", 0, 60_000, 100, "24 h")
        return ids

    async def queued_long_ago(self, hours: float) -> str:
        """Have a run that has waited for so long: the first of its stream."""
        run_id = await self.start_run()
        stream, key = self.base + STREAM, f"{self.base}run:{run_id}"
        queued = int((await self.record(run_id))["since"]) - round(hours * 3_600_000)
        await self.command("DEL", stream)
        await self.command("XGROUP", "CREATE", stream, "workers", "0", "MKSTREAM")
        entry = await self.command("XADD", stream, f"{queued}-0", "run", run_id, "epoch", "0")
        await self.command("HSET", key, "since", queued, "entry", entry)
        await self.command("ZADD", f"{self.base}index:active/{WORKFLOW}", queued, run_id)
        return run_id

    async def listed(self, count: int = 1000, **asked: Any) -> list[str]:
        """Read the first of a listing."""
        return await (await Overview([self.store]).reading(**asked)).next(count)

    async def schedule(
        self,
        name: str = "a schedule",
        *,
        overlap: str = "skip",
        every: float = 3600,
        due_in: float = 3600,
        replace: bool = False,
        more: str = "",
    ) -> StoredSchedule:
        """Activate a schedule whose next planned time is so many seconds away."""
        rule = timing(by_interval(every))
        new = StoredSchedule(
            name, f"{overlap} {rule}", WORKFLOW, VERSION, POOL, b"{}", overlap, rule.to_json(), more
        )
        now = await self.store.schedules.now(timeout=TIMEOUT)
        planned = now + round(due_in * 1000)
        await self.store.schedules.activate(new, planned, planned, replace=replace, timeout=TIMEOUT)
        return new

    async def schedule_record(self, name: str = "a schedule") -> ScheduleRecord:
        """Read a schedule."""
        return await self.store.schedules.record(name, timeout=TIMEOUT)

    async def trigger(
        self, run_id: str, *, name: str = "a schedule", overlap: str = "", occurrence: int = 1000
    ) -> tuple[str, list[str]]:
        """Ask for a run of a schedule."""
        return await self.store.schedules.trigger(
            name, overlap, run_id, occurrence, timeout=TIMEOUT
        )

    async def finish(self, owner: Ownership, status: Status = Status.COMPLETED) -> bytes:
        """End a run."""
        return await self.store.runs.finish(owner, status, b"the outcome", [])

    async def cancel(self, run_id: str) -> Status:
        """Ask a run to end."""
        return await self.store.runs.request_cancel(run_id, "no longer wanted", timeout=TIMEOUT)

    async def kill(self, incarnation: str, *, counted: bool = True) -> list[str]:
        """Recover a worker as one that died, and give the ids of the runs given back."""
        recovered = await self.store.workers.recover(
            incarnation, cause="killed by signal 9", counted=counted
        )
        return recovered.queued

    async def expire(self, incarnation: str) -> None:
        """Let a lease run out: what time would do."""
        assert await self.command("ZADD", self.base + "workers", "XX", 1, incarnation) == 0

    async def walk(self) -> list[tuple[str, str]]:
        """Let the sweep go once round the whole store."""
        mended: list[tuple[str, str]] = []
        while True:
            words = [part.decode() for part in await self.script("sweep", "0", "1000")]
            mended += zip(words[::2], words[1::2], strict=True)
            if await self.command("HGET", self.base + "sweep", "cursor") == b"0":
                return mended

    # What is stored

    async def record(self, run_id: str) -> dict[str, str]:
        """Read a run's record."""
        flat = await self.command("HGETALL", f"{self.base}run:{run_id}")
        texts = [part.decode() for part in flat]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    async def status(self, run_id: str) -> Status:
        """Read a run's status."""
        return Status((await self.record(run_id))["status"])

    async def entries(self, stream: str = STREAM) -> list[str]:
        """Name the runs that a ready stream offers, in order."""
        reply = await self.command("XRANGE", self.base + stream, "-", "+")
        return [fields[1].decode() for _, fields in reply]

    async def members(self, key: str) -> list[str]:
        """Read a set or a sorted set."""
        kind = await self.command("TYPE", self.base + key)
        command = ("SMEMBERS", self.base + key)
        if kind == b"zset":
            command = ("ZRANGE", self.base + key, "0", "-1")  # type: ignore[assignment]
        return sorted(member.decode() for member in await self.command(*command))

    async def keys(self) -> set[str]:
        """Name every key of the namespace, without the prefix."""
        found = await self.command("KEYS", glob_of(self.base) + "*")
        return {key.decode().removeprefix(self.base) for key in found}

    async def dump(self) -> Dump:
        """Read everything that is stored in the namespace."""
        keys = sorted(await self.keys())
        found = await asyncio.gather(*(self._read(self.base + key) for key in keys))
        return dict(zip(keys, found, strict=True))

    async def _read(self, key: str) -> Any:
        kind = (await self.command("TYPE", key)).decode()
        match kind:
            case "hash":
                flat = await self.command("HGETALL", key)
                return dict(zip(flat[::2], flat[1::2], strict=True))
            case "set":
                return set(await self.command("SMEMBERS", key))
            case "zset":
                flat = await self.command("ZRANGE", key, "0", "-1", "WITHSCORES")
                return dict(zip(flat[::2], flat[1::2], strict=True))
            case "stream":
                return await self._read_stream(key)
            case _:
                return await self.command("GET", key)

    async def _read_stream(self, key: str) -> Any:
        groups = await self.command("XINFO", "GROUPS", key)
        if not groups:
            return await self.command("XRANGE", key, "-", "+")
        consumers = await self.command("XINFO", "CONSUMERS", key, "workers")
        pending = await self.command("XPENDING", key, "workers", "-", "+", "1000")
        return {
            "entries": await self.command("XRANGE", key, "-", "+"),
            "consumers": sorted((one[1], one[3]) for one in consumers),
            "pending": [(entry, consumer) for entry, consumer, *_ in pending],
        }


NewScene = Callable[[], Awaitable[Scene]]


def entry_of(owner: Ownership, kind: EntryKind, payload: bytes) -> bytes:
    """Make a closed entry as its owner writes it."""
    return closed_entry(
        kind, owner.token, 1_700_000_000_000, entry_rest(1, 1, 5, "a label", payload)
    )


def glob_of(text: str) -> str:
    """Make a pattern that matches a text literally."""
    return re.sub(r"([*?\[\]^\\])", r"\\\1", text)


def without_clocks(dump: Dump) -> Dump:
    """Leave out what is written anew whenever somebody beats or looks."""
    clocks = {
        name: sorted(dump[name])
        for name in ("workers", "supervisors", "schedules", "pulse", "sweep")
        if isinstance(dump.get(name), dict)
    }
    return {name: value for name, value in dump.items() if name != "unserved"} | clocks


@pytest.fixture
async def new_scene(store_url: str) -> AsyncIterator[NewScene]:
    """Make a scene in a namespace of its own, whose name is as awkward as allowed."""
    opened: list[Store] = []

    async def make() -> Scene:
        store = Store(Address(store_url), f"t[*] {secrets.token_hex(6)}")
        opened.append(store)
        await store.open()
        return Scene(store)

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
async def scene(new_scene: NewScene) -> Scene:
    """Make one scene."""
    return await new_scene()
