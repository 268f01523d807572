"""Users of a server with the rights that `aiki acl` prints, and what they were refused."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from aiki.store.rights import Role, user_line
from aiki.store.urls import target

Send = Callable[..., Awaitable[Any]]


class Logins:
    """Users of one server, made by somebody who may; each has a password of its own."""

    def __init__(self, send: Send, url: str, namespace: str) -> None:
        self._send = send
        self._url = url
        self._namespace = namespace
        self.names: dict[Role, str] = {}

    async def add(self, role: Role, *rights: str) -> str:
        """Make a user of a role, with further rights, and give the URL that it logs in by."""
        name, password = f"{role}-{secrets.token_hex(4)}", secrets.token_hex(8)
        digest = hashlib.sha256(password.encode()).hexdigest()
        line = user_line(role, name, digest, namespace=self._namespace, target=target(self._url))
        await self._send(*line.split(" "))
        if rights:
            await self._send("ACL", "SETUSER", name, *rights)
        self.names[role] = name
        return self._url.replace("://", f"://{name}:{password}@")

    async def refused(self) -> list[tuple[str, str]]:
        """Give what the server has refused these users: the role, and the command or the key."""
        roles = {name: role for role, name in self.names.items()}
        entries = [_entry(each) for each in await self._send("ACL", "LOG", "1000")]
        found = [(entry["username"], entry["object"]) for entry in entries]
        return [(roles[name], what) for name, what in found if name in roles]


def _entry(reply: dict[Any, Any] | list[Any]) -> dict[str, str]:
    """Read an entry of the server's log, as it comes or as redis-py gives it."""
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
