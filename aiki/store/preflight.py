"""What a server must be before runs are trusted to it, checked at every connection made."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiki.errors import StoreRefused
from aiki.store.batch import Link
from aiki.store.connection import CONFIRMATIONS, Command
from aiki.store.rights import Role, commands
from aiki.store.scripts import SCRIPTS

_logger = logging.getLogger("aiki.store")

OLDEST = (7, 0)
ASSUME = "AIKI_ASSUME_NOEVICTION"
_PATIENCE = 5.0


class Preflight:
    """The findings of the last check."""

    def __init__(self, base: str, role: Role = Role.SUPERVISOR) -> None:
        self._base = base
        self.role = role
        """What the user of the server is to have the rights for."""
        self.guarantee = ""
        self._warned = False
        self._may_ask = False
        self._server = ""

    async def check(self, link: Link) -> None:
        """Load the scripts and refuse a server that could lose or mistake runs.

        Raises:
            StoreRefused: with every finding at once.
        """
        info: dict[str, str] | None = None
        try:
            info = _parse(await link.immediately(("INFO", "everything")))
        except StoreRefused as refusal:
            if os.environ.get(ASSUME) != "1":
                raise StoreRefused(
                    f"whether this server may evict keys cannot be verified ({refusal}); allow "
                    f"INFO, as `aiki acl {self.role}` does, or set {ASSUME}=1 if you know that "
                    "its policy is noeviction"
                ) from None
        # Of an old server or a replica, what it says of our scripts is of no use.
        findings = [] if info is None else _other_server(info)
        if not findings:
            findings = [*(_eviction(info) if info else ()), *await self._refusals(link)]
            findings += await _unconfirmable(link)
        if findings:
            raise _unfit(link, findings)
        self.guarantee = _CONFIRMED.get(link.address.durability) or await self._said(link, info)
        self._may_ask = info is not None
        server = (info or {}).get("run_id", "")
        if not server or server != self._server:  # another one, or restarted from what was on disk
            await link.compare()
        self._server = server
        policy = (info or {}).get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not self._warned:
            self._warned = True
            _logger.warning(
                "%s would evict keys by %s once a maxmemory is set; set it to noeviction",
                link.address.described,
                policy,
            )

    async def look_again(self, link: Link) -> list[str]:
        """Ask whether the server that is in use may evict keys by now; what is wrong, if anything.

        Raises:
            StoreUnavailable: no answer in time.
        """
        if not self._may_ask:
            return []
        return _eviction(_parse(await link.send_within(("INFO", "memory"), _PATIENCE)))

    async def require(self, link: Link, role: Role) -> None:
        """Have a role more checked: now, and whenever a connection is made.

        Raises:
            StoreRefused: the user may not do all that it takes.
        """
        if self.role.covers(role):
            return
        refused = _refused(await link.send(self._trial(role)), role)
        if refused:
            raise _unfit(link, refused)
        self.role = role

    async def _refusals(self, link: Link) -> list[str]:
        """Load the scripts, and hear which of their commands would be refused."""
        if self.role is Role.READER:
            replies = await asyncio.gather(
                *(link.immediately(command) for command in self._reads()), return_exceptions=True
            )
            return _refused([each for each in replies if _is_forbidden(each)], self.role)
        try:
            loads = [("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()]
            await asyncio.gather(*(link.immediately(load) for load in loads))
            return _refused(await link.immediately(self._trial(self.role)), self.role)
        except StoreRefused as refusal:
            return _refused([refusal], self.role)

    def _trial(self, role: Role) -> Command:
        return ("EVALSHA", SCRIPTS["try_commands"].sha, "1", self._base, *commands(role))

    def _reads(self) -> list[Command]:
        """Try what a reader sends, on a key that is not there."""
        key = f"{self._base}preflight:none"
        return [
            ("TIME",), ("HGET", key, "field"), ("HMGET", key, "field"), ("HGETALL", key),
            ("SMEMBERS", key), ("ZCARD", key), ("ZRANGE", key, "0", "0"), ("XLEN", key),
            ("XRANGE", key, "-", "+"), ("XINFO", "CONSUMERS", key, "workers"),
        ]  # fmt: skip

    async def _said(self, link: Link, info: dict[str, str] | None) -> str:
        """Say in words what an acknowledged write has survived."""
        if info is None:
            return "durability unknown: INFO is not permitted"
        if info.get("aof_enabled") != "1":
            return (
                "without an append-only file: a crash of the server may lose what is not in a dump"
            )
        policy: Sequence[bytes] = ()
        if self.role is Role.SUPERVISOR:  # which says it, and of the others few may ask
            with suppress(StoreRefused):
                policy = await link.immediately(("CONFIG", "GET", "appendfsync"))
        known = _POLICIES.get(policy[1]) if len(policy) > 1 else None
        return known or "append-only file on"


def _unfit(link: Link, findings: Sequence[str]) -> StoreRefused:
    return StoreRefused(f"{link.address.whereabouts} cannot be used: " + "; ".join(findings))


def _is_forbidden(reply: object) -> bool:
    return isinstance(reply, StoreRefused) and "NOPERM" in str(reply)


def _refused(replies: Sequence[object], role: Role) -> list[str]:
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in replies]
    findings = [f"it refuses what the scripts need ({each})" for each in words]
    if findings:
        findings.append(f"`aiki acl {role}` prints all that its user must be allowed")
    return findings


def _parse(reply: Any) -> dict[str, str]:
    lines = reply.decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and line[0] != "#")


def _other_server(info: dict[str, str]) -> list[str]:
    findings: list[str] = []
    version = info.get("redis_version", "of unknown version")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        findings.append(f"it is Redis {version}, and 7.0 is the oldest that works")
    if info.get("role") != "master":
        findings.append("it is a replica; connect to the primary")
    return findings


def _eviction(info: dict[str, str]) -> list[str]:
    policy = info.get("maxmemory_policy", "unknown")
    if info.get("maxmemory") == "0" or policy == "noeviction":
        return []
    return [f"it evicts keys when memory is full (maxmemory-policy {policy}); set it to noeviction"]


async def _unconfirmable(link: Link) -> list[str]:
    """Try to have a write confirmed; that nobody does so just now is no finding."""
    command = CONFIRMATIONS.get(link.address.durability)
    if command is None:
        return []
    try:
        await link.immediately((*command[:-1], "1"))
    except StoreRefused as refusal:
        return [f"it cannot give durability={link.address.durability} ({refusal})"]
    return []


_CONFIRMED = {
    "fsync": "an acknowledged write is on the disk of the primary",
    "replicated": "an acknowledged write is at the primary and at a replica at least",
}
_POLICIES = {
    b"always": "an acknowledged write is on disk",
    b"everysec": "a power cut may lose the last second, a crash of a process loses nothing",
    b"no": "a power cut may lose what the system has not written yet",
}
