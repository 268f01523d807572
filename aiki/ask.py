"""Queries: what a run can be asked, declared beside its handler."""

from __future__ import annotations

import inspect
from types import EllipsisType
from typing import Any, Generic, ParamSpec, TypeVar

from aiki.asked import QUERY, Asked
from aiki.definition import appearance, checked_function, default_name, source
from aiki.durations import Seconds, seconds
from aiki.errors import DefinitionError
from aiki.handle import Handle
from aiki.names import checked_name

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

QUERY_TIMEOUT = 30.0


class Query(Generic[P, R_co]):
    """A question that a run answers out of its state, changing nothing. Made by `v1.query`."""

    def __init__(self, asked: Asked, timeout: float | None = QUERY_TIMEOUT) -> None:
        vars(self).update(appearance(asked.fn))
        self._asked = asked
        self._timeout = timeout

    @property
    def name(self) -> str:
        """The name under which runs are asked."""
        return self._asked.name

    async def ask(self, handle: Handle[Any], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Ask a run, and give its answer; a run that waits is woken for it.

        Raises:
            DataError: the arguments are not what their annotations describe; nothing was asked.
            NotFound: there is no such run, or its code has no such query.
            InvalidTransition: the run is over, or held, and nobody would answer.
            AskFailed: the query raised an exception.
            TimeoutError: no worker has answered in time.
        """
        _check_handle(self, handle)
        payload = self._asked.arguments.encode(args, kwargs)[0]
        answered = await handle.question(self._asked.topic, payload, timeout=self._timeout)
        result: R_co = self._asked.result.decode(answered)
        return result

    def with_options(self, *, timeout: Seconds | EllipsisType | None = ...) -> Query[P, R_co]:
        """Return a copy that waits so long for its answer: 30 seconds otherwise, None for ever."""
        return Query(self._asked, _limit(self._timeout, timeout))

    def __repr__(self) -> str:
        return f"<{self._asked.where}>"


def query(fn: object, name: str | None, known: dict[str, Asked]) -> Query[..., Any]:
    """Define a query of the version that `known` are the queries and updates of."""
    function = checked_function(fn, "a query")
    where = f"query {function.__qualname__} ({source(function)})"
    if inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{where} is an async def; a query answers at once, from what it is given: make it a "
            "plain def, or an update"
        )
    asked = Asked(QUERY, checked_name(name or default_name(function), where), function)
    add(asked, known)
    return Query(asked)


def add(asked: Asked, known: dict[str, Asked]) -> None:
    """Note a query or an update; raises `DefinitionError` for a second one of its name."""
    before = known.get(asked.topic)
    if before is not None and before.identity != asked.identity:
        raise DefinitionError(
            f"{asked.kind} {asked.name} is defined twice: at {before.source} and at "
            f"{asked.source}; give one of them another name"
        )
    known[asked.topic] = asked


def _check_handle(what: object, handle: object) -> None:
    if not isinstance(handle, Handle):
        raise DefinitionError(
            f"{what!r} is asked with the handle of a run, not with {type(handle).__qualname__}"
        )


def _limit(now: float | None, timeout: Seconds | EllipsisType | None) -> float | None:
    if timeout is ...:
        return now
    return None if timeout is None else seconds(timeout, what="timeout")
