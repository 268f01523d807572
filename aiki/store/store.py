"""One partition of a store as an object: its connection, its identity, a door per subject."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from aiki.envelope import PayloadCodec
from aiki.errors import AikiError, StoreRefused
from aiki.store.answers import replaced, torn
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
from aiki.store.seals import Seals
from aiki.store.streams import Streams
from aiki.store.tail import Tail
from aiki.store.timers import Timers
from aiki.store.workers import Workers

SCHEMA = "1"
PARTITIONS = 1  # unless the URL of whoever makes the store says how many
_PATIENCE = 10.0


class Store:
    """An open connection to one partition of one namespace of one Redis. Most have no other."""

    def __init__(
        self,
        address: Address,
        namespace: str,
        number: int = 0,
        *,
        revive: Callable[[], Awaitable[AikiError | None]] | None = None,
        role: Role = Role.SUPERVISOR,
        codec: PayloadCodec | None = None,
    ) -> None:
        """Prepare it; `revive` is called, and says what is wrong, as long as nobody answers.

        The server is asked for the rights of `role`; a reader is kept from writing here as well.
        """
        self._seals = Seals(codec)
        self.address = address
        self.namespace = namespace
        self.number = number
        self._base = prefix(namespace, number)
        self.preflight = Preflight(self._base, role)
        self.tail = Tail(self._base)
        self.link = Link(
            address,
            prepare=self.preflight.check,
            revive=revive,
            tail=self.tail,
            confirm=CONFIRMATIONS.get(address.durability),
            may_write=role is not Role.READER,
        )
        self.inbox = Inbox(address, self._base)
        self.store_id = ""
        self.partitions = 1
        """How many there are of this store."""
        self.is_complete = False
        """Whether every partition is known to have been made; of the first one only."""

    async def open(self, expected: str = "", *, partitions: int = 0) -> None:
        """Connect, check that the server is fit, and learn the store's identity.

        A store is made where there is none, unless one is `expected`, or by a reader; with a
        number of partitions, this is made as one of those of the expected store.

        Raises:
            StoreUnavailable: it cannot be reached.
            StoreRefused: it must not be used as it is; the message lists every finding.
            StoreReplaced: it is not the one that is expected.
        """
        await self.link.connect()
        base = self._base
        fresh = "" if expected else secrets.token_hex(8)
        store_id, schema, count, complete = await self._identify(
            expected if partitions else fresh,
            partitions or self.address.partitions or PARTITIONS,
        )
        if expected and store_id != expected:
            where = self.address.whereabouts
            raise torn(self.number, where) if self.number else replaced(where)
        self.store_id, self.partitions = store_id, int(count)
        self.is_complete = complete == "1"
        if schema != SCHEMA:
            raise StoreRefused(_of_another_release(self.address.described, schema))
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

    async def is_there(self) -> bool:
        """Connect, and tell whether the partition belongs to any store; it is not made."""
        await self.link.connect()
        return (await self._identify("", PARTITIONS))[0] != ""

    async def complete(self) -> None:
        """Note that every partition was made: one that is missing from now on is lost."""
        await self._identify("", self.partitions, complete=True)
        self.is_complete = True

    async def _identify(self, fresh: str, partitions: int, *, complete: bool = False) -> list[str]:
        command: Command = (
            "HMGET", self._base + "meta", "store", "schema", "partitions", "complete",
        )  # fmt: skip
        if self.link.may_write:
            command = (
                "EVALSHA", SCRIPTS["open_store"].sha, "1", self._base, fresh, SCHEMA,
                str(partitions), "1" if complete else "",
            )  # fmt: skip
        reply = await self.link.send_within(command, _PATIENCE)
        store_id, schema, count, is_complete = [(part or b"").decode() for part in reply]
        # A reader may find nothing, and makes nothing.
        return [store_id, schema or SCHEMA, count or str(PARTITIONS), is_complete]

    async def require(self, role: Role) -> None:
        """Ask the server for the rights of a role, now and at each later connection.

        Raises:
            ConfigError: this is a reader's.
            StoreRefused: the server's user may not do all that it takes.
        """
        await self.preflight.require(self.link, role)

    async def close(self) -> None:
        """End every connection."""
        await self.inbox.close()
        await self.link.close()


def _of_another_release(where: str, schema: str) -> str:
    what = f"{where} holds data of schema {schema}, and this release of aiki reads {SCHEMA}: "
    if schema.isdecimal() and int(schema) > int(SCHEMA):
        return what + "a later release made it; update aiki here, or use another namespace"
    return what + "an earlier release made it; go on with that one, or use another namespace"
