"""Events: typed messages to a run, kept until it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

from aiki.client import Client
from aiki.codec import Codec
from aiki.definition import caller
from aiki.durations import Seconds, seconds
from aiki.errors import AikiError, DefinitionError
from aiki.handle import Handle
from aiki.names import checked_key, checked_name
from aiki.records import EntryKind
from aiki.run import Run
from aiki.waits import Timeout

T = TypeVar("T")


class Event(Generic[T]):
    """A name and the type of the data that comes under it. Made by `event`."""

    def __init__(self, name: str, data: object, place: str) -> None:
        self.name = checked_name(name, f"event ({place})")
        self._codec = Codec(data, f"data of event {self.name} ({place})")
        self._topic = f"event/{self.name}"

    @overload
    async def wait(self, run: Run, /) -> T: ...
    @overload
    async def wait(self, run: Run, /, *, timeout: None) -> T: ...
    @overload
    async def wait(self, run: Run, /, *, timeout: Seconds) -> T | Timeout: ...
    async def wait(self, run: Run, /, *, timeout: Seconds | None = None) -> Any:
        """Wait for the next event of this name that was sent to the run, and give its data.

        One that was sent before is there already. Each is given once, in the order of sending. With
        a `timeout`, counted from now, `aiki.TIMEOUT` is given where none came in time.
        """
        run.check_here(f"event {self.name!r} was waited for")
        limit = None if timeout is None else seconds(timeout, what="timeout")
        return await run.waits.message(self._topic, limit, self._read)

    @overload
    async def send(self, to: Handle[Any], data: T, /, *, idempotency_key: str | None = ...) -> None:
        pass

    @overload
    async def send(
        self, by: Client | Run, run_id: str, data: T, /, *, idempotency_key: str | None = ...
    ) -> None: ...
    async def send(self, *to: Any, idempotency_key: str | None = None) -> None:
        """Send data to a run: `send(handle, data)`, or `send(client, run_id, data)`.

        In a handler, `send(run, run_id, data)` is a recorded step. What was accepted is kept until
        the run waits for it. A second send with the same key does nothing, as long as the run is
        kept.

        Raises:
            DataError: the data is not what the event's type describes; nothing was sent.
            NotFound: there is no such run.
            InvalidTransition: the run is over.
            LimitExceeded: too much lies unread in its mailbox.
            StoreUnavailable: it may or may not have been sent; with a key, send it again.
        """
        key = None if idempotency_key is None else checked_key(idempotency_key)
        target: Any = to[0] if to else None
        match to:
            case (Handle(), data):
                await target.post(self._topic, self._encoded(data), key)
            case (Client() as client, run_id, data):
                await client.handle(_run_id(run_id)).post(self._topic, self._encoded(data), key)
            case (Run() as run, run_id, data):
                run.check_here(f"event {self.name!r} was sent")
                await run.waits.send(self._topic, _run_id(run_id), self._encoded(data), key)
            case _:
                kinds = ", ".join(type(each).__qualname__ for each in to) or "nothing"
                raise DefinitionError(
                    f"event {self.name!r} is sent with a handle and the data, or with a client or "
                    f"a run, the id of the run that is to get it, and the data; not with {kinds}"
                )

    async def send_many(
        self,
        client: Client,
        run_ids: Sequence[str],
        data: T,
        /,
        *,
        idempotency_key: str | None = None,
    ) -> list[AikiError | None]:
        """Send the same data to many runs; for each, in its order, None or why it was not sent."""

        async def one(run_id: str) -> AikiError | None:
            try:
                await self.send(client, run_id, data, idempotency_key=idempotency_key)
            except AikiError as error:
                return error
            return None

        self._codec.encode(data)  # what is wrong with the data is wrong with all
        return await asyncio.gather(*map(one, run_ids))

    def _encoded(self, data: Any) -> bytes:
        return self._codec.encode(data)[0]

    def _read(self, kind: EntryKind, payload: bytes) -> Any:  # noqa: ARG002 - there is one kind
        return self._codec.decode(payload)

    def __repr__(self) -> str:
        return f"<event {self.name}>"


@overload
def event(name: str) -> Event[None]: ...
@overload
def event(name: str, data: type[T]) -> Event[T]: ...
def event(name: str, data: Any = None) -> Event[Any]:
    """Define an event by its name and the type of its data, which is stored as JSON by it.

    Without a type it carries no data. Raises `DefinitionError` for a bad name, and for a type that
    has no stored form.
    """
    return Event(name, data, caller())


def _run_id(value: object) -> str:
    if not isinstance(value, str):
        raise DefinitionError(f"the id of a run is a str, not {type(value).__qualname__}")
    return value
