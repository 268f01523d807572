"""A run's recorded steps, and which of them a step that is asked for continues.

A step's address is its name and a hash of its input; each address holds numbered entries. Equal
steps are numbered in the order in which the handler asks for them, which a replay repeats. So
each branch of a `gather` finds its own: a step that was under way when its owner died leaves a
gap, and is executed again, while the equal steps of other branches have their results.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiki.errors import LimitExceeded
from aiki.records import Entry, EntryKind

MAX_ENTRIES = 10_000
_OUTCOMES = frozenset(EntryKind) - {EntryKind.OPEN, EntryKind.NOTE, EntryKind.ABANDONED}


class Journal:
    """The recorded steps of one run, consumed as its handler asks for them again."""

    def __init__(self, entries: Mapping[str, Entry], cancel_at: str | None) -> None:
        self._untaken = dict(entries)
        self._cancel_at = cancel_at
        self._asked: dict[str, int] = {}
        self._met_new = False
        self._taken = 0
        self.size = sum(len(entry.payload) for entry in entries.values())

    @property
    def taken(self) -> int:
        """How many steps the handler has asked for."""
        return self._taken

    @property
    def is_repeated(self) -> bool:
        """Whether the handler has yet to ask for a step beyond what is recorded."""
        return bool(self._untaken) and not self._met_new

    def unconsumed(self) -> list[str]:
        """Name the recorded outcomes that were not asked for, in the order of their making.

        Steps that were abandoned do not count: nothing that runs before one is asked for again
        can contradict it, since it gives no result. Where the cancel was delivered does count.
        Notes do not either: they are asked for at once or not at all.
        """
        found = [
            (entry.seq, key)
            for key, entry in self._untaken.items()
            if entry.kind in _OUTCOMES or key == self._cancel_at
        ]
        return [key for _, key in sorted(found)]

    def peek(self, address: str) -> tuple[str, Entry | None]:
        """Give the key of the next step at an address, and what is recorded, without taking it."""
        key = f"{address}#{self._asked.get(address, 0)}"
        return key, self._untaken.get(key)

    def take(self, address: str, *, is_note: bool = False) -> tuple[str, Entry | None]:
        """Give the next step at an address its key, and what is recorded under it.

        A note that is not there says nothing of how far the handler has come: it may be new code.
        Raises LimitExceeded for a step too many.
        """
        number = self._asked.get(address, 0)
        self._asked[address] = number + 1
        key = f"{address}#{number}"
        entry = self._untaken.pop(key, None)
        self._taken += 1
        if entry is None:
            self._met_new = self._met_new or not is_note
            # Counted as they are asked for, not as they are recorded: a replay repeats that, and
            # steps that are under way at once are as many.
            if self._taken > MAX_ENTRIES:
                raise LimitExceeded(
                    f"the run has asked for {MAX_ENTRIES} steps, the most a run may have; split "
                    "the work over several runs"
                )
        return key, entry
