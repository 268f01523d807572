"""A server whose time stands still until a test moves it.

The product has no option for that. The scripts are loaded here once more, with another text: what
asks the server for its time reads a key instead, and so does what lets the server name an entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

import redis

from aiki.store import Store
from aiki.store.connection import Command
from aiki.store.scripts import SCRIPTS

BEGINNING = 1_700_000_000_000  # of the time of a test, in ms

_KEY = "clock:{0}"  # in no namespace, and in the slot of all of them
_TIME = f"redis.call('GET', '{_KEY}')"


def _governed(source: str) -> str:
    """Have a script read the time from a key."""
    text = source.replace("redis.call('TIME')", f"{{ 0, {_TIME} * 1000 }}")
    return re.sub(r"('XADD', p \.\. stream,(?: 'NOMKSTREAM',)?) '\*'", rf"\1 {_TIME} .. '-*'", text)


GOVERNED = {script.sha: _governed(script.source) for script in SCRIPTS.values()}
"""What to send instead of each script, by its SHA-1."""

_SHAS = {
    sha: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    for sha, source in GOVERNED.items()
}
NAMES = {script.sha: script.name for script in SCRIPTS.values()}


def load(server: redis.Redis) -> None:
    """Let a server know all scripts as they are governed by the clock."""
    for source in GOVERNED.values():
        server.script_load(source)


def governed(command: Command) -> Command:
    """Give what to send instead of a command."""
    if command[0] == "EVALSHA" and (sha := _SHAS.get(str(command[1]))) is not None:
        return ("EVALSHA", sha, *command[2:])
    return command


def setting(now: int) -> Command:
    """Give the command that sets the clock, to milliseconds."""
    return ("SET", _KEY, str(now))


def govern(store: Store) -> None:
    """Let all that a store sends from now on go by the clock. It must not be open yet."""
    send = store.link.send

    def send_governed(command: Command) -> asyncio.Future[Any]:
        return send(governed(command))

    store.link.send = send_governed  # type: ignore[method-assign]
