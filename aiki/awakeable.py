"""Awakeables: what a third party resolves or rejects, who has nothing but a token."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Generic, TypeVar, overload

from aiki.client import Client
from aiki.codec import Codec
from aiki.definition import caller
from aiki.durations import Seconds, seconds
from aiki.envelope import check_readable
from aiki.errors import DataError, DefinitionError, Failure, NotFound, Rejected
from aiki.failures import failure_from_json, failure_to_json
from aiki.names import checked_name
from aiki.records import EntryKind
from aiki.run import Run
from aiki.store.keys import new_token
from aiki.waits import TIMEOUT, Timeout

T = TypeVar("T")

_LONGEST_REASON = 8 * 1024
_REJECTED = f"{Rejected.__module__}.{Rejected.__qualname__}"


class Awakeable(Generic[T]):
    """One thing that a run waits for and somebody else decides. Made by `awakeable`."""

    def __init__(self, run: Run, name: str, data: object) -> None:
        name = checked_name(name, "awakeable")
        self._codec = Codec(data, f"data of awakeable {name} ({caller()})")
        self._run = run
        run.check_here(f"awakeable {name!r} was made")
        key, secret = run.note(f"awakeable/{name}", lambda: new_token().encode())
        scope = run.execution.scope
        self._topic = _topic(scope, key)
        self._name = key
        self._is_awaited = False
        self._data: tuple[Any] | None = None
        self._rejected: str | None = None
        text = f"{scope}\n{key}\n{secret.decode()}"
        self.token = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        """What to hand over: safe in a URL, and whoever has it may decide."""

    @overload
    async def wait(self) -> T: ...
    @overload
    async def wait(self, *, timeout: None) -> T: ...
    @overload
    async def wait(self, *, timeout: Seconds) -> T | Timeout: ...
    async def wait(self, *, timeout: Seconds | None = None) -> Any:
        """Wait until it is resolved, and give the data; `aiki.TIMEOUT` where nobody did in time.

        Once it is decided, each further wait gives the same at once. Raises `Rejected` where it is
        rejected, and `DefinitionError` where something else in the run waits for it already.
        """
        self._run.check_here("an awakeable was waited for")
        limit = None if timeout is None else seconds(timeout, what="timeout")
        if self._is_awaited:
            raise DefinitionError(
                f"{self._name} is waited for already; wait for it once, and share what that gives"
            )
        if self._rejected is not None:
            raise Rejected(self._rejected)
        if self._data is not None:
            return self._data[0]
        self._is_awaited = True
        try:
            found = await self._run.waits.message(self._topic, limit, self._read, judge=_judged)
        except Rejected as rejected:
            self._rejected = str(rejected)
            raise
        finally:
            self._is_awaited = False
        if found is not TIMEOUT:
            self._data = (found,)
        return found

    def _read(self, kind: EntryKind, payload: bytes) -> Any:
        if kind is EntryKind.FAILURE:
            raise Rejected(failure_from_json(payload).message)
        return self._codec.decode(payload)


@overload
def awakeable(run: Run, name: str) -> Awakeable[None]: ...
@overload
def awakeable(run: Run, name: str, data: type[T]) -> Awakeable[T]: ...
def awakeable(run: Run, name: str, data: Any = None) -> Awakeable[Any]:
    """Make something that a third party resolves or rejects, with the type of its data.

    Hand its `token` to the third party in a step, then `wait`. What comes first counts.
    """
    return Awakeable(run, name, data)


async def resolve(client: Client, token: str, data: object = None) -> None:
    """Resolve the awakeable that a token was made for; a second time changes nothing.

    The data is any plain JSON, or what has a stored form by its own type. The run reads it by the
    awakeable's type, and is stalled where it does not fit.

    Raises:
        NotFound: no run waits for this token.
        InvalidTransition: the run is over.
        DataError: the token is none, or the data has no stored form.
    """
    annotation = type(data)  # NoneType for None
    payload = Codec(annotation, "what resolves").encode(data)[0]
    await _decide(client, token, b"r" + payload)


async def reject(client: Client, token: str, reason: str) -> None:
    """Reject the awakeable that a token was made for: its wait raises `Rejected`.

    Raises as `resolve` does.
    """
    given: object = reason
    if not isinstance(given, str):
        raise DataError(f"a reason is a str, not {type(given).__qualname__}")
    told = reason.encode("utf-8", "backslashreplace")
    if len(told) > _LONGEST_REASON:
        raise DataError(f"a reason has at most {_LONGEST_REASON:,} bytes, not {len(told):,}")
    await _decide(client, token, b"f" + failure_to_json(Failure(_REJECTED, told.decode(), "")))


def _judged(message: bytes) -> tuple[EntryKind, bytes]:
    """Tell how a decision is recorded: a rejection like any failure."""
    check_readable(message, "a decision")
    return EntryKind(message[:1].decode()), message[1:]


async def _decide(client: Client, token: str, message: bytes) -> None:
    given: object = token
    if not isinstance(given, str):
        raise DataError(f"the token of an awakeable is a str, not {type(given).__qualname__}")
    try:
        padded = token + "=" * (-len(token) % 4)
        text = base64.b64decode(padded.encode("ascii"), b"-_", validate=True).decode()
        scope, key, secret = text.split("\n")
    except (ValueError, binascii.Error):
        raise DataError(f"this is not the token of an awakeable: {token!r:.80}") from None
    run_id = scope.partition("~")[0]
    if not run_id or not key.startswith("awakeable/"):  # no other entry is anybody's to resolve
        raise NotFound("no run waits for this token")
    await client.handle(run_id).post(_topic(scope, key), message, key=key, secret=(key, secret))


def _topic(scope: str, key: str) -> str:
    """Name what the decision comes under: a later generation of a run has the same keys."""
    generation = scope.partition("~")[2]
    return f"promise/{key}" + (f"~{generation}" if generation else "")
