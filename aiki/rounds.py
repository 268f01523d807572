"""The order in which outcomes reach a handler: the same in every life of its run.

Outcomes are given in rounds. Those of one round are given in one turn of the event loop, in the
order of their `seq`. The next round waits until the handler has had turns enough to react: to
fail a `gather`, to cancel the siblings in a `TaskGroup`, to ask for its next steps. What becomes
known meanwhile gathers for the round after. A `seq` is the number of a round and a place in it,
so a replay gives what is recorded in the rounds in which it was given first, and the branches of
a handler meet each other where they did.

That a step was abandoned is an outcome too: the cancellation goes on in its turn.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from aiki.branches import Branches
from aiki.records import Entry, EntryKind

PATIENCE = 1.0  # seconds to wait for an earlier outcome that the code may no longer ask for
SETTLE_TURNS = 16  # loop turns in which nested gathers and TaskGroups react to what was given
STRETCH = 0.005  # seconds for which a handler without branches may keep the loop
PLACES = 1 << 16  # in a round; more than a run may have steps


class Turn:
    """The place of one outcome in the order."""

    __slots__ = ("future", "is_asked", "is_known", "patience", "round", "seq")

    def __init__(self, seq: int, *, is_asked: bool) -> None:
        self.seq = seq
        self.is_asked = is_asked
        self.patience = math.inf  # seconds for which it is waited for once it is asked for
        self.is_known = False
        self.round: dict[int, Turn] | None = None
        self.future: asyncio.Future[None] | None = None


class _Given(asyncio.Future[None]):
    """Done when a turn has come; from then on, cancelling who waits for it is only noted.

    A final outcome cannot be taken back before either.
    """

    def __init__(self, rounds: Rounds, *, is_final: bool) -> None:
        super().__init__()
        self._rounds = rounds
        self._is_final = is_final
        self.was_cancelled = False

    def cancel(self, msg: Any = None) -> bool:
        if self._rounds.is_stopped or not (self._is_final or self.done()):
            return super().cancel(msg)
        self.was_cancelled = True
        return True


class Rounds:
    """What is to be given to one handler: first what is recorded, then what is new."""

    def __init__(self, recorded: Mapping[str, Entry], cancel_at: str | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._rounds: deque[dict[int, Turn]] = deque()
        self._open: dict[int, Turn] | None = None  # the round that gathers, the last one
        # While only the handler itself asks for steps, each is given as soon as it is known.
        self._is_sequential = True
        self.branches = Branches(self._loop)
        self._stretch_ends = 0.0  # by the system's clock; the loop's stands still meanwhile
        self._lone: Turn | None = None
        self._lonely: Turn | None = None
        self._known = 0
        self._settle = 0
        self._pumping: asyncio.Handle | None = None
        self._patience: asyncio.Handle | None = None
        self._is_impatient = False
        self._recorded: dict[str, Turn] = {}
        self._steps: set[Turn] = set()  # recorded, not given, and no mere marks of abandonment
        self._last = max((entry.seq for entry in recorded.values()), default=0)
        by_seq = sorted((entry.seq, key, entry) for key, entry in recorded.items())
        number = -1
        for seq, key, entry in by_seq:
            if entry.kind in (EntryKind.OPEN, EntryKind.NOTE):
                continue
            turn = self._recorded[key] = Turn(seq, is_asked=False)
            if seq == 0:  # of an attempt that failed: not waited for, it comes when it is asked for
                continue
            if entry.kind is EntryKind.ABANDONED:
                turn.patience = entry.spent / 1000 + PATIENCE
            if seq // PLACES != number:
                number = seq // PLACES
                self._rounds.append({})
            turn.round = self._rounds[-1]
            turn.round[seq] = turn
            if entry.kind is not EntryKind.ABANDONED or key == cancel_at:
                self._steps.add(turn)
        self.is_replaying = bool(self._steps)
        """Whether recorded outcomes are still to be given, or the last one was given just now."""
        self.is_stopped = False
        self.on_replayed: Callable[[], None] | None = None

    @property
    def has_recorded(self) -> bool:
        """Whether outcomes of earlier lives are still to be given."""
        return bool(self._steps)

    def asked(self, *, in_branch: bool) -> None:
        """Note that a step was asked for, by the handler itself or by a task that it made."""
        if in_branch:
            self._is_sequential = False
            self._lonely = None
        elif self._is_sequential and self.is_replaying:
            self._settle = 0
            if self._pumping is not None:
                # Behind the tasks that were just made, so that they have their first turn
                self._pumping.cancel()
                self._pumping = self._loop.call_soon(self._pump)
            return
        self._settle = SETTLE_TURNS

    def recorded(self, key: str, *, is_alone: bool) -> Turn:
        """Give the turn of a recorded outcome that the handler asks for.

        `is_alone` says that the handler itself waits for it and for nothing else.
        """
        turn = self._recorded[key]
        if is_alone:
            self._lonely = turn
        turn.is_asked = True
        return turn

    def join(self, *, is_alone: bool) -> Turn:
        """Give a new outcome its turn, in the round that gathers; for `is_alone` see above."""
        self._last += 1
        if self._is_sequential and self._lone is None and not self._rounds:
            self._last += -self._last % PLACES
            turn = self._lone = Turn(self._last, is_asked=True)
            return turn
        if self._open is None:
            self._last += -self._last % PLACES
            self._open = {}
            self._rounds.append(self._open)
        turn = self._open[self._last] = Turn(self._last, is_asked=True)
        turn.round = self._open
        if is_alone:
            self._lonely = turn
        self._pump_soon()
        return turn

    def next(self) -> Turn:
        """Give a turn of its own, right after the round that was given last."""
        turn = Turn(0, is_asked=True)
        turn.round = {0: turn}
        self._rounds.appendleft(turn.round)
        return turn

    def stamp(self) -> int:
        """Give a `seq` to an entry that is no outcome yet."""
        self._last += 1
        return self._last

    async def come(self, turn: Turn, *, is_final: bool) -> bool:
        """Wait for the turn of an outcome that is recorded.

        Returns whether the task was cancelled too late to take the outcome back, which goes no
        further. One that is final cannot be taken back at all.
        """
        if turn is self._lone and self._is_sequential and not is_final:
            self._lone = None
            return False
        was_cancelled = False
        if self._is_alone_next(turn):
            was_cancelled = await self._let_others_begin()
            if self._is_alone_next(turn):
                self._give_alone(turn)
                return was_cancelled
        given = turn.future = _Given(self, is_final=is_final)
        self._now_known(turn)
        await given
        return was_cancelled or given.was_cancelled

    def _is_alone_next(self, turn: Turn) -> bool:
        """Tell whether this recorded outcome is all that is to be given next."""
        return (
            turn is self._lonely
            and turn in self._steps
            and self._is_sequential
            and not self._known
            and turn.round is not None
            and len(turn.round) == 1
            and self._rounds[0] is turn.round
            and not self.is_stopped
        )

    async def _let_others_begin(self) -> bool:
        """Wait for the turns in which tasks that were just made ask for their first steps.

        As many as it takes to give an outcome by a future. Returns whether it was cancelled.
        A handler that has made none goes on, until it has kept everybody else for long enough.
        """
        if not self.branches.are_possible and time.monotonic() < self._stretch_ends:
            return False
        was_cancelled = False
        for _ in range(2):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if self.is_stopped:
                    raise
                was_cancelled = True
        self._stretch_ends = time.monotonic() + STRETCH
        return was_cancelled

    def _give_alone(self, turn: Turn) -> None:
        """Give what the handler waits for in order, without a future and a look at all rounds."""
        self._rounds.popleft()
        turn.round = self._lonely = None
        self._steps.discard(turn)
        self._settle = SETTLE_TURNS
        if not self._steps:
            self._pump_soon()

    def hold(self, turn: Turn) -> None:
        """Give nothing of a round before one of its outcomes is withdrawn."""
        if turn.is_known and turn.round is not None:
            turn.is_known = False
            self._known -= 1

    def withdraw(self, turn: Turn) -> None:
        """Take back an outcome that was not given yet, or not heard of."""
        if turn is self._lone:
            self._lone = None
        elif turn.round is not None:
            del turn.round[turn.seq]
            self._known -= turn.is_known
        self._pump_soon()

    def stop(self) -> None:
        """Give nothing more; who waits can be cancelled."""
        self.is_stopped = True
        self.on_replayed = None
        for timer in (self._pumping, self._patience):
            if timer is not None:
                timer.cancel()

    def _now_known(self, turn: Turn) -> None:
        if turn is self._lone:
            self._lone = None
        if turn.round is None:  # others came after it, or it was waited for in vain
            turn.round = {turn.seq: turn}
            self._rounds.appendleft(turn.round)
        turn.is_known = True
        self._known += 1
        self._pump_soon()

    def _pump_soon(self) -> None:
        if self._pumping is None:
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = None
        if self._settle > 0:
            self._settle -= 1
            self._pump_soon()
            return
        if self.is_replaying and not self._steps:
            self.is_replaying = False
            if self.on_replayed is not None:
                self.on_replayed()
        rounds = self._rounds
        while rounds and not rounds[0]:
            self._take_front()
        if not rounds or self._lone is not None:
            return
        front = rounds[0]
        if front is self._open:
            self._open = None
        if all(turn.is_known for turn in front.values()):
            self._give(self._take_front())
        elif self._is_impatient:
            self._skip()
        elif self._known and self._patience is None:
            self._patience = self._loop.call_later(PATIENCE, self._lose_patience)

    def _take_front(self) -> dict[int, Turn]:
        front = self._rounds.popleft()
        if front is self._open:
            self._open = None
        return front

    def _give(self, front: dict[int, Turn]) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._is_impatient = False
        self._known -= len(front)
        self._settle = SETTLE_TURNS
        if self._lonely in front.values():
            # The handler waited for this alone, and nothing else happened for so many turns
            self._is_sequential = len(front) == 1
            self._lonely = None
        self._steps.difference_update(front.values())
        for turn in front.values():
            turn.round = None
            if turn.future is not None and not turn.future.done():
                turn.future.set_result(None)
        if self._rounds or self.is_replaying:
            self._pump_soon()

    def _lose_patience(self) -> None:
        """Let come what a loop that stood still has kept waiting, then go on without the rest."""
        self._patience = None
        self._is_impatient = True
        self._settle = SETTLE_TURNS
        self._pump_soon()

    def _skip(self) -> None:
        """Wait no longer for outcomes that nobody asks for, up to the first that is known.

        Nor for steps that were abandoned and, by the time that took, should have been again. Each
        of our waits counts as `PATIENCE` however long it took: a handler is not to be ahead of
        its time-outs because the loop was slow.
        """
        self._is_impatient = False
        stuck: list[list[Turn]] = []
        for waiting in self._rounds:
            stuck.append([turn for turn in waiting.values() if not turn.is_known])
            if len(stuck[-1]) < len(waiting):
                break
        for turn in chain.from_iterable(stuck):
            turn.patience -= PATIENCE
        for missing in stuck:
            if any(turn.is_asked and turn.patience > 0 for turn in missing):
                break
            for turn in missing:
                if turn.round is not None:
                    del turn.round[turn.seq]
                    turn.round = None
        self._pump_soon()
