"""Traps: places in a worker where its process dies, or loses a reply, when a test says so.

A trap is a file beside the ledger. Whoever comes to its place and removes the file is caught, so
each trap catches once. The places around the store's writes are made by wrapping its methods in
the worker process; the product has none of this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiki.store.connection import Wire
from aiki.store.mailbox import Mailbox
from aiki.store.runs import Runs
from aiki.store.schedules import Schedules
from aiki.store.scripts import SCRIPTS
from tests.faults.ledger import place

# Methods of `Runs` that write, each with the places `before-…` (nothing is sent yet) and `after-…`
# (done in the store, and nobody here has seen the reply).
WRITES = (
    "commit_step", "commit_attempt", "abandon_step", "open_wait", "end_wait", "consume_message",
    "park", "finish", "release",
)  # fmt: skip


class Traps:
    """The traps in a directory, as the test sees them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._set: list[Path] = []

    def set(self, *names: str) -> None:
        """Let the next who comes to each of these places be caught."""
        for name in names:
            path = self._directory / f"trap-{name}"
            path.touch(exist_ok=False)
            self._set.append(path)

    def unsprung(self) -> list[str]:
        """Name those that have caught nobody."""
        return [path.name for path in self._set if path.exists()]


def is_caught(trap: str) -> bool:
    """Tell whether this trap was set; it is not any more."""
    try:
        (place() / f"trap-{trap}").unlink()
    except FileNotFoundError:
        return False
    return True


def die(trap: str) -> None:
    """End this process by SIGKILL where the trap is set."""
    if is_caught(trap):
        os.kill(os.getpid(), signal.SIGKILL)


def lay() -> None:
    """Make the places in this process: deaths around every write and claim, and lost replies."""
    for name in WRITES:
        setattr(Runs, name, _deadly(name, getattr(Runs, name)))
    setattr(Mailbox, Mailbox.post.__name__, _deadly("post", Mailbox.post))
    claim, claimed = Runs.claim, Runs.claimed

    def deadly_claim(*args: Any, **kwargs: Any) -> Any:
        die("before-claim")
        return claim(*args, **kwargs)

    def deadly_claimed(*args: Any, **kwargs: Any) -> Any:
        die("after-claim")
        return claimed(*args, **kwargs)

    setattr(Runs, claim.__name__, deadly_claim)
    setattr(Runs, claimed.__name__, deadly_claimed)
    lay_losses(setattr)


def lay_in_supervisor() -> None:
    """Make the places in a supervisor: around what it does about schedules, and lost replies."""
    for name in ("take", "fire", "tend"):
        setattr(Schedules, name, _deadly(name, getattr(Schedules, name)))
    lay_losses(setattr)


def lay_losses(setter: Callable[[type, str, Any], None]) -> None:
    """Make the places `lose-…`: a script is done, and its reply is lost with the connection."""
    write, data_received = Wire.write, Wire.data_received
    scripts = [(script.sha.encode(), f"lose-{script.name}") for script in SCRIPTS.values()]
    doomed: set[Wire] = set()

    def lossy_write(self: Wire, data: bytes) -> None:
        if any(sha in data and is_caught(trap) for sha, trap in scripts):
            doomed.add(self)
        write(self, data)

    def lossy_data_received(self: Wire, data: bytes) -> None:
        if self in doomed:
            doomed.discard(self)
            self.abort()
        else:
            data_received(self, data)

    setter(Wire, write.__name__, lossy_write)
    setter(Wire, data_received.__name__, lossy_data_received)


def _deadly(name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def deadly(*args: Any, **kwargs: Any) -> Any:
        die(f"before-{name}")
        reply = await method(*args, **kwargs)
        die(f"after-{name}")
        return reply

    return deadly
