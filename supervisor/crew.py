"""The worker processes that should exist, those that do, and the way from one to the other.

Each place for a worker is a `Slot`. It has a *child*, which serves, or an *heir*, which boots and
takes over when it is ready: the child, if there still is one, then drains. Starting, restarting,
reloading and replacing are all the birth of an heir, so a slot never serves less than before
because something was to be better.

The first heir of a start or a reload is a scout: the others are started when it is ready. What it
cannot import none of them can, and one traceback says so.

Everything here runs in the supervisor process, on its loop, and never waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from aiki.supervisor.child import Child, Ending
from aiki.supervisor.definitions import Shipment
from aiki.supervisor.messages import Boot, Message
from aiki.supervisor.settings import Settings

logger = logging.getLogger(__name__)

# The system had no room for one more process; it may have later.
_NO_ROOM_DELAY = 5.0
_HOST = socket.gethostname()
_RELOAD = "reload"


class Slot:
    """The place of one worker."""

    def __init__(self, number: int, *, quarantine: bool) -> None:
        self.number = number
        self.quarantine = quarantine
        self.child: Child | None = None
        self.heir: Child | None = None
        self.reason = ""
        """Why there is an heir."""
        self.due: asyncio.TimerHandle | None = None
        """The restart that waits for its time."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker process that was found to have ended."""

    child: Child
    ending: Ending
    slot: Slot | None
    """Where it was; None if it was leaving."""
    reload: bool
    """Whether it was an heir that a reload has brought."""


class Crew:
    """All worker processes of a supervisor."""

    def __init__(
        self,
        settings: Settings,
        shipment: Shipment,
        *,
        on_message: Callable[[Child, Message], None],
        on_end: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._shipment = shipment
        self._on_message = on_message
        self._on_end = on_end
        self._leaving: list[Child] = []
        self._after_scout: list[Slot] = []
        self._scout: Slot | None = None
        self._store_id = ""
        self.slots: list[Slot] = []
        self.quarantine: list[Slot] = []

    def children(self) -> list[Child]:
        """Return every process that has not been found to have ended."""
        slots = [*self.slots, *self.quarantine]
        held = [child for slot in slots for child in (slot.child, slot.heir) if child is not None]
        return held + self._leaving

    def serving(self) -> int:
        """Return how many ordinary workers serve."""
        return sum(slot.child is not None for slot in self.slots)

    def start(self, count: int, store_id: str) -> None:
        """Start so many workers of this store, after a scout."""
        self._store_id = store_id
        self.slots = [Slot(number, quarantine=False) for number in range(1, count + 1)]
        self._send_scout("start")

    def reload(self) -> None:
        """Give every slot an heir on freshly imported code, after a scout."""
        for slot in self.slots:
            self._disinherit(slot, _RELOAD)  # born before, an heir may have the old code
        self._send_scout(_RELOAD)

    def abandon_reload(self) -> None:
        """Let the old workers serve on."""
        self._after_scout.clear()
        for slot in self.slots:
            if slot.reason == _RELOAD:
                self._disinherit(slot, "the reload was abandoned")
            if slot.child is None and slot.heir is None and slot.due is None:
                self.launch(slot, "restart")

    def grow(self) -> None:
        """Add one worker."""
        used = {slot.number for slot in self.slots}
        number = next(n for n in range(1, len(used) + 2) if n not in used)
        self.slots.append(Slot(number, quarantine=False))
        self.launch(self.slots[-1], "one more")

    def shrink(self) -> None:
        """Drain one worker, the last one; at least one stays."""
        if len(self.slots) > 1:
            self._retire(self.slots.pop(), "one fewer")
        else:
            logger.warning("the last worker stays")

    def fit_quarantine(self, wanted: int) -> None:
        """Have at least so many quarantine workers; when none is wanted, all drain.

        Which of them has nothing to do is not known here, so none of several is taken away.
        """
        while self.quarantine and wanted == 0:
            self._retire(self.quarantine.pop(), "the quarantine is empty")
        while len(self.quarantine) < wanted:
            self.quarantine.append(Slot(len(self.quarantine) + 1, quarantine=True))
            self.launch(self.quarantine[-1], "quarantine")

    def replace(self, child: Child, reason: str) -> None:
        """Start an heir for the slot of `child`, unless one is on its way."""
        slot = self._slot_of(child)
        if slot is not None and slot.heir is None and slot.due is None:
            logger.info("%s is to be replaced: %s", child, reason)
            self.launch(slot, reason)

    def launch_later(self, slot: Slot, delay: float, reason: str) -> None:
        """Start an heir after a delay."""
        if slot.due is None:
            loop = asyncio.get_running_loop()
            slot.due = loop.call_later(delay, self._launch_due, slot, reason)

    def launch(self, slot: Slot, reason: str) -> None:
        """Start an heir now."""
        number = f"q{slot.number}" if slot.quarantine else str(slot.number)
        boot = Boot(
            label=f"{_HOST}-{number}",
            settings=self._settings,
            shipment=self._shipment,
            quarantine=slot.quarantine,
            store_id=self._store_id,
            parent=os.getpid(),
        )
        try:
            heir = Child(boot, on_message=self._on_message, on_end=self._on_end)
        except OSError as error:
            logger.error("cannot start worker %s: %s", number, error)  # noqa: TRY400
            self.launch_later(slot, _NO_ROOM_DELAY, reason)
            return
        slot.heir, slot.reason = heir, reason
        logger.debug("%s is starting: %s", heir, reason)

    def promote(self, child: Child) -> None:
        """Let an heir that is ready serve, and what it takes over from drain."""
        slot = self._slot_of(child)
        if slot is None or slot.heir is not child:
            return  # dismissed meanwhile
        before, slot.child, slot.heir = slot.child, child, None
        if before is not None:
            self._leaving.append(before)
            before.drain(slot.reason, self._settings.grace)
        if slot is self._scout:
            self._scout = None
            waiting, self._after_scout = self._after_scout, []
            for other in waiting:
                self._bring(other, slot.reason)

    def sweep(self) -> list[Gone]:
        """Let go of the processes that have ended, all that have at this moment."""
        found: list[Gone] = []
        for child in self.children():
            ending = child.ended()
            if ending is None:
                continue
            slot, reload = self._slot_of(child), False
            if slot is None:
                self._leaving.remove(child)
            elif slot.child is child:
                slot.child = None
            else:
                slot.heir, reload = None, slot.reason == _RELOAD
            found.append(Gone(child, ending, slot, reload))
        return found

    def drain(self, reason: str) -> None:
        """Have all workers end, each within its grace."""
        for slot in (*self.slots, *self.quarantine):
            self._retire(slot, reason)
        self.slots, self.quarantine = [], []

    def kill(self, reason: str) -> None:
        """End all workers now."""
        self.drain(reason)
        for child in self._leaving:
            child.kill(reason)

    def _send_scout(self, reason: str) -> None:
        self._scout, *self._after_scout = self.slots
        self._bring(self._scout, reason)

    def _bring(self, slot: Slot, reason: str) -> None:
        if slot in self.slots:  # it may have been retired since
            self._cancel_due(slot)
            self._disinherit(slot, reason)
            self.launch(slot, reason)

    def _launch_due(self, slot: Slot, reason: str) -> None:
        slot.due = None
        if slot.heir is None:
            self.launch(slot, reason)

    def _retire(self, slot: Slot, reason: str) -> None:
        self._cancel_due(slot)
        self._disinherit(slot, reason)
        if slot.child is not None:
            self._leaving.append(slot.child)
            slot.child.drain(reason, self._settings.grace)
            slot.child = None

    def _disinherit(self, slot: Slot, reason: str) -> None:
        # An heir hosts no run, or has just claimed its first: it is not worth waiting for.
        if slot.heir is not None:
            self._leaving.append(slot.heir)
            slot.heir.kill(reason)
            slot.heir = None

    def _cancel_due(self, slot: Slot) -> None:
        if slot.due is not None:
            slot.due.cancel()
            slot.due = None

    def _slot_of(self, child: Child) -> Slot | None:
        for slot in (*self.slots, *self.quarantine):
            if child in (slot.child, slot.heir):
                return slot
        return None
