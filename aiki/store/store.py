"""The store as one object: its connection, its identity, and a door per subject."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from aiki.envelope import PayloadCodec
from aiki.errors import AikiError, StoreRefused
from aiki.store.answers import replaced
from aiki.store.audit import Audit
from aiki.store.batch import Link
from aiki.store.catalog import Catalog
from aiki.store.children import Children
from aiki.store.connection import CONFIRMATIONS, Address
from aiki.store.control import Control
from aiki.store.inbox import Inbox
from aiki.store.keys import prefix
from aiki.store.mailbox import Mailbox
from aiki.store.preflight import Preflight
from aiki.store.runs import Runs
from aiki.store.schedules import Schedules
from aiki.store.scripts import SCRIPTS
from aiki.store.seals import Seals
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
        codec: PayloadCodec | None = None,
    ) -> None:
        """Prepare it; `revive` is called, and says what is wrong, as long as nobody answers."""
        self._seals = Seals(codec)
        self.address = address
        self.namespace = namespace
        self.preflight = Preflight(prefix(namespace, 0))
        self.tail = Tail(prefix(namespace, 0))
        self.link = Link(
            address,
            prepare=self.preflight.check,
            revive=revive,
            tail=self.tail,
            confirm=CONFIRMATIONS.get(address.durability),
        )
        self.inbox = Inbox(address, prefix(namespace, 0))
        self.store_id = ""

    async def open(self, expected: str = "") -> None:
        """Connect, check that the server is fit, and learn the store's identity.

        A store is made where there is none, unless one is `expected`.

        Raises:
            StoreUnavailable: it cannot be reached.
            StoreRefused: it must not be used as it is; the message lists every finding.
            StoreReplaced: it is not the one that is expected.
        """
        await self.link.connect()
        base = prefix(self.namespace, 0)
        script = SCRIPTS["open_store"]
        fresh = "" if expected else secrets.token_hex(8)
        reply = await self.link.send_within(
            ("EVALSHA", script.sha, "1", base, fresh, SCHEMA, str(PARTITIONS)), 10
        )
        if expected and reply[0] != expected.encode():
            raise replaced(self.address.described)
        self.store_id, schema = reply[0].decode(), reply[1].decode()
        if schema != SCHEMA:
            raise StoreRefused(
                f"{self.address.described} holds data of schema {schema} and this release reads "
                f"schema {SCHEMA}; use another namespace or the release that wrote it"
            )
        seals = self._seals
        self.runs = Runs(self.link, base, self.store_id, seals)
        self.control = Control(self.link, base, self.store_id, seals)
        self.workers = Workers(self.link, base, self.store_id)
        self.children = Children(self.link, base, seals)
        self.mailbox = Mailbox(self.link, base, seals)
        self.streams = Streams(self.link, base, seals)
        self.timers = Timers(self.link, base)
        self.audit = Audit(self.link, base)
        self.catalog = Catalog(self.link, base)
        self.schedules = Schedules(self.link, base, self.store_id, seals)

    async def close(self) -> None:
        """End every connection."""
        await self.inbox.close()
        await self.link.close()
