"""What must hold of a store at rest, beside what follows from the records alone.

Whoever has a lease lives, nothing waits for the dead, every owner wrote after the one before, and
nothing is left of what is gone.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

from aiki.records import Entry, EntryKind
from aiki.states import Status
from aiki.store.keys import prefix
from tests.support.audit import audit_indexes
from tests.support.store import Dump, Scene

# What a dead worker said of itself is kept so long, for a late copy of its registration.
KEPT_FOR_THE_DEAD = 3600
# The id of a run that was deleted, for a late copy of its start.
KEPT_FOR_THE_DELETED = 7200


async def findings(scene: Scene, *, workers: int) -> list[str]:
    """Look at every key once; give a sentence for all that is wrong."""
    found: list[str] = []
    try:
        await audit_indexes(scene)
    except AssertionError as error:
        found.append(str(error))
    seconds, _ = await scene.command("TIME")
    dump = await scene.dump()
    leases = {k.decode(): float(v) for k, v in dump.get("workers", {}).items()}
    live = sum(expiry > int(seconds) * 1000 for expiry in leases.values())
    if live != workers or len(leases) != workers:
        found.append(f"{live} of {len(leases)} workers live, and {workers} should")
    found += _check_journals(dump)
    found += _check_streams(dump, set(leases))
    found += [message async for message in _check_remains(scene, dump, set(leases))]
    return found


async def litter(scene: Scene) -> list[str]:
    """Name the consumers of workers that are gone. The next housekeeper clears them away."""
    dump = await scene.dump()
    return [
        consumer.decode()
        for name, stream in dump.items()
        if name.startswith("ready:")
        for consumer, _ in stream["consumers"]
        if consumer not in dump.get("workers", {})
    ]


def _check_journals(dump: Dump) -> Iterator[str]:
    for name, record in dump.items():
        if not re.fullmatch(r"run:[^:]+", name) or b"epoch" not in record:
            continue  # of a run that was deleted there is only a memory
        raw: dict[bytes, bytes] = dump.get(f"{name}:journal", {})
        entries = {key.decode(): Entry.parse(value) for key, value in raw.items()}
        in_order = sorted(entries.values(), key=lambda entry: entry.seq)
        epochs = [int(entry.token.partition(":")[0]) for entry in in_order]
        if epochs != sorted(epochs):
            yield f"{name} was written by several owners in turn: epochs {epochs}"
        if epochs and epochs[-1] > int(record[b"epoch"]):
            yield f"{name} has an entry of a later epoch than it has itself"
        if len({entry.seq for entry in in_order}) != len(in_order):
            yield f"{name} has two entries with one place in the order"
        for key, entry in entries.items():
            address, _, number = key.rpartition("#")
            if number != "0" and f"{address}#{int(number) - 1}" not in entries:
                yield f"{name} has {key} and nothing before it"
            if record[b"status"] == Status.COMPLETED.encode() and entry.kind is EntryKind.OPEN:
                yield f"{name} is over, and {key} waits for its next attempt"


def _check_streams(dump: Dump, leases: set[str]) -> Iterator[str]:
    for name, stream in dump.items():
        if not name.startswith("ready:"):
            continue
        for _, fields in stream["entries"]:
            run, epoch = fields[1].decode(), fields[3]
            if dump.get(f"run:{run}", {}).get(b"epoch") != epoch:
                yield f"{name} offers run {run} at an epoch that is over"
        for entry, consumer, *_ in stream["pending"]:
            if leases:
                yield f"{name}: {consumer!r} does not claim {entry!r}"


async def _check_remains(scene: Scene, dump: Dump, leases: set[str]) -> AsyncIterator[str]:
    for name in dump:
        remaining = await scene.command("TTL", scene.base + name)
        if words := _expiry(name, dump[name], remaining, leases):
            yield f"{name} {words}"
    for lease in leases:
        if f"worker:{lease}" not in dump:
            yield f"worker {lease} has a lease and said nothing of itself"
    store = scene.store
    bases = tuple(prefix(store.namespace, n).encode() for n in range(store.partitions))
    for key in await scene.command("KEYS", "*"):
        if not key.startswith(bases):
            yield f"{key!r} is not in the namespace"


def _expiry(name: str, value: object, remaining: int, leases: set[str]) -> str:
    """Say what is wrong with the time that a key is kept, if anything is."""
    worker = re.fullmatch(r"worker:([^:]+)(:\w+)?", name)
    if value == {b"status": b"deleted"}:
        return "" if 0 <= remaining <= KEPT_FOR_THE_DELETED else f"is kept for {remaining} s"
    if worker is None or worker[1] in leases:
        return "expires" if remaining >= 0 else ""
    is_left = worker[2] or not 0 <= remaining <= KEPT_FOR_THE_DEAD
    return "is left of a worker that is gone" if is_left else ""
