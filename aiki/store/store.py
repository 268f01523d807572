"""The store as one object: its connection, its identity, and a door per subject."""

from __future__ import annotations

import secrets

from aiki.errors import StoreRefused
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
from aiki.store.streams import Streams
from aiki.store.tail import Tail
from aiki.store.timers import Timers
from aiki.store.workers import Workers

SCHEMA = "1"
PARTITIONS = 1  # a single server has no use for more; a cluster fixes its own at the first start


class Store:
    """An open connection to one namespace of one Redis."""

    def __init__(self, address: Address, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self.preflight = Preflight(prefix(namespace, 0))
        self.tail = Tail(prefix(namespace, 0))
        self.link = Link(
            address,
            prepare=self.preflight.check,
            tail=self.tail,
            confirm=CONFIRMATIONS.get(address.durability),
        )
        self.inbox = Inbox(address, prefix(namespace, 0))
        self.store_id = ""

    async def open(self) -> None:
        """Connect, check that the server is fit, and learn the store's identity.

        Raises:
            StoreUnavailable: it cannot be reached.
            StoreRefused: it must not be used as it is; the message lists every finding.
        """
        await self.link.connect()
        base = prefix(self.namespace, 0)
        script = SCRIPTS["open_store"]
        reply = await self.link.send_within(
            ("EVALSHA", script.sha, "1", base, secrets.token_hex(8), SCHEMA, str(PARTITIONS)), 10
        )
        self.store_id, schema = reply[0].decode(), reply[1].decode()
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
        self.catalog = Catalog(self.link, base)
        self.schedules = Schedules(self.link, base, self.store_id)

    async def close(self) -> None:
        """End every connection."""
        await self.inbox.close()
        await self.link.close()
