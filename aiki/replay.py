"""Noticing when a run's code no longer fits what is recorded of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiki.journal import Journal
from aiki.operation import Operations, State
from aiki.rounds import Rounds

WATCH_EVERY = 1.0


class Replay:
    """Watches a handler that repeats what is recorded."""

    def __init__(
        self,
        journal: Journal,
        rounds: Rounds,
        operations: Operations,
        *,
        divergence_after: float,
        on_diverged: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._rounds = rounds
        self._operations = operations
        self._limit = divergence_after
        self._on_diverged = on_diverged
        self._loop = asyncio.get_running_loop()
        self._watched = 0.0
        self._watching: asyncio.Handle | None = None
        self._quiet = 0.0

    def asked(self) -> None:
        """Note that the handler asked for a step: it goes on."""
        self._quiet = 0.0

    def watch(self) -> None:
        """Look from now on whether the code still fits what is recorded."""
        if self._watching is None:
            self._watching = self._loop.call_later(WATCH_EVERY, self._check)

    def stop(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()

    def _check(self) -> None:
        """Judge the code once a second while it waits for what may never come.

        A look stands for one second however late it came: a loop that stood still does not make
        the handler slow. Nor does a store that is out of reach, so then it counts for nothing.
        """
        self._watching = None
        operations = self._operations
        if operations.some_are(State.FETCHING, State.ABANDONING):
            self._quiet = 0.0
            self.watch()
            return
        self._watched += WATCH_EVERY
        abandoned = [op for op in operations if op.state is State.ABANDONED]
        for operation in abandoned:
            if operation.entry and self._watched > operation.entry.spent / 1000 + self._limit:
                self._on_diverged(self._describe())
                return
        held = operations.some_are(State.HELD)
        busy = operations.some_are(State.EXECUTING, State.COMMITTING)
        if busy or abandoned or not held or not self._rounds.is_replaying:
            self._quiet = 0.0
        else:
            self._quiet += WATCH_EVERY
            if self._quiet >= self._limit:
                self._on_diverged(self._describe())
                return
        if held or abandoned:
            self.watch()

    def _describe(self) -> str:
        def keys(state: State) -> str:
            found = [each.key for each in self._operations if each.state is state]
            return ", ".join(found) or "nothing"

        recorded = ", ".join(self._journal.unconsumed()) or "nothing"
        return (
            "The code does not match what is recorded of this run, so nothing new was executed.\n"
            f"Recorded and not asked for: {recorded}\n"
            f"Asked for and not recorded: {keys(State.HELD)}\n"
            f"Abandoned before and waited for again: {keys(State.ABANDONED)}\n"
            "The run is kept as it is: repair the code and resume it, or cancel it."
        )
