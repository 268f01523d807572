"""What must hold of everything stored, at any moment between two scripts."""

from __future__ import annotations

import math
import re
from collections import Counter

from aiki.records import parse_streams
from aiki.states import FINAL, WAITING, Status
from aiki.store.audit import KEYS
from tests.support.store import Dump, Scene

ACTIVE = (Status.QUEUED, Status.RUNNING)


async def audit(scene: Scene) -> None:
    """Check that each run is where its record says, and nowhere else, and that no key is left over.

    The audit of the product and the sweep must find the same: nothing.
    """
    await audit_indexes(scene)
    assert (await scene.store.audit.audit()).found == {}
    mended = await scene.walk()
    assert not mended, f"the sweep mended {mended}"


async def audit_indexes(scene: Scene) -> None:
    """Check all that follows from the records against the records."""
    dump = await scene.dump()
    problems: list[str] = []
    records = {
        name.removeprefix("run:"): {
            key.decode(): value.decode(errors="replace") for key, value in record.items()
        }
        for name, record in dump.items()
        if re.fullmatch(r"run:[^:]+", name)
    }
    # Of a run that was deleted there is a memory and nothing else.
    deleted = {run_id for run_id in records if records[run_id] == {"status": "deleted"}}
    gone = {f"run:{run_id}" for run_id in deleted}
    records = {run_id: records[run_id] for run_id in records.keys() - deleted}
    # Its children are looked after all the same, until each was asked to end.
    left = {f"run:{run_id}:children" for run_id in _members(dump, "cascades")}
    for name in dump.keys() - gone - left:
        match = re.fullmatch("|".join(KEYS), name)
        if match is None or (match["run"] and match["run"] not in records):
            problems.append(f"nobody owns the key {name}")
    listed = _listed(dump, "index:")
    tagged = _listed(dump, "tag:")
    timers = _members(dump, "timers")
    deadlines = {member for member in timers if "!" in member}
    timers -= deadlines
    alone = _members(dump, "quarantine")
    owned = Counter(
        (run_id, name.split(":")[1])
        for name in dump
        if re.fullmatch(r"worker:[^:]+:runs", name)
        for run_id in _members(dump, name)
    )
    offers = _offers(dump)
    for run_id, record in records.items():
        status = Status(record["status"])
        index = "active" if status in ACTIVE else status.value
        expected = {
            "listed": [f"index:{index}/{record['workflow']}"],
            "tagged": sorted(f"tag:{tag}" for tag in record.get("tags", "").splitlines()),
            "timer": status is Status.SCHEDULED or (status in WAITING and record["wake"] != ""),
            "alone": record.get("quarantine") == "1" and status in ACTIVE,
            "owners": [record["owner"]] if status is Status.RUNNING else [],
            "offered": [_stream(record)] if status is Status.QUEUED else [],
            "has a token": status is Status.RUNNING,
        }
        found = {
            "listed": listed.pop(run_id, []),
            "tagged": sorted(tagged.pop(run_id, [])),
            "timer": run_id in timers,
            "alone": run_id in alone,
            "owners": [owner for run, owner in owned if run == run_id],
            "offered": offers.get((run_id, record["epoch"]), []),
            "has a token": record.get("token", "")[:1].isdigit(),
        }
        problems += [
            f"{run_id} is {status}; {what}: {found[what]} and not {expected[what]}"
            for what in expected
            if found[what] != expected[what]
        ]
        # One that is needed no more stays until it falls due, or the run is removed.
        allowed = {name for name in ("start", "finish") if f"{name}_by" in record}
        needed = allowed if record["epoch"] == "0" else allowed - {"start"}
        there = {name for name in ("start", "finish") if f"{run_id}!{name}" in deadlines}
        if there - allowed or (needed - there and status not in FINAL and "cancel" not in record):
            problems.append(f"{run_id} has the deadlines {there}, needs {needed} of {allowed}")
        if record.get("pause") == "1" and (status is Status.QUEUED or status in WAITING):
            problems.append(f"{run_id} is {status} and is to be paused")
        if status in FINAL and not ("result" in record) ^ ("failure" in record):
            problems.append(f"{run_id} is over and has not one outcome")
    for name, stream in dump.items():
        if (match := re.fullmatch(r"run:([^:]+):stream:([^:]+)", name)) is not None:
            noted = parse_streams(records[match[1]].get("streams", "").encode())
            if len(stream) != noted[match[2]].chunks:
                problems.append(f"{name} has {len(stream)} chunks, and {noted} are noted")
    problems += _audit_schedules(dump)
    known = set(records)
    timers |= {member.partition("!")[0] for member in deadlines}
    strays = set(listed) | set(tagged) | (timers | alone | {run for run, _ in owned}) - known
    problems += [f"{run_id} is in an index and does not exist" for run_id in strays]
    assert not problems, "\n".join(problems)


def _audit_schedules(dump: Dump) -> list[str]:
    """Check that each schedule is listed, and as never due if it is paused."""
    looked_at = {name.decode(): float(at) for name, at in dump.get("schedules", {}).items()}
    records = {
        name.removeprefix("schedule:"): record
        for name, record in dump.items()
        if name.startswith("schedule:")
    }
    problems = [f"schedule {name} is no schedule" for name in looked_at.keys() - records.keys()]
    for name, record in records.items():
        due, at = float(record[b"due"]), looked_at.get(name)
        if at is None or (at == math.inf) != (record.get(b"paused") == b"1"):
            problems.append(f"schedule {name}, due {due}, is looked at {at}")
        waiting = [line.split()[0].decode() for line in record.get(b"buffer", b"").splitlines()]
        problems += [
            f"run {run_id} of schedule {name} is buffered and is there"
            for run_id in waiting
            if f"run:{run_id}" in dump
        ]
    return problems


def _members(dump: Dump, name: str) -> set[str]:
    return {member.decode() for member in dump.get(name, ())}


def _listed(dump: Dump, start: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in dump:
        if name.startswith(start):
            for run_id in _members(dump, name):
                found.setdefault(run_id, []).append(name)
    return found


def _offers(dump: Dump) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for name in dump:
        if name.startswith("ready:"):
            for _, fields in dump[name]["entries"]:
                found.setdefault((fields[1].decode(), fields[3].decode()), []).append(name)
    return found


def _stream(record: dict[str, str]) -> str:
    stream = f"ready:{record['workflow']}/{record['version']}/{record['pool']}"
    return f"{stream}/quarantine" if record.get("quarantine") == "1" else stream
