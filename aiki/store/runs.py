"""Runs in the store: one method per script, and reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiki.errors import AikiError, Conflict, DataError, NotFound, StoreRefused
from aiki.records import (
    ClaimedRun,
    DamagedRun,
    Entry,
    News,
    Ownership,
    ReadyEntry,
    RunSnapshot,
    parse_journal,
    parse_mailbox,
)
from aiki.states import Status
from aiki.store.answers import found, replaced
from aiki.store.batch import Link
from aiki.store.claimed import claimed_run
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import END, INPUT, PLAIN, Seals, bound_to, sealed_keys
from aiki.store.snapshots import PAYLOADS, TEXTS, shown, snapshot

CANCEL_WANTED = 1  # bit of a commit's reply; the other bits count what is news

_START = SCRIPTS["start_runs"].sha
_CLAIM = SCRIPTS["claim_runs"].sha
_STEP = SCRIPTS["commit_step"].sha
_ATTEMPT = SCRIPTS["commit_attempt"].sha
_BEAT = SCRIPTS["heartbeat_step"].sha
_ABANDON = SCRIPTS["abandon_step"].sha
_OPEN_WAIT = SCRIPTS["open_wait"].sha
_END_WAIT = SCRIPTS["end_wait"].sha
_CONSUME = SCRIPTS["consume_message"].sha
_ANSWER = SCRIPTS["answer_update"].sha
_NEWS = SCRIPTS["read_news"].sha
_PARK = SCRIPTS["park_run"].sha
_FINISH = SCRIPTS["finish_run"].sha
_STALL = SCRIPTS["stall_run"].sha
_RELEASE = SCRIPTS["release_run"].sha
_DETAILS = SCRIPTS["set_details"].sha
_CANCEL = SCRIPTS["request_cancel"].sha
_WATCH = SCRIPTS["watch_run"].sha


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to start."""

    id: str
    workflow: str
    version: str
    pool: str
    input: bytes
    reference: str
    input_hash: str
    more: str = ""
    """What few runs have, as `shared/start.lua` reads it."""


class Runs:
    """What may be done with the runs of one partition."""

    def __init__(self, link: Link, base: str, store_id: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._send = link.send
        self._base = base
        self._store_id = store_id
        self._seals = seals

    async def start(self, runs: Sequence[NewRun], *, timeout: float) -> list[str | AikiError]:
        """Start runs, or find those that have their idempotency keys; for each its id, or why not.

        `Conflict` says that the key belongs to a run with another input or version.

        Raises:
            StoreRefused: the store is full.
            StoreReplaced: it is another one than it was.
            StoreUnavailable: no answer within `timeout`; starting again is safe.
        """
        sent = self._sealed(runs) if self._seals.is_on else runs
        command: list[str | bytes] = ["EVALSHA", _START, "1", self._base, self._store_id]
        for run in sent:
            command += (
                run.id, run.workflow, run.version, run.pool, run.input, run.reference,
                run.input_hash, run.more,
            )  # fmt: skip
        reply = await self._link.send_within(tuple(command), timeout)
        if reply[0] == b"STORE":
            raise replaced(self._link.address.described)
        outcomes = [self._started(run, *answer) for run, answer in zip(runs, reply, strict=True)]
        if self._seals.is_on:
            for number, outcome in enumerate(outcomes):
                if isinstance(outcome, Conflict):
                    outcomes[number] = await self._judged(runs[number], outcome, timeout)
        return outcomes

    def _sealed(self, runs: Sequence[NewRun]) -> list[NewRun]:
        """Give runs of which the store gets to know neither inputs nor plain digests of them."""
        seals = self._seals
        return [
            replace(
                run,
                input=seals.payload(run.input, run.id, INPUT),
                input_hash=seals.digest(run.input_hash),
            )
            for run in runs
        ]

    async def _judged(self, run: NewRun, conflict: Conflict, timeout: float) -> str | AikiError:
        """Tell another input from the same one that was hashed with another key, or with none."""
        key = f"{self._base}idem:{run.workflow}:{run.reference}"
        known = await self._link.send_within(("HGET", key, "hash"), timeout)
        return conflict.run_id if self._seals.is_same(run.input_hash, known) else conflict

    def _started(self, run: NewRun, word: bytes, rest: bytes) -> str | AikiError:
        told = rest.decode(errors="backslashreplace")
        if word == b"OK" and rest.isascii():
            return told
        if word == b"CONFLICT":
            return Conflict(
                f"idempotency key {run.reference!r} of workflow {run.workflow!r} belongs to run "
                f"{told}, which was started with another input or version; use a new key, or "
                'on_conflict="return_existing" to get that run',
                run_id=told,
            )
        if word == b"GONE":
            return NotFound(f"run {run.id} was deleted; to start it again does not undo that")
        return StoreRefused(
            f"{self._link.address.described}: what is stored for run {run.id} or its idempotency "
            f"key is damaged: {told}"
        )

    def claim(
        self,
        entries: Sequence[ReadyEntry],
        tokens: Sequence[str],
        incarnation: str,
        *,
        quarantine: bool,
    ) -> asyncio.Future[Any]:
        """Ask for the runs that entries of one stream offer; `claimed` reads the reply."""
        command = [
            "EVALSHA", _CLAIM, "1", self._base, entries[0].stream, incarnation,
            "1" if quarantine else "0",
        ]  # fmt: skip
        for entry, token in zip(entries, tokens, strict=True):
            command += (entry.entry, entry.run_id, entry.epoch, token)
        return self._send(tuple(command))

    def claimed(
        self, entries: Sequence[ReadyEntry], tokens: Sequence[str], incarnation: str, reply: Any
    ) -> list[ClaimedRun | DamagedRun | StoreRefused | bytes]:
        """Give for each entry the run that is handed over; else the script's word why not."""
        return [
            self._claimed(entry, token, incarnation, answer)
            for entry, token, answer in zip(entries, tokens, reply, strict=True)
        ]

    def _claimed(
        self, entry: ReadyEntry, token: str, incarnation: str, answer: Any
    ) -> ClaimedRun | DamagedRun | StoreRefused | bytes:
        if answer[0] == b"REFUSED":
            why = answer[1].decode(errors="replace")
            return StoreRefused(f"{self._link.address.described}: {why}")
        if answer[0] != b"RUN":
            word: bytes = answer[0]
            return word
        return claimed_run(entry, token, incarnation, answer, self._seals)

    def commit_step(self, owner: Ownership, key: str, entry: bytes) -> Awaitable[int | bytes]:
        """Record how a step ended; flags, or the script's word why not."""
        if self._seals.is_on:
            entry = self._seals.entry(owner.bound_to, key, entry)
        return self._send(
            ("EVALSHA", _STEP, "1", self._base, owner.run_id, owner.token, key, entry)
        )

    async def commit_attempt(
        self, owner: Ownership, key: str, delay_ms: int, rest: bytes
    ) -> int | bytes:
        """Record a failed attempt and when the next is due; flags, or the word why not."""
        if self._seals.is_on:
            rest = self._seals.entry(owner.bound_to, key, rest)
        reply: int | bytes = await self._send((
            "EVALSHA", _ATTEMPT, "1", self._base, owner.run_id, owner.token, key, delay_ms, rest,
        ))  # fmt: skip
        return reply

    async def heartbeat_step(self, owner: Ownership, key: str, rest: bytes) -> int | bytes:
        """Record that an attempt is under way and what it said; flags, or the word why not."""
        if self._seals.is_on:
            rest = self._seals.entry(owner.bound_to, key, rest)
        command = ("EVALSHA", _BEAT, "1", self._base, owner.run_id, owner.token, key, rest)
        reply: int | bytes = await self._send(command)
        return reply

    async def abandon_step(
        self, owner: Ownership, key: str, entry: bytes, *, deliver_cancel: bool = False
    ) -> int | bytes:
        """Record that a step is not waited for any more; flags, or the word why not."""
        reply: int | bytes = await self._send((
            "EVALSHA", _ABANDON, "1", self._base, owner.run_id, owner.token, key, entry,
            "1" if deliver_cancel else "0",
        ))  # fmt: skip
        return reply

    async def open_wait(
        self,
        owner: Ownership,
        key: str,
        rest: bytes,
        *,
        lasts_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Any:
        """Record that the run waits for a time: flags and the ms left, or the word why not."""
        lasts, until = ("" if ms is None else str(ms) for ms in (lasts_ms, until_ms))
        return await self._send((
            "EVALSHA", _OPEN_WAIT, "1", self._base, owner.run_id, owner.token, key, lasts, until,
            rest,
        ))  # fmt: skip

    async def end_wait(
        self, owner: Ownership, key: str, entry: bytes, *, seen: int | None, woken: bool
    ) -> Any:
        """Record that a wait is over: flags; EARLY with the ms left; NEWS; or the word why not."""
        if self._seals.is_on:
            entry = self._seals.entry(owner.bound_to, key, entry)
        return await self._send((
            "EVALSHA", _END_WAIT, "1", self._base, owner.run_id, owner.token, key, entry,
            "" if seen is None else str(seen), "1" if woken else "0",
        ))  # fmt: skip

    async def consume_message(
        self, owner: Ownership, key: str, entry: bytes, number: int
    ) -> int | bytes:
        """Take a message into the journal: flags, or the word why not."""
        if self._seals.is_on:
            entry = self._seals.entry(owner.bound_to, key, entry)
        reply: int | bytes = await self._send((
            "EVALSHA", _CONSUME, "1", self._base, owner.run_id, owner.token, key, entry,
            str(number),
        ))  # fmt: skip
        return reply

    async def answer_update(
        self, owner: Ownership, key: str, entry: bytes, told: bytes
    ) -> int | bytes:
        """Record the answer to an update and tell it: flags, or the word why not."""
        if self._seals.is_on:
            entry = self._seals.entry(owner.bound_to, key, entry)
            told = self._seals.answer(owner.run_id, told)
        reply: int | bytes = await self._send(
            ("EVALSHA", _ANSWER, "1", self._base, owner.run_id, owner.token, key, entry, told)
        )
        return reply

    async def read_news(self, owner: Ownership, seen: int) -> tuple[News, bool] | None:
        """Tell what is new to an owner, and whether a cancel is to be met; None if fenced.

        Raises:
            DataError: the mailbox is damaged, or cannot be opened.
        """
        reply = await self._send(
            ("EVALSHA", _NEWS, "1", self._base, owner.run_id, owner.token, str(seen))
        )
        if reply == b"FENCED":
            return None
        count, wakes, cancel, cancel_at, mailbox, pause = reply
        try:
            mail = parse_mailbox(mailbox)
            news = News(int(count), int(wakes), mail, pause == b"1")
        except ValueError as error:
            raise DataError(f"the mailbox of run {owner.run_id} is damaged: {error}") from None
        if mail:
            news = replace(news, mail=self._seals.opened_mail(owner.run_id, mail))
        return news, cancel is not None and cancel_at is None

    async def park(
        self,
        owner: Ownership,
        status: Status,
        seen: int,
        waits: Sequence[str],
        timed: Sequence[str],
    ) -> bytes:
        """Leave the worker until a recorded time comes, or news: PARKED, STAY or FENCED."""
        reply: bytes = await self._send((
            "EVALSHA", _PARK, "1", self._base, owner.run_id, owner.token,
            owner.incarnation, status.value, str(seen), "\n".join(waits), *timed,
        ))  # fmt: skip
        return reply

    async def finish(
        self,
        owner: Ownership,
        status: Status,
        payload: bytes,
        abandoned: Sequence[tuple[str, bytes]],
    ) -> bytes:
        """End the run: OK or FENCED. `abandoned` are the steps still pending."""
        if self._seals.is_on:
            payload = self._seals.payload(payload, owner.run_id, END)
        reply: bytes = await self._send((
            "EVALSHA", _FINISH, "1", self._base, owner.run_id, owner.token,
            owner.incarnation, status.value, payload,
            *(part for pair in abandoned for part in pair),
        ))  # fmt: skip
        return reply

    async def stall(self, owner: Ownership, reason: str, *, is_open: bool = False) -> bytes:
        """Hold the run until somebody repairs it: OK or FENCED.

        The reason may quote data, and is sealed as that is, unless it is to be `is_open`.
        """
        if self._seals.is_on and not is_open:
            reason = self._seals.reason(reason, owner.run_id)
        reply: bytes = await self._send((
            "EVALSHA", _STALL, "1", self._base, owner.run_id, owner.token,
            owner.incarnation, reason,
        ))  # fmt: skip
        return reply

    async def release(self, run_id: str, epoch: str, incarnation: str) -> bytes:
        """Hand a run back: OK or STALE."""
        reply: bytes = await self._send(
            ("EVALSHA", _RELEASE, "1", self._base, run_id, epoch, incarnation)
        )
        return reply

    async def set_details(self, owner: Ownership, text: str) -> bytes:
        """Say what the run is at: OK or FENCED."""
        reply: bytes = await self._send(
            ("EVALSHA", _DETAILS, "1", self._base, owner.run_id, owner.token, text)
        )
        return reply

    async def request_cancel(self, run_id: str, reason: str, *, timeout: float) -> Status:
        """Ask a run to end and return the status it has now.

        Raises:
            NotFound: there is no such run.
        """
        command = ("EVALSHA", _CANCEL, "1", self._base, run_id, reason)
        return Status(found(run_id, await self._link.send_within(command, timeout)).decode())

    async def watch(self, run_id: str, inbox: str) -> tuple[Status, bytes] | None:
        """Give a run's end; None where it is to come, and will be told to the inbox.

        In both cases its outcome is as it is stored: `end` reads it.

        Raises:
            NotFound: there is no such run.
        """
        reply = await self._send(("EVALSHA", _WATCH, "1", self._base, run_id, inbox))
        word = found(run_id, reply[0])
        return None if len(reply) == 1 else (Status(word.decode()), reply[1])

    def end(self, run_id: str, status: Status, outcome: bytes) -> bytes:
        """Give the outcome of a run by its stored form. Raises `UnknownKey` and `Tampered`."""
        if status is Status.CANCELLED:
            return outcome  # the reason of a cancel is never sealed
        return self._seals.opened(outcome, run_id, END)

    async def outcome(self, run_id: str) -> tuple[Status, bytes] | None:
        """Look whether a run is over, and tell nobody that somebody waits for it.

        Raises:
            NotFound: there is no such run.
        """
        fields = ("status", "result", "failure")
        status, *outcomes = await self._send(("HMGET", f"{self._base}run:{run_id}", *fields))
        word = Status(found(run_id, b"NONE" if status in (None, b"deleted") else status).decode())
        return (word, outcomes[0] or outcomes[1] or b"") if word.is_final else None

    async def snapshot(self, run_id: str, *, timeout: float) -> RunSnapshot:
        """Read a run's record; a payload that cannot be opened stays as it is stored.

        Raises:
            NotFound: there is no such run.
        """
        command = ("HMGET", f"{self._base}run:{run_id}", *TEXTS, *PAYLOADS, "seed")
        *reply, seed = await self._link.send_within(command, timeout)
        if reply[0] is None:
            found(run_id, b"NONE")
        return shown(snapshot(run_id, reply), self._seals, bound_to(run_id, seed))

    async def snapshots(self, run_ids: Sequence[str], *, timeout: float) -> list[RunSnapshot]:
        """Read several records without their payloads; runs removed meanwhile are left out."""
        futures = [
            self._link.send_within(("HMGET", f"{self._base}run:{run_id}", *TEXTS), timeout)
            for run_id in run_ids
        ]
        replies = await asyncio.gather(*futures)
        pairs = zip(run_ids, replies, strict=True)
        read = [snapshot(run_id, reply) for run_id, reply in pairs if reply[0] is not None]
        return [shown(run, self._seals, run.id) for run in read]

    async def journal(self, run_id: str, *, timeout: float) -> dict[str, Entry]:
        """Read what is recorded of a run's steps, by `address#n`.

        What is encrypted with a key that is not known here stays as it is stored.
        """
        command = ("HGETALL", f"{self._base}run:{run_id}:journal")
        entries = parse_journal(await self._link.send_within(command, timeout))
        if sealed_keys(entries):
            reading = ("HGET", f"{self._base}run:{run_id}", "seed")
            seed = await self._link.send_within(reading, timeout)
            self._seals.show_entries(bound_to(run_id, seed), entries)
        return entries
