"""Schedules in the store: one method per script, and reading."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from aiki.envelope import SEALED
from aiki.errors import Conflict, NotFound
from aiki.records import DueSchedule, ScheduleRecord, StoredSchedule
from aiki.store.answers import replaced
from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import INPUT, PLAIN, Seals

BATCH = 20
HOLD = 2000  # ms for which who took a schedule may take to fire it, before others try too
CHANNEL = "schedules"  # of hints: ms until one is due, or a run that one waited for and its end
_RECORD = (
    "workflow", "version", "pool", "overlap", "digest", "planned", "paused", "note", "created",
    "buffer", "running", "recent", "started", "skipped", "dropped", "missed", "timing", "input",
)  # fmt: skip


class Schedules:
    """What may be done with the schedules of one partition."""

    def __init__(self, link: Link, base: str, store_id: str, seals: Seals = PLAIN) -> None:
        self._link = link
        self._base = base
        self._store_id = store_id
        self._seals = seals

    async def now(self, *, timeout: float) -> int:
        """Ask for the server's time, in milliseconds."""
        seconds, micros = await self._link.send_within(("TIME",), timeout)
        return int(seconds) * 1000 + int(micros) // 1000

    # What users ask for

    async def activate(
        self, new: StoredSchedule, planned: int, due: int, *, replace: bool, timeout: float
    ) -> None:
        """Make a schedule, or find that it is there.

        Raises:
            Conflict: its id has another definition, and it is not to be replaced.
            StoreRefused: the store is full.
            StoreReplaced: it is another one than it was.
        """
        given, digest = new.input, new.digest
        if self._seals.is_on:
            given = self._seals.codec.seal(given, "", INPUT, schedule=new.id)
            digest = self._seals.digest(digest)
        word = self._same_store(
            await self._script(
                "activate_schedule", self._store_id, new.id, digest, "1" if replace else "0",
                planned, due, new.workflow, new.version, new.pool, given, new.overlap,
                new.timing, new.more, timeout=timeout,
            )
        )  # fmt: skip
        if word == b"CONFLICT" and not await self._is_same(new, timeout=timeout):
            raise Conflict(
                f"schedule {new.id!r} is active with another definition; give this one another "
                'name, or replace that one with on_conflict="replace"'
            )

    async def _is_same(self, new: StoredSchedule, *, timeout: float) -> bool:
        """Tell whether there is the same definition, hashed with another key or with none."""
        if not self._seals.is_on:
            return False
        key = f"{self._base}schedule:{new.id}"
        known = await self._link.send_within(("HGET", key, "digest"), timeout)
        return self._seals.is_same(new.digest, known)

    async def trigger(
        self, schedule: str, overlap: str, run_id: str, occurrence: int, *, timeout: float
    ) -> tuple[str, list[str]]:
        """Start an occurrence by hand: what became of it, and runs to be asked to end.

        Raises:
            NotFound: there is no such schedule.
        """
        reply = await self._script(
            "trigger_schedule", self._store_id, schedule, overlap, run_id, occurrence,
            timeout=timeout,
        )  # fmt: skip
        word, *others = [part.decode() for part in reply]
        self._same_store(word.encode())
        _found(schedule, word.encode())
        return word, others

    async def pause(self, schedule: str, note: str, *, timeout: float) -> None:
        """Let nothing start. Raises `NotFound`."""
        _found(schedule, await self._script("pause_schedule", schedule, note, timeout=timeout))

    async def resume(
        self, schedule: str, digest: str, planned: int, due: int, *, timeout: float
    ) -> bool:
        """Let it go on; False where its definition is not the one decided by. Raises `NotFound`."""
        word = await self._script(
            "resume_schedule", schedule, digest, planned, due, timeout=timeout
        )
        return _found(schedule, word) != b"CHANGED"

    async def delete(self, schedule: str, *, timeout: float) -> None:
        """Forget it, whether or not it is there."""
        await self._script("delete_schedule", schedule, timeout=timeout)

    # What housekeeping does

    async def take(self) -> tuple[int, float | None, list[DueSchedule]]:
        """Take what is to be looked at: the server's time, seconds to the next, and which."""
        now, left, *found = await self._script("take_schedules", BATCH, HOLD)
        due = [
            DueSchedule(
                row[0].decode(errors="replace"),
                row[1].decode(errors="replace"),
                _number(row[2]),
                _number(row[3]),
                row[4],
                row[5] == b"1",
            )
            for row in found
        ]
        return int(now), int(left) / 1000 if left else None, due

    async def fire(
        self, due: DueSchedule, planned: int, due_next: int, *, missed: int, run_id: str
    ) -> tuple[str, list[str]]:
        """Let a planned time pass: the script's word, and runs to be asked to end."""
        reply = await self._script(
            "fire_schedule", self._store_id, due.id, due.digest, due.planned, planned, due_next,
            missed, run_id,
        )  # fmt: skip
        self._same_store(reply[0])
        return reply[0].decode(), [part.decode() for part in reply[1:]]

    async def tend(self, schedule: str) -> tuple[str, list[str]]:
        """Start what is buffered if it may: the script's word, and runs to be asked to end."""
        reply = await self._script("tend_schedule", self._store_id, schedule)
        self._same_store(reply[0])
        return reply[0].decode(), [part.decode() for part in reply[1:]]

    # Reading

    async def of_run(self, run_id: str) -> str | None:
        """Name the schedule that started a run."""
        found = await self._link.send(("HGET", f"{self._base}run:{run_id}", "schedule"))
        return None if found is None else found.decode(errors="replace")

    async def dues(self, *, timeout: float) -> dict[str, float]:
        """Say when each schedule is due: in that order, those that are paused last."""
        found = await self._link.send_within(
            ("ZRANGE", self._base + "schedules", "0", "-1", "WITHSCORES"), timeout
        )
        return {
            name.decode(): float(due) for name, due in zip(found[::2], found[1::2], strict=True)
        }

    async def record(self, schedule: str, *, timeout: float) -> ScheduleRecord:
        """Read a schedule. Raises `NotFound`."""
        (found,) = await self.records([schedule], timeout=timeout)
        if found is None:
            _found(schedule, b"NONE")
            raise AssertionError
        return found

    async def records(
        self, schedules: Sequence[str], *, timeout: float
    ) -> list[ScheduleRecord | None]:
        """Read several; None in the place of one that is gone."""
        replies = await asyncio.gather(
            *(
                self._link.send_within(("HMGET", f"{self._base}schedule:{each}", *_RECORD), timeout)
                for each in schedules
            )
        )
        return [
            None if reply[4] is None else self._shown(_record(schedule, reply))
            for schedule, reply in zip(schedules, replies, strict=True)
        ]

    def _shown(self, record: ScheduleRecord) -> ScheduleRecord:
        if not record.input.startswith(SEALED):
            return record
        given = self._seals.shown(record.input, "", INPUT) or b""
        return dataclasses.replace(record, input=given)

    async def statuses(self, run_ids: Sequence[str], *, timeout: float) -> list[str | None]:
        """Read the statuses of runs; None in the place of one that is gone."""
        replies = await asyncio.gather(
            *(
                self._link.send_within(("HGET", f"{self._base}run:{run_id}", "status"), timeout)
                for run_id in run_ids
            )
        )
        return [None if reply is None else reply.decode() for reply in replies]

    async def _script(
        self, name: str, *arguments: str | bytes | int, timeout: float | None = None
    ) -> Any:
        command = ("EVALSHA", SCRIPTS[name].sha, "1", self._base, *arguments)
        if timeout is None:
            return await self._link.send(command)
        return await self._link.send_within(command, timeout)

    def _same_store(self, word: bytes) -> bytes:
        if word == b"STORE":
            raise replaced(self._link.address.described)
        return word


def _found(schedule: str, word: bytes) -> bytes:
    if word == b"NONE":
        raise NotFound(f"there is no schedule {schedule!r}; it was never activated, or was deleted")
    return word


def _record(schedule: str, reply: list[Any]) -> ScheduleRecord:
    text = [b"" if value is None else value for value in reply]
    plain = [value.decode(errors="replace") for value in text[:16]]
    workflow, version, pool, overlap, digest, planned, paused, note, created = plain[:9]
    buffer, _, recent, *counts = plain[9:]
    started, skipped, dropped, missed = (int(count or "0") for count in counts)
    return ScheduleRecord(
        id=schedule,
        workflow=workflow,
        version=version,
        pool=pool,
        overlap=overlap,
        digest=digest,
        planned=int(planned or "0"),
        paused=paused == "1",
        note=note,
        created=int(created or "0"),
        buffer=_pairs(buffer),
        recent=_pairs(recent),
        started=started,
        skipped=skipped,
        dropped=dropped,
        missed=missed,
        timing=text[16],
        input=text[17],
    )


def _pairs(lines: str) -> list[tuple[str, int]]:
    """Read lines that begin with a run's id and an occurrence."""
    words = [line.split(" ") for line in lines.splitlines()]
    return [(run_id, int(occurrence)) for run_id, occurrence, *_ in words]


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
