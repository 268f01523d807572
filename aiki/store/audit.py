"""A look at everything that is stored, for what should not be there or is not as it should."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from aiki.states import Status
from aiki.store.batch import Link
from aiki.store.scripts import SCRIPTS

_COUNT = 200  # keys or members for one script: some milliseconds of the server
_PATIENCE = 30.0
_WALKS = 3  # to mend: what was mended may show what else there is

# Every key that may be there; a run's own keys name it.
KEYS = (
    r"run:(?P<run>[^:]+)(:journal|:mailbox|:seen|:answers|:children|:map:.+|:stream:[^:]+)?",
    r"idem:[^/{}]+",
    r"ready:[^/:]+/[^/:]+/[^/:]+(/quarantine)?",
    rf"index:(active|{'|'.join(Status)})/[^/:]+",
    r"tag:.+",
    r"worker:[^:]+(:runs|:streams|:notices)?",
    r"schedule:[^:/{}]+",
    r"meta|streams|schedules|timers|workers|supervisors|quarantine|pulse|sweep|unserved|cascades",
)
_ANY = re.compile("|".join(KEYS))
_RECORD = re.compile(r"run:[^:]+")
# Those whose members are looked at one by one.
_PARTED = re.compile(
    r"(index|tag|ready):.+|worker:[^:]+:runs|run:[^:]+:journal|timers|quarantine|schedules|workers"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    what: str
    """A run's id, or a key without what all keys begin with."""
    problem: str
    can_be_mended: bool = False
    is_mended: bool = False


@dataclass(slots=True)
class Findings:
    """What an audit has found, and how much it has looked at."""

    keys: int = 0
    runs: int = 0
    found: dict[Finding, None] = field(default_factory=dict[Finding, None])
    """In the order of finding, each once."""

    @property
    def left(self) -> list[Finding]:
        """What is wrong still."""
        return [each for each in self.found if not each.is_mended]


class Audit:
    """The audit of one partition."""

    def __init__(self, link: Link, base: str) -> None:
        self._link = link
        self._base = base

    async def audit(self, *, mend: bool = False) -> Findings:
        """Look at everything once, a few keys at a time; workers may go on meanwhile.

        Each key is judged in one step of the store, so what changes meanwhile is no finding. With
        `mend` it is done again until nothing is mended any more; what is told to be left is from
        the last look. Raises `StoreUnavailable` and `StoreRefused`.
        """
        findings = await self._walk(mend=mend)
        if mend:
            for _ in range(_WALKS):
                again = await self._walk(mend=True)
                mended = [each for each in findings.found if each.is_mended]
                again.found = dict.fromkeys(mended) | again.found
                findings = again
                if len([each for each in again.found if each.is_mended]) == len(mended):
                    break
        return findings

    async def _walk(self, *, mend: bool) -> Findings:
        findings, cursor = Findings(), "0"
        while True:
            cursor, names = await self._look("", cursor, findings, mend=mend)
            findings.keys += len(names)
            findings.runs += sum(_RECORD.fullmatch(name) is not None for name in names)
            for name in names:
                if _ANY.fullmatch(name) is None:
                    findings.found[Finding(name, "is no key of aiki's")] = None
            parted = [name for name in names if _PARTED.fullmatch(name)]
            await asyncio.gather(*(self._look_into(name, findings, mend=mend) for name in parted))
            if cursor == "0":
                return findings

    async def _look_into(self, name: str, findings: Findings, *, mend: bool) -> None:
        cursor = "0"
        while True:
            cursor, _ = await self._look(name, cursor, findings, mend=mend)
            if cursor == "0":
                return

    async def _look(
        self, name: str, cursor: str, findings: Findings, *, mend: bool
    ) -> tuple[str, list[str]]:
        arguments = (name, cursor, str(_COUNT), "1" if mend else "")
        command = ("EVALSHA", SCRIPTS["audit"].sha, "1", self._base, *arguments)
        reply: Any = await self._link.send_within(command, _PATIENCE)
        words = [_text(part) for part in reply[2]]
        for what, problem, can in zip(words[::3], words[1::3], words[2::3], strict=True):
            is_mendable = can == "1"
            finding = Finding(
                what, problem, can_be_mended=is_mendable, is_mended=is_mendable and mend
            )
            findings.found[finding] = None
        return _text(reply[0]), [_text(key) for key in reply[1]]


def _text(part: bytes) -> str:
    return part.decode(errors="backslashreplace")
