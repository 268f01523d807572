"""Traps: places where a process dies, or loses a reply, when a test says so.

A trap is a file beside the ledger. Whoever comes to its place and removes the file is caught, so
each trap catches once. Every script has four places, which are made by wrapping how commands
travel; the product has none of this:

- `before-…`: the process dies with the command in its hand, and all that would go out with it;
- `sent-…`: it dies when the command has gone out, and never hears what came of it;
- `lose-…`: the reply is there and lost with its connection, and the process lives;
- `after-…`: it dies with the reply in its hand.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import redis
from redis.connection import AbstractConnection

from aiki.store.batch import Link
from aiki.store.connection import Wire
from aiki.store.scripts import SCRIPTS
from tests.faults.ledger import place

POINTS = ("before", "sent", "lose", "after")

Setter = Callable[[type, str, Any], None]

_NAMES = {script.sha: name for name, script in SCRIPTS.items()} | {
    script.source: name for name, script in SCRIPTS.items()
}
_SHAS = [(script.sha.encode(), name) for name, script in SCRIPTS.items()]


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

    def unsprung(self, about: str = "") -> list[str]:
        """Name those that have caught nobody, and have this in their names."""
        return [path.name for path in self._set if about in path.name and path.exists()]


def is_caught(trap: str) -> bool:
    """Tell whether this trap was set; it is not any more."""
    try:
        (place() / f"trap-{trap}").unlink()
    except FileNotFoundError:
        return False
    return True


# Who is caught dies before another thread of its process comes to a trap: each has one death.
_one_at_a_time = threading.Lock()


def die(trap: str) -> None:
    """End this process by SIGKILL where the trap is set."""
    with _one_at_a_time:
        if is_caught(trap):
            os.kill(os.getpid(), signal.SIGKILL)


def lay(setter: Setter = setattr) -> None:
    """Make the places around every script in this process."""
    _lay_before_replies(setter)
    _lay_at_replies(setter)
    _lay_around_beats(setter)


def _lay_before_replies(setter: Setter) -> None:
    write = Wire.write

    def deadly_write(self: Wire, data: bytes) -> None:
        names = [name for sha, name in _SHAS if sha in data]
        for name in names:
            die(f"before-{name}")
        write(self, data)
        for name in names:
            die(f"sent-{name}")

    setter(Wire, "write", deadly_write)


def _lay_at_replies(setter: Setter) -> None:
    on_reply, on_lost = (getattr(Link, name) for name in ("_on_reply", "_on_lost"))
    deaf: set[Link] = set()  # to what else came with the reply that they have lost

    def deadly_on_reply(self: Link, reply: object) -> None:
        command = getattr(self, "_inflight")[0][1]  # noqa: B009 - it is private
        name = _NAMES.get(str(command[1])) if str(command[0]).startswith("EVAL") else None
        if name is not None and self not in deaf and not isinstance(reply, hiredis.ReplyError):
            die(f"after-{name}")
            if is_caught(f"lose-{name}"):
                deaf.add(self)
                getattr(self, "_wire").abort()  # noqa: B009
        if self not in deaf:
            on_reply(self, reply)

    def deadly_on_lost(self: Link) -> None:
        deaf.discard(self)
        on_lost(self)

    setter(Link, "_on_reply", deadly_on_reply)
    setter(Link, "_on_lost", deadly_on_lost)


def _lay_around_beats(setter: Setter) -> None:
    """Make the same places where a thread sends: what beats has no event loop."""
    # redis-py says nothing of what they take and give
    send: Any = getattr(AbstractConnection, "send_packed_command")  # noqa: B009
    read: Any = getattr(AbstractConnection, "read_response")  # noqa: B009
    sent: dict[AbstractConnection, str] = {}

    def deadly_send(self: AbstractConnection, command: Any, **how: Any) -> Any:
        data = b"".join(command)
        names = [name for sha, name in _SHAS if sha in data]
        for name in names:
            die(f"before-{name}")
        send(self, command, **how)
        for name in names:
            die(f"sent-{name}")
            sent[self] = name

    def deadly_read(self: AbstractConnection, *arguments: Any, **how: Any) -> Any:
        name = sent.pop(self, None)
        reply = read(self, *arguments, **how)
        if name is not None:
            die(f"after-{name}")
            if is_caught(f"lose-{name}"):
                self.disconnect()
                raise redis.ConnectionError("the reply was lost")
        return reply

    setter(AbstractConnection, "send_packed_command", deadly_send)
    setter(AbstractConnection, "read_response", deadly_read)
