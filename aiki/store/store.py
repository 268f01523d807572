"""The store as one object: its connection, its identity, and a door per subject."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from aiki.errors import AikiError, StoreRefused
from aiki.store.answers import replaced
from aiki.store.audit import Audit
from aiki.store.batch import Link
from aiki.store.catalog import Catalog
from aiki.store.children import Children
from aiki.store.connection import CONFIRMATIONS, Address, Command
from aiki.store.control import Control
from aiki.store.inbox import Inbox
from aiki.store.keys import prefix
from aiki.store.mailbox import Mailbox
from aiki.store.preflight import Preflight
from aiki.store.rights import Role
from aiki.store.runs import Runs
from aiki.store.schedules import Schedules
from aiki.store.scripts import SCRIPTS
from aiki.store.streams import Streams
from aiki.store.tail import Tail
from aiki.store.timers import Timers
from aiki.store.workers import Workers

SCHEMA = "1"
PARTITIONS = 1  # a single server has no use for more; a cluster fixes its own at the first start


class Store:
    """An open connection to one namespace of one Redis."""

    def __init__(
        self,
        address: Address,
        namespace: str,
        *,
        revive: Callable[[], Awaitable[AikiError | None]] | None = None,
        role: Role = Role.SUPERVISOR,
    ) -> None:
        """Prepare it; `revive` is called, and says what is wrong, as long as nobody answers.

        The server is asked for the rights of `role`; a reader is kept from writing here as well.
        """
        self.address = address
        self.namespace = namespace
        self.preflight = Preflight(prefix(namespace, 0), role)
        self.tail = Tail(prefix(namespace, 0))
        self.link = Link(
            address,
            prepare=self.preflight.check,
            revive=revive,
            tail=self.tail,
            confirm=CONFIRMATIONS.get(address.durability),
            may_write=role is not Role.READER,
        )
        self.inbox = Inbox(address, prefix(namespace, 0))
        self.store_id = ""

    async def open(self, expected: str = "") -> None:
        """Connect, check that the server is fit, and learn the store's identity.

        A store is made where there is none, unless one is `expected`, or by a reader.

        Raises:
            StoreUnavailable: it cannot be reached.
            StoreRefused: it must not be used as it is; the message lists every finding.
            StoreReplaced: it is not the one that is expected.
        """
        await self.link.connect()
        base = prefix(self.namespace, 0)
        command: Command = ("HMGET", base + "meta", "store", "schema")
        if self.link.may_write:
            fresh = "" if expected else secrets.token_hex(8)
            script = SCRIPTS["open_store"].sha
            command = ("EVALSHA", script, "1", base, fresh, SCHEMA, str(PARTITIONS))
        store_id, schema, *_ = await self.link.send_within(command, 10)
        if expected and store_id != expected.encode():
            raise replaced(self.address.described)
        self.store_id, schema = (store_id or b"").decode(), (schema or SCHEMA.encode()).decode()
        if schema != SCHEMA:
            raise StoreRefused(
                f"{self.address.described} holds data of schema {schema} and this release reads "
                f"schema {SCHEMA}; use another namespace or the release that wrote it"
            )
        self.runs = Runs(self.link, base, self.store_id)
        self.control = Control(self.link, base, self.store_id)
        self.workers = Workers(self.link, base, self.store_id)
        self.children = Children(self.link, base)
        self.mailbox = Mailbox(self.link, base)
        self.streams = Streams(self.link, base)
        self.timers = Timers(self.link, base)
        self.audit = Audit(self.link, base)
        self.catalog = Catalog(self.link, base)
        self.schedules = Schedules(self.link, base, self.store_id)

    async def require(self, role: Role) -> None:
        """Ask the server for the rights of a role, now and at each later connection.

        Raises:
            ConfigError: this is a reader's.
            StoreRefused: the server's user may not do all that it takes.
            StoreUnavailable: no answer.
        """
        await self.preflight.require(self.link, role)

    async def close(self) -> None:
        """End every connection."""
        await self.inbox.close()
        await self.link.close()
