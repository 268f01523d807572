"""The floor: the script calls that one run makes, and nothing else.

They are those of a run that was really processed, with the steps, keys and payloads recorded
there; only ids and tokens are new. One process makes them on one blocking connection, packed with
hiredis. Reading the ready stream, which a worker does once for many runs, is no script; it is
done, since a claim needs it, while the clock stands still.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis

from aiki import Client, Status
from aiki.claims import CLAIMED_TOGETHER
from aiki.client import STARTED_TOGETHER
from aiki.records import EntryKind, Ownership, ReadyEntry, closed_entry, entry_rest
from aiki.store.batch import Link
from aiki.store.connection import Command, pack
from aiki.store.keys import new_run_id, new_token, prefix
from aiki.store.runs import NewRun, Runs
from aiki.store.scripts import SCRIPTS
from aiki.store.workers import AboutWorker
from tests.benchmarks.service import ScriptTime

IN_FLIGHT = 100
_LEASE = 600.0
_TIMEOUT = 30.0

# What stands in the calls until they are made.
_RUN, _TOKEN, _OWNED, _ENTRY = "<run>", "<token>", "1:<token>", "<entry>"
_NAMES = {script.sha: script.name for script in SCRIPTS.values()}
# The scripts that serve many runs at once, and how many arguments are those of one run.
_OF_MANY = {"start_runs": 8, "claim_runs": 4}
_AT_ONCE = min(STARTED_TOGETHER, CLAIMED_TOGETHER)
_DONE = {"start_runs": b"OK", "watch_run": b"WAIT", "claim_runs": b"RUN", "finish_run": b"OK"}


@dataclass(frozen=True, slots=True)
class _Calls:
    """The calls of one run, in their order, and the stream that its ready entry is in."""

    commands: tuple[Command, ...]
    stream: str

    def names(self) -> list[str]:
        return [_NAMES[str(command[1])] for command in self.commands]


class Floor:
    """A process that is client and worker at once, in the namespace of its client."""

    def __init__(self, client: Client, calls: _Calls, incarnation: str) -> None:
        self._client = client
        self._calls = calls
        self._incarnation = incarnation
        self._base = prefix(client.store.namespace, 0)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT)
        self._socket.connect(unquote(urlsplit(client.store.address.url).path))
        self._reader = hiredis.Reader()
        for sha in {command[1] for command in calls.commands}:
            source = next(script.source for script in SCRIPTS.values() if script.sha == sha)
            self._exchange([("SCRIPT", "LOAD", source)])

    @classmethod
    async def like(cls, client: Client, model: Client, run_id: str) -> Floor:
        """Make one whose runs are like a finished run that `model` has in its store."""
        incarnation = new_token()
        calls = await _record(client, model, run_id, incarnation)
        about = AboutWorker("floor", "localhost", 1, 0.0)
        await client.store.workers.register(incarnation, _LEASE, about, [calls.stream])
        return cls(client, calls, incarnation)

    @property
    def script_names(self) -> list[str]:
        """The scripts that one run calls, in their order."""
        return self._calls.names()

    def together(self, count: int) -> float:
        """Make the calls of so many runs, 100 at a time; seconds."""
        return sum(map(sum, self._make_all(count, time.perf_counter)))

    def alone(self) -> float:
        """Make the calls of one run, one after the other; seconds."""
        return sum(self._make(1, time.perf_counter))

    def on_server(self, batches: int) -> list[float]:
        """Make the calls of 100 runs so many times; seconds of the server for each call of one.

        The server goes by the clock on the wall, so what is given is the median of the batches.
        """
        spent = self._make_all(batches * IN_FLIGHT, self._script_seconds)
        return [statistics.median(each) / IN_FLIGHT for each in zip(*spent, strict=True)]

    async def close(self) -> None:
        """End its connection and its life as a worker."""
        self._socket.close()
        await self._client.store.workers.recover(self._incarnation, cause="it is done")

    def _make_all(self, count: int, clock: Callable[[], float]) -> list[list[float]]:
        return [
            self._make(min(IN_FLIGHT, count - first), clock) for first in range(0, count, IN_FLIGHT)
        ]

    def _make(self, count: int, clock: Callable[[], float]) -> list[float]:
        """Make the calls of so many runs together; what the clock says of each call."""
        names = {new_run_id(0): new_token() for _ in range(count)}
        entries = dict.fromkeys(names, "")
        spent: list[float] = []
        for command, script in zip(self._calls.commands, self._calls.names(), strict=True):
            if script == "claim_runs":
                entries = self._read_ready(count)
            made = [_made_out(command, run, names[run], entries[run]) for run in names]
            if script in _OF_MANY:
                made = [
                    _together(made[n : n + _AT_ONCE], _OF_MANY[script])
                    for n in range(0, count, _AT_ONCE)
                ]
            begun = clock()
            replies = self._exchange(made)
            spent.append(clock() - begun)
            _check(script, replies)
        return spent

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one buffer, and read as many replies."""
        self._socket.sendall(b"".join(map(pack, commands)))
        replies: list[Any] = []
        while len(replies) < len(commands):
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                replies.append(reply)
        return replies

    def _script_seconds(self) -> float:
        reply: bytes = self._exchange([("INFO", "commandstats")])[0]
        return ScriptTime.parse(reply.decode()).seconds

    def _read_ready(self, count: int) -> dict[str, str]:
        stream = self._base + self._calls.stream
        command = ("XREADGROUP", "GROUP", "workers", self._incarnation, "COUNT", str(count),
                   "STREAMS", stream, ">")  # fmt: skip
        (_, items), = self._exchange([command])[0]  # fmt: skip
        return {fields[1].decode(): entry.decode() for entry, fields in items}


class _Recorder(Link):
    """Notes what the store would send, and answers it at once."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.store.address)
        self.sent: list[Command] = []
        self.answers: deque[Any] = deque()

    def send(self, command: Command) -> Any:
        self.sent.append(command)
        future = self._loop.create_future()
        future.set_result(self.answers.popleft())
        return future


async def _record(client: Client, model: Client, run_id: str, incarnation: str) -> _Calls:
    """Have the store's own methods make the calls of a run like this one."""
    run = await model.store.runs.snapshot(run_id, timeout=_TIMEOUT)
    journal = await model.store.runs.journal(run_id, timeout=_TIMEOUT)
    steps = sorted(journal.items(), key=lambda step: step[1].seq)
    recorder = _Recorder(client)
    recorder.answers.extend([[[b"OK", b""]], [b"WAIT"], None, *([0] * len(steps)), b"OK"])
    runs = Runs(recorder, prefix(client.store.namespace, 0), client.store.store_id)
    stream = f"ready:{run.workflow}/{run.version}/{run.pool}"
    owner = Ownership(_RUN, "1", _OWNED, incarnation)

    new = NewRun(_RUN, run.workflow, run.version, run.pool, run.input, "", "0" * 32)
    await runs.start([new], timeout=_TIMEOUT)
    await runs.watch(_RUN, f"{prefix(client.store.namespace, 0)}inbox:{new_token()}")
    offer = ReadyEntry(stream, _ENTRY, _RUN, "0")
    await runs.claim([offer], [_TOKEN], incarnation, quarantine=False)
    for key, step in steps:
        rest = entry_rest(step.seq, step.attempts, step.spent, step.worker, step.payload)
        entry = closed_entry(EntryKind.RESULT, _OWNED, step.written, rest)
        await runs.commit_step(owner, key, entry)
    await runs.finish(owner, Status.COMPLETED, run.result or b"", [])
    return _Calls(tuple(recorder.sent), stream)


def _made_out(command: Command, run_id: str, token: str, entry: str) -> Command:
    """Put ids and tokens into a call."""
    owned = f"1:{token}"
    parts = {_RUN: run_id, _TOKEN: token, _OWNED: owned, _ENTRY: entry}
    return tuple(
        part.replace(_OWNED.encode(), owned.encode())
        if isinstance(part, bytes)
        else parts.get(part, part)
        if isinstance(part, str)
        else part
        for part in command
    )


def _together(calls: Sequence[Command], own: int) -> Command:
    """Make one call of several, in each of which so many arguments, the last, are a run's own."""
    first, *others = calls
    return (*first, *(part for call in others for part in call[-own:]))


def _check(script: str, replies: Sequence[Any]) -> None:
    """Refuse to measure calls that did not do what those of a run do."""
    if script in _OF_MANY:
        replies = [answer for reply in replies for answer in reply]
    wanted = _DONE.get(script, 0)
    for reply in replies:
        word: object = cast("list[object]", reply)[0] if isinstance(reply, list) else reply
        if word != wanted:
            raise RuntimeError(f"{script} answered {reply!r}")
