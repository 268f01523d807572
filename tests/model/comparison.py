"""Whether the store holds what the model says, to the last field."""

from __future__ import annotations

import asyncio
from typing import Any

from aiki.records import parse_journal
from aiki.states import WAITING, Status
from tests.model.model import Model
from tests.model.records import ACTIVE, ModelRun
from tests.support.store import ALONE, STREAM, WORKFLOW, Scene

INDEXES = ("active", *(status.value for status in Status if status not in ACTIVE))


async def compare(scene: Scene, model: Model) -> None:
    """Compare runs, listings, counts, ready streams, timers and workers."""
    about = [_about_run(scene, run) for run in model.runs.values()]
    about += [_index(scene, name, model) for name in INDEXES]
    about += [_stream(scene, STREAM, model), _stream(scene, ALONE, model)]
    about += [_worker(scene, name, model) for name in model.workers]
    about.append(_whole(scene, model))
    for found in await asyncio.gather(*about):
        for what, (stored, modelled) in found.items():
            assert stored == modelled, f"{what}: the store has {stored}, the model {modelled}"


Pairs = dict[str, tuple[Any, Any]]


async def _about_run(scene: Scene, run: ModelRun) -> Pairs:
    key = f"{scene.base}run:{run.id}"
    record, journal, mailbox, seen, children = await asyncio.gather(
        scene.record(run.id),
        scene.command("HGETALL", f"{key}:journal"),
        scene.command("HGETALL", f"{key}:mailbox"),
        scene.command("ZRANGE", f"{key}:seen", "0", "-1"),
        scene.command("HGETALL", f"{key}:children"),
    )
    is_timed = run.status is Status.SCHEDULED or run.status in WAITING
    has_start_by = run.start_by is not None
    modelled = {
        "status": run.status.value,
        "since": str(run.since),
        "epoch": str(run.epoch),
        "owner": run.owner,
        "token": run.token,
        "input": run.input.decode(),
        "cancel": run.cancel,
        "cancel_at": run.cancel_at,
        "pause": run.pause or None,
        "result": None if run.result is None else run.result.decode(),
        "failure": None if run.failure is None else run.failure.decode(),
        "news": run.news,
        "wakes": run.wakes,
        "unread": sum(len(mail) for mail in run.mailbox.values() if mail[:4] != b"end/"),
        "ends": sum(mail[:4] == b"end/" for mail in run.mailbox.values()),
        "deaths": run.deaths,
        "quarantine": run.quarantine,
        "attempt": run.attempt,
        "generation": run.generation,
        "parent": run.parent,
        "policy": run.policy or None,
        "held": run.held or None,
        "wake": ("" if run.wake is None else str(run.wake)) if is_timed else None,
        "start_by": str(run.start_by) if has_start_by else None,
        "finish_by": None if run.finish_by is None else str(run.finish_by),
        "reference": f"idem:{WORKFLOW}:{run.key}" if run.key else None,
    }
    defaults: dict[str, Any] = {"owner": "", "token": ""}
    stored: dict[str, Any] = {name: record.get(name, defaults.get(name)) for name in modelled}
    for name in ("news", "wakes", "unread", "ends", "deaths", "generation"):
        stored[name] = int(record.get(name) or 0)
    stored["attempt"] = int(record.get("attempt", "1"))
    stored["quarantine"] = record.get("quarantine") == "1"
    stored["pause"] = record.get("pause") == "1" or None
    stored["held"] = "held" in record or None
    if not is_timed:
        stored["wake"] = None
    found: Pairs = {f"{run.id}: {name}": (stored[name], modelled[name]) for name in modelled}
    found[f"{run.id}: journal"] = (
        {
            name: (entry.kind, entry.token, entry.payload, entry.seq, entry.attempts)
            + ((entry.written, entry.due) if entry.kind == "o" else ())
            for name, entry in parse_journal(journal).items()
        },
        {
            name: (step.kind, step.token, step.payload, step.seq, step.attempts)
            + ((step.written, step.due) if step.kind == "o" else ())
            for name, step in run.journal.items()
        },
    )
    found[f"{run.id}: mailbox"] = (
        sorted((int(number), mail) for number, mail in _pairs(mailbox)),
        sorted(run.mailbox.items()),
    )
    found[f"{run.id}: seen"] = ({each.decode() for each in seen}, run.seen)
    found[f"{run.id}: children"] = (
        {child.decode(): policy.decode() for child, policy in _pairs(children)},
        run.children,
    )
    return found


async def _index(scene: Scene, name: str, model: Model) -> Pairs:
    key = f"{scene.base}index:{name}/{WORKFLOW}"
    flat = await scene.command("ZRANGE", key, "0", "-1", "WITHSCORES")
    stored = [(int(score), run_id.decode()) for run_id, score in _pairs(flat)]
    return {f"listing of {name}": (stored, model.index().get(name, []))}


async def _stream(scene: Scene, stream: str, model: Model) -> Pairs:
    if not await scene.command("EXISTS", scene.base + stream):
        return {stream: ([], model.alone if stream == ALONE else model.ready)}
    entries, pending = await asyncio.gather(
        scene.command("XRANGE", scene.base + stream, "-", "+"),
        scene.command("XPENDING", scene.base + stream, "workers", "-", "+", "1000"),
    )
    readers = {entry: reader.decode() for entry, reader, *_ in pending}
    stored = [(fields[1].decode(), int(fields[3]), readers.get(entry)) for entry, fields in entries]
    offers = model.alone if stream == ALONE else model.ready
    return {stream: (stored, [(each.run_id, each.epoch, each.reader) for each in offers])}


async def _worker(scene: Scene, name: str, model: Model) -> Pairs:
    runs, notices = await asyncio.gather(
        scene.command("SMEMBERS", f"{scene.base}worker:{name}:runs"),
        scene.command("SMEMBERS", f"{scene.base}worker:{name}:notices"),
    )
    worker = model.workers[name]
    return {
        f"runs of {name}": ({each.decode() for each in runs}, worker.runs),
        f"notices of {name}": ({each.decode() for each in notices}, worker.notices),
    }


async def _whole(scene: Scene, model: Model) -> Pairs:
    timers, workers, cascades, keys, listed, counts = await asyncio.gather(
        scene.command("ZRANGE", scene.base + "timers", "0", "-1", "WITHSCORES"),
        scene.command("ZRANGE", scene.base + "workers", "0", "-1", "WITHSCORES"),
        scene.command("SMEMBERS", scene.base + "cascades"),
        scene.keys(),
        scene.listed(),
        scene.store.catalog.counts(WORKFLOW),
    )
    places = [place for some in model.index().values() for place in some]
    by_status: dict[Status, int] = {}
    for run in model.runs.values():
        by_status[run.status] = by_status.get(run.status, 0) + 1
    offered = len(model.ready) + len(model.alone)
    # One too many, which nobody has found stale yet, is counted as a run that is queued.
    is_exact = offered == by_status.get(Status.QUEUED, 0)
    counted = counts.get(WORKFLOW, {}) if is_exact else by_status
    return {
        "timers": ({name.decode(): int(at) for name, at in _pairs(timers)}, model.timers),
        "leases": (
            {name.decode(): int(until) for name, until in _pairs(workers)},
            {name: worker.lease for name, worker in model.workers.items()},
        ),
        "cascades": ({each.decode() for each in cascades}, model.cascades),
        "runs": (
            {key[4:] for key in keys if key.startswith("run:") and ":" not in key[4:]},
            {*model.runs, *model.deleted},
        ),
        "keys of starts": (
            {key for key in keys if key.startswith("idem:")},
            {f"idem:{WORKFLOW}:{key}" for key in model.keys},
        ),
        "listing": (listed, [run_id for _, run_id in sorted(places, reverse=True)]),
        "counts": (counted, by_status),
    }


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
