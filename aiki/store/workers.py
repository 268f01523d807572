"""Workers in the store: leases, what they read, and what becomes of their runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
from redis.exceptions import NoScriptError

from aiki.errors import StoreRefused
from aiki.records import ReadyEntry, WorkerRecord
from aiki.store.answers import replaced
from aiki.store.batch import Link
from aiki.store.connection import Address
from aiki.store.scripts import SCRIPTS

QUARANTINE_AFTER = 2  # deaths without progress
STALL_AFTER = 5
BATCH = 100
BLOCK = 2.0  # seconds that a read waits for an entry at most
DEFAULT_LEASE = 60.0  # of a library worker


@dataclass(frozen=True, slots=True)
class AboutWorker:
    """What a worker says of itself when it registers."""

    label: str
    host: str
    pid: int
    create_time: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the runs of a worker that is gone."""

    queued: list[str]
    stalled: list[str]


class Workers:
    """What may be done with the workers of one partition."""

    def __init__(self, link: Link, base: str, store_id: str) -> None:
        self._link = link
        self._base = base
        self._store_id = store_id

    async def register(
        self, incarnation: str, lease: float, about: AboutWorker, streams: Sequence[str]
    ) -> str:
        """Begin a life: OK, DEAD where that life is over, STORE where the store is another."""
        reply = await self._script(
            "register_worker", self._store_id, incarnation, _ms(lease), json.dumps(asdict(about)),
            *streams,
        )  # fmt: skip
        return str(reply.decode())

    def heart(self, incarnation: str, lease: float, address: Address) -> Heart:
        """Make what renews a lease from a thread of its own."""
        return Heart(address, self._base, self._store_id, incarnation, lease)

    async def recover(
        self,
        incarnation: str,
        *,
        cause: str,
        counted: bool = False,
        suspects_after: float | None = None,
        only_if_expired: bool = False,
    ) -> Recovered:
        """Give back everything a worker held, and end its lease.

        `counted` charges the death to each run it was executing; `suspects_after` (seconds)
        charges it only to runs that were themselves recovered within that time.
        """
        recovered = Recovered([], [])
        # The worker's reader may be gone while the server still takes it for a waiting client,
        # and would give it what is queued now. Once this is answered, the server knows.
        await self._link.send(("PING",))
        while True:
            word, queued, stalled = await self._script(
                "recover_worker", incarnation, "1" if only_if_expired else "0", cause,
                "1" if counted else "0", "" if suspects_after is None else _ms(suspects_after),
                str(QUARANTINE_AFTER), str(STALL_AFTER), str(BATCH),
            )  # fmt: skip
            recovered.queued.extend(run_id.decode() for run_id in queued)
            recovered.stalled.extend(run_id.decode() for run_id in stalled)
            if word != b"MORE":
                return recovered

    async def find_expired(self, lease: float) -> list[str]:
        """Name the workers whose lease has run out."""
        return [name.decode() for name in await self._script("find_expired", _ms(lease))]

    async def list(self) -> list[WorkerRecord]:
        """Read every registered worker."""
        reply = await self._link.send(("ZRANGE", self._base + "workers", "0", "-1", "WITHSCORES"))
        seconds, micros = await self._link.send(("TIME",))
        now = int(seconds) + int(micros) / 1e6
        found: list[WorkerRecord] = []
        for name, expiry in zip(reply[::2], reply[1::2], strict=True):
            incarnation = name.decode()
            about = await self._link.send(("HGET", f"{self._base}worker:{incarnation}", "about"))
            if about is not None:
                said = AboutWorker(**json.loads(about))
                left = float(expiry) / 1000 - now
                found.append(
                    WorkerRecord(
                        incarnation, said.label, said.host, said.pid, said.create_time, left
                    )
                )
        return found

    async def owned_runs(self, incarnation: str) -> dict[str, str]:
        """Read the ids of the runs a worker owns, each with its epoch."""
        ids = await self._link.send(("SMEMBERS", f"{self._base}worker:{incarnation}:runs"))
        owned: dict[str, str] = {}
        for run_id in ids:
            key = f"{self._base}run:{run_id.decode()}"
            epoch = await self._link.send(("HGET", key, "epoch"))
            owned[run_id.decode()] = (epoch or b"").decode()
        return owned

    async def requeue_idle(self, idle: float) -> int:
        """Add anew what was delivered and not claimed for so long."""
        return int(await self._script("requeue_idle", _ms(idle), str(BATCH)))

    async def beat_supervisor(self, supervisor: str, ttl: float) -> tuple[int, int]:
        """Say that a supervisor is there ('' only asks): runs in quarantine, live supervisors.

        Raises:
            StoreReplaced: it is not the store that it was.
        """
        reply = await self._script("beat_supervisor", self._store_id, supervisor, _ms(ttl))
        if reply[0] == b"STORE":
            raise replaced(self._link.address.described)
        return int(reply[0]), int(reply[1])

    async def offered(self, streams: Sequence[str]) -> int:
        """Count the runs that these ready streams offer."""
        counts = [self._link.send(("XLEN", self._base + stream)) for stream in streams]
        return sum([int(await count) for count in counts])

    async def remove_supervisor(self, supervisor: str) -> None:
        """Take back what `beat_supervisor` said."""
        await self._link.send(("ZREM", self._base + "supervisors", supervisor))

    def ready_reader(
        self, address: Address, incarnation: str, *, lease: float = DEFAULT_LEASE
    ) -> ReadyReader:
        """Make what waits for ready runs, on a connection of its own."""
        # A read that waits at the server when its worker is given up would be handed entries that
        # nobody claims, so no read waits as long as a lease.
        return ReadyReader(address, self._base, incarnation, block=min(BLOCK, lease / 3))

    async def _script(self, name: str, *arguments: str) -> Any:
        return await self._link.send(("EVALSHA", SCRIPTS[name].sha, "1", self._base, *arguments))


class Heart:
    """Renews one lease, blocking, for a thread without an event loop."""

    def __init__(
        self, address: Address, base: str, store_id: str, incarnation: str, lease: float
    ) -> None:
        self._address = address
        self._client: redis.Redis | None = None
        self._arguments = (base, store_id, incarnation, _ms(lease))

    def beat(self, confirmed: Sequence[str]) -> tuple[str, list[str]]:
        """Renew the lease: OK with the runs that have a notice, DEAD or STORE.

        Raises:
            StoreUnavailable: nobody knows where the server is.
            StoreRefused: the server did not do it; the next beat may.
        """
        script = SCRIPTS["beat"]
        client = self._client = self._client or self._address.blocking()
        try:
            try:
                reply: Any = client.evalsha(script.sha, 1, *self._arguments, *confirmed)
            except NoScriptError:
                reply = client.eval(script.source, 1, *self._arguments, *confirmed)
        except (redis.RedisError, OSError) as error:
            self._address.moved(str(error))
            self.close()  # by the next beat it may be another server
            raise StoreRefused(str(error)) from None
        notices = [run_id.decode() for run_id in reply[1]] if len(reply) > 1 else []
        return reply[0].decode(), notices

    def close(self) -> None:
        """End its connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


class ReadyReader:
    """Waits for ready entries. What it is given stays pending for it until it is claimed."""

    def __init__(self, address: Address, base: str, incarnation: str, *, block: float) -> None:
        self._base = base
        self._incarnation = incarnation
        self._block = str(max(1, round(block * 1000)))
        self._link = Link(address, timeout=block + 2, resend=False)
        self._connected = False

    @property
    def is_lost(self) -> bool:
        """Whether it has had a connection, and has none now."""
        return self._connected and not self._link.is_ready

    async def read(
        self, streams: Sequence[str], count: int, *, wait: bool = True
    ) -> list[ReadyEntry]:
        """Wait a while, or only look, for at most `count` entries, in the order of the streams.

        Raises:
            StoreUnavailable: the connection broke; entries may have been delivered, and
                `read_delivered` finds them.
        """
        await self.connect()
        if len(streams) > count:
            # XREADGROUP counts per stream; where it could give more than wanted, a script
            # counts, and only an empty answer is followed by a wait for whichever comes first.
            script = SCRIPTS["read_ready"].sha
            command = ("EVALSHA", script, "1", self._base, self._incarnation, str(count), *streams)
            found = self._parse(await self._link.send(command))
            if found or not wait:
                return found
        share = max(1, count // len(streams))
        found = self._parse(await self._link.send(self._read_group(streams, share, ">", wait=wait)))
        if len(found) > count:
            # Several streams had something by the time that this read began.
            await self.put_back(found[count:])
        return found[:count]

    async def put_back(self, entries: Sequence[ReadyEntry]) -> None:
        """Offer entries anew that were read and are not wanted."""
        script = SCRIPTS["return_ready"].sha
        pairs = [part for entry in entries for part in (entry.stream, entry.entry)]
        await self._link.send(("EVALSHA", script, "1", self._base, *pairs))

    async def read_delivered(self, streams: Sequence[str]) -> list[ReadyEntry]:
        """Read again what was delivered to this incarnation and never claimed."""
        await self.connect()
        return self._parse(await self._link.send(self._read_group(streams, BATCH, "0")))

    async def close(self) -> None:
        """End its connection."""
        await self._link.close()

    async def connect(self) -> None:
        """Make the first connection, if it is not made."""
        if not self._connected:
            await self._link.connect()
            self._connected = True

    def _read_group(
        self, streams: Sequence[str], count: int, start: str, *, wait: bool = True
    ) -> tuple[str, ...]:
        keys = [self._base + stream for stream in streams]
        return (
            "XREADGROUP", "GROUP", "workers", self._incarnation, "COUNT", str(count),
            *(("BLOCK", self._block) if wait else ()),
            "STREAMS", *keys, *([start] * len(keys)),
        )  # fmt: skip

    def _parse(self, reply: Any) -> list[ReadyEntry]:
        entries: list[ReadyEntry] = []
        for stream, items in reply or ():
            name = stream.decode().removeprefix(self._base)
            for entry, fields in items:
                if fields and len(fields) == _FIELDS:  # deleted meanwhile, or not ours otherwise
                    run_id, epoch = fields[1].decode(), fields[3].decode()
                    entries.append(ReadyEntry(name, entry.decode(), run_id, epoch))
        return entries


_FIELDS = 4  # run, its id, epoch, its number


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
