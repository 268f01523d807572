"""What is looked at after each script: the runs that it touched, against what they were before."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiki.states import FINAL, MOVES, WAITING, Status
from aiki.store.scripts import SCRIPTS
from tests.simulation.network import Command, Server

RUN_ID = re.compile(rb"0-[0-9a-z]{26}")
# They say nothing of which runs they touch.
OF_ANY = frozenset({
    "fire_timers", "cascade", "stall_unserved", "sweep", "recover_worker", "requeue_idle"
})  # fmt: skip
# Only these take entries out of a journal, or what is recorded of their order.
FORGETTING = frozenset({"retry_later", "retry_run", "continue_run"})
# Each carries the id of a run and the token of its owner.
OWNED = frozenset(
    name
    for name, script in SCRIPTS.items()
    if re.search(r"^-- ARGV  run id, token", script.source, re.MULTILINE)
)
TOLD = 60  # lines of the trace that a failure shows

Fields = dict[bytes, bytes]


@dataclass(frozen=True)
class Seen:
    """A run as it was after the script that touched it last."""

    record: Fields
    journal: Fields

    @property
    def status(self) -> Status:
        return Status(self.record[b"status"].decode())

    @property
    def epoch(self) -> int:
        return int(self.record[b"epoch"])


class Watch:
    """Looks at each script that is executed, and keeps the trace."""

    def __init__(self, server: Server, base: str, effects: Counter[str]) -> None:
        self.lines = deque[str](maxlen=TOLD)
        self.scripts = Counter[str]()
        self.effects_at_record: dict[str, int] = {}
        self._digest = hashlib.blake2b(digest_size=8)
        self._server = server
        self._base = base.encode()
        self._effects = effects
        self._runs: dict[bytes, Seen] = {}

    @property
    def trace(self) -> str:
        """Give a hash of all that was done, by whom, when and with which answer."""
        return self._digest.hexdigest()

    @property
    def unfinished(self) -> dict[str, Status]:
        """Name the runs that are not over."""
        return {
            run_id.decode(): seen.status
            for run_id, seen in self._runs.items()
            if seen.status not in FINAL
        }

    def on_script(self, who: str, name: str, arguments: Command, reply: Any) -> None:
        """Look whether what must hold still holds."""
        self.scripts[name] += 1
        said = sorted(_leaves(reply))
        line = b" ".join([b"%d" % self._server.now, who.encode(), name.encode(), *arguments])
        self._digest.update(line + b"|" + b" ".join(said) + b"\n")
        short = line.decode(errors="replace").replace("\n", " ")[:150]
        self.lines.append(f"{short} -> {b' '.join(said)[:60].decode(errors='replace')}")
        assert name != "sweep" or not said, f"the sweep mended {said}"
        self._check_owner(name, arguments)
        known = set(RUN_ID.findall(b" ".join([*arguments, *said])))
        if name in OF_ANY:
            known |= self._runs.keys()
        for run_id in sorted(known):
            parent = self._look_at(run_id, name)
            if parent is not None and parent not in known:  # it hears of the end of its child
                self._look_at(parent, name)

    def _check_owner(self, name: str, arguments: Command) -> None:
        """Check that who has not the token of a run has changed nothing of it."""
        was = self._runs.get(arguments[0]) if name in OWNED else None
        if was is not None and was.record.get(b"token", b"") != arguments[1]:
            assert self._read(arguments[0]) == was, f"{name} wrote by an old token"

    def _read(self, run_id: bytes) -> Seen:
        key = self._base + b"run:" + run_id
        asked = self._server.ask(("HGETALL", key), ("HGETALL", key + b":journal"))
        return Seen(*map(_fields, asked))

    def _look_at(self, run_id: bytes, script: str) -> bytes | None:
        """Check a run, and give the id of its parent."""
        now, was = self._read(run_id), self._runs.get(run_id)
        record, journal = now.record, now.journal
        if record.get(b"status", b"deleted") == b"deleted":
            return None
        self._runs[run_id] = now
        try:
            self._check_place(run_id, now)
            if was is not None and was != now:
                self._check_change(was, now, script)
        except AssertionError as error:
            error.add_note(f"of run {run_id.decode()}, by {script}")
            raise
        for name, entry in journal.items():
            step = f"{run_id.decode()}/{name.decode()}"
            if entry[:1] in b"rf" and step not in self.effects_at_record:
                self.effects_at_record[step] = self._effects[step]
        return record.get(b"parent")

    def _check_place(self, run_id: bytes, now: Seen) -> None:
        """Check that a run is where its record says: with its owner, on offer and listed."""
        base, record, status = self._base, now.record, now.status
        name = "active" if status in (Status.QUEUED, Status.RUNNING) else status.value
        index = base + b"index:" + name.encode() + b"/" + record[b"workflow"]
        stream = b"/".join(record[part] for part in (b"workflow", b"version", b"pool"))
        stream += b"/quarantine" if record.get(b"quarantine") == b"1" else b""
        owner, entry = record.get(b"owner", b""), record.get(b"entry") or b"0-1"
        place, is_owned, offer, timer = self._server.ask(
            ("ZSCORE", index, run_id),
            ("SISMEMBER", base + b"worker:" + owner + b":runs", run_id),
            ("XRANGE", base + b"ready:" + stream, entry, entry),
            ("ZSCORE", base + b"timers", run_id),
        )
        assert place is not None, f"it is {status} and not listed"
        assert is_owned == (status is Status.RUNNING), f"it is {status}, owned: {is_owned}"
        assert bool(record.get(b"token", b"")[:1].isdigit()) == (status is Status.RUNNING)
        assert status is not Status.QUEUED or offer, "it is queued and not on offer"
        is_timed = status is Status.SCHEDULED or (status in WAITING and record[b"wake"] != b"")
        assert (timer is not None) == is_timed, f"it is {status}, its timer: {timer}"
        assert (b"result" in record) + (b"failure" in record) == (status in FINAL)

    def _check_change(self, was: Seen, now: Seen, script: str) -> None:
        assert may_become(was.status, now.status), f"{was.status} -> {now.status}"
        assert now.epoch >= was.epoch, "its epoch has fallen"
        token = now.record.get(b"token", b"")
        if token[:1].isdigit() and token != was.record.get(b"token"):
            assert now.epoch > was.epoch, "it has a new owner at an old epoch"
        if was.status in FINAL and script != "retry_run":
            for name in (b"status", b"result", b"failure"):
                assert was.record.get(name) == now.record.get(name), "its end has changed"
        if script == "fire_timers" and was.status in WAITING and b"cancel" not in now.record:
            assert int(was.record[b"wake"]) <= self._server.now, "it was woken early"
        if script in FORGETTING:
            return
        for name, entry in was.journal.items():
            then = now.journal.get(name)
            if entry[:1] != b"o" and then != entry:
                assert then is not None, f"the entry {name!r} is gone"
                assert then[:1] == b"a", f"the entry {name!r} was closed and has changed"
                assert then.split(b" ")[1] == entry.split(b" ")[1], f"another abandoned {name!r}"


def may_become(before: Status, after: Status) -> bool:
    """Tell whether the table has one move, or two that one script may make, between these."""
    first = {end for (start, _), end in MOVES.items() if start is before}
    second = {end for (start, _), end in MOVES.items() if start in first}
    return after is before or after in first | second


def _fields(flat: list[bytes]) -> Fields:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _leaves(reply: Any) -> Iterator[bytes]:
    if isinstance(reply, bytes):
        yield reply
    elif isinstance(reply, int | Exception):
        yield str(reply).encode()
    elif reply is not None:
        for each in reply:
            yield from _leaves(each)


def told(lines: Iterable[str]) -> str:
    """Give the end of a trace."""
    return "\n".join(lines)
