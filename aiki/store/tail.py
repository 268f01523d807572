"""What this process was told is stored, last of all: what a server must have, or it went back.

A failover to a replica that lagged, a restored backup and a cut-off log have in common that what
is stored is what was stored at some earlier time. So, if the last thing that was acknowledged is
there, everything is; and if not, what is missing is found by going back, until something is there.

An owner whose last step is gone must write nothing more: a later step would be recorded beside a
gap, and the run would have a history that never was. It is fenced here, and the run goes on from
where the store has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiki.errors import StoreRefused
from aiki.store.connection import Command
from aiki.store.scripts import SCRIPTS

_logger = logging.getLogger("aiki.store")

REMEMBERED = 4096  # more than a process hosts, and what it starts within seconds
PIECE = 64
_SHOWN = 20

_START = "start_runs"
_LEAVE = frozenset({"finish_run", "park_run", "retry_later", "stall_run", "continue_run"})
_CLOSE = frozenset({
    "commit_step", "abandon_step", "end_wait", "consume_message", "consume_end", "answer_update",
})  # fmt: skip
_OPEN = frozenset({"commit_attempt", "open_wait", "start_child", "start_children"})
_TAKEN = 3  # parts of the answer that a child's end was taken
_OWNER = 4  # where the run's id stands in a command of its owner; then come token and key
_DONE = (b"OK", b"PARKED")

NAMES = {
    text: name
    for name in {_START, *_LEAVE, *_CLOSE, *_OPEN}
    for text in (SCRIPTS[name].sha, SCRIPTS[name].source)
}


class _Write(NamedTuple):
    """The last that is known of one owner, or of a start."""

    run_id: str
    token: str
    key: str
    is_closed: bool


class Tail:
    """The acknowledged writes of one connection, each owner's last, in their order."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._writes: dict[str, tuple[Any, ...]] = {}  # what makes a `_Write`, for want of time
        self._fenced: set[str] = set()
        self._tell: list[Callable[[list[str]], None]] = []
        self.affected: list[str] = []
        """The runs that were found to be behind what was acknowledged of them."""

    def when_affected(self, tell: Callable[[list[str]], None]) -> None:
        """Have this called with the runs whose owners here were fenced."""
        self._tell.append(tell)

    def tell_no_more(self, tell: Callable[[list[str]], None]) -> None:
        """Undo `when_affected`, if it was done."""
        if tell in self._tell:
            self._tell.remove(tell)

    def acknowledged(self, name: str, command: Command, reply: Any) -> None:
        """Remember a write that was done."""
        if name in _CLOSE:
            if isinstance(reply, int) or (name == "consume_end" and len(reply) == _TAKEN):
                self._remember(command[_OWNER + 1], (*command[_OWNER : _OWNER + 3], True))
        elif name in _LEAVE:
            if reply in _DONE:
                self._remember(command[_OWNER + 1], (*command[_OWNER : _OWNER + 2], "", False))
        elif name in _OPEN:
            if not isinstance(reply, bytes):
                self._remember(command[_OWNER + 1], (*command[_OWNER : _OWNER + 3], False))
        else:
            for answer in reply:
                if answer[0] == b"OK":  # else it is one word, or about one run
                    run_id = answer[1].decode(errors="replace")
                    self._remember(run_id, (run_id, "", "", False))

    def _remember(self, name: Any, write: tuple[Any, ...]) -> None:
        writes = self._writes
        writes.pop(name, None)  # so that the newest is the last
        writes[name] = write
        if len(writes) > REMEMBERED:
            del writes[next(iter(writes))]

    def is_fenced(self, command: Command) -> bool:
        """Tell whether a command comes from an owner whose last step is gone."""
        return (
            bool(self._fenced) and len(command) > _OWNER + 1 and command[_OWNER + 1] in self._fenced
        )

    async def compare(self, ask: Callable[[Command], asyncio.Future[Any]], where: str) -> bool:
        """Look whether the server has what was acknowledged; fence the owners of what is gone.

        Tells whether anybody was fenced.
        """
        lost: list[_Write] = []
        fenced: list[_Write] = []
        newest = [_Write(*write) for write in reversed(self._writes.values())]
        for first in range(0, len(newest), PIECE):
            piece = newest[first : first + PIECE]
            answers = await asyncio.gather(*(self._is_there(write, ask) for write in piece))
            gone = next((n for n, (there, _) in enumerate(answers) if there), PIECE)
            lost += piece[:gone]
            fenced += [w for w, (_, owns) in zip(piece[:gone], answers, strict=False) if owns]
            if gone < PIECE:
                break
        for write in lost:
            del self._writes[write.token or write.run_id]
        self._fenced.update(write.token for write in fenced)
        if lost:
            self._report(lost, where)
            runs = [write.run_id for write in fenced]
            for tell in self._tell:
                tell(runs)
        return bool(fenced)

    async def _is_there(
        self, write: _Write, ask: Callable[[Command], asyncio.Future[Any]]
    ) -> tuple[bool, bool]:
        """Tell whether a write is there, and if not, whether the run is still its owner's."""
        run = f"{self._base}run:{write.run_id}"
        asked = [ask(("HMGET", run, "epoch", "token"))]
        if write.key:
            asked.append(ask(("HGET", f"{run}:journal", write.key)))
        try:
            (epoch, token), *entry = await asyncio.gather(*asked)
        except StoreRefused:  # it is damaged, which is no matter of time
            return True, False
        if epoch is None or not epoch.isdigit():
            return False, False
        if not write.token:
            return True, False
        owned = int(write.token.split(":", 1)[0])
        if token != write.token.encode():
            # Handed back, parked or over since then, or not yet claimed
            return int(epoch) >= owned, False
        if not write.key:
            return False, False  # it was left, and is not
        is_there = entry[0] is not None and not (write.is_closed and entry[0].startswith(b"o "))
        return is_there, not is_there

    def _report(self, lost: Iterable[_Write], where: str) -> None:
        started = [write.run_id for write in lost if not write.token]
        behind = list(dict.fromkeys(write.run_id for write in lost if write.token))
        self.affected += [*started, *behind]
        _logger.error(
            "%s went back in time: it has lost what it had acknowledged. Runs that were started "
            "and are gone: %s. Runs that go on from an earlier point: %s",
            where,
            _listed(started),
            _listed(behind),
        )


def _listed(run_ids: list[str]) -> str:
    more = f" and {len(run_ids) - _SHOWN} more" if len(run_ids) > _SHOWN else ""
    return (", ".join(run_ids[:_SHOWN]) + more) or "none"
