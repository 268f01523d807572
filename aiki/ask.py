"""Queries and updates: what a run can be asked, declared beside its handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from aiki.annotations import resolved
from aiki.asked import QUERY, UPDATE, Asked, answer_key, state_class
from aiki.definition import appearance, checked_function, default_name, source
from aiki.durations import Seconds, seconds
from aiki.errors import DefinitionError
from aiki.handle import Handle
from aiki.names import checked_key, checked_name
from aiki.run import Run
from aiki.store.keys import new_token

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


class Update(Generic[P, R_co]):
    """A change of a run that its code accepts, executes and answers. Made by `v1.update`."""

    def __init__(
        self, asked: Asked, *, id: str | None = None, timeout: float | None = None
    ) -> None:
        vars(self).update(appearance(asked.fn))
        self._asked = asked
        self._id = id
        self._timeout = timeout

    @property
    def name(self) -> str:
        """The name under which runs are asked."""
        return self._asked.name

    def validator(self, fn: Callable[Concatenate[Any, P], None], /) -> Callable[..., None]:
        """Let a function refuse updates: `@approve.validator`.

        It is a plain `def` that is given the state and what who asks has given, and raises an
        exception to say no; then nothing is recorded. It must not change the state. Raises
        `DefinitionError` for what cannot work.
        """
        asked = self._asked
        function = checked_function(fn, f"a validator of {asked.where}")
        where = f"validator {function.__qualname__} of {asked.where}"
        if inspect.iscoroutinefunction(function):
            raise DefinitionError(f"{where} is an async def; make it a plain def")
        if state_class(function, 0, where) is not asked.state:
            raise DefinitionError(f"{where} is given another state than the update")
        ours, theirs = (list(signature.parameters)[skip:] for signature, skip in (
            (resolved(asked.fn, asked.where), 2), (resolved(function, where), 1),
        ))  # fmt: skip
        if ours != theirs:
            raise DefinitionError(
                f"{where} takes {', '.join(theirs) or 'nothing'} beside the state, and the update "
                f"{', '.join(ours) or 'nothing'}; both are given the same"
            )
        asked.validator = function
        return fn

    async def ask(self, handle: Handle[Any], /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Ask a run to change, and give its answer, once that is recorded.

        What was accepted is executed once, whatever dies meanwhile. Under an id (`with_options`)
        it may be asked again, to hear the same answer: also when the run is over, while it is kept.

        Raises:
            DataError: the arguments are not what their annotations describe; nothing was asked.
            Rejected: the validator said no; nothing was recorded.
            NotFound: there is no such run, or its code has no such update.
            InvalidTransition: the run is over, or ended before it accepted this; or it is held.
            AskFailed: the update raised an exception.
            TimeoutError: there was no answer in time; with an id, ask again.
        """
        _check_handle(self, handle)
        asked = self._asked
        payload = asked.arguments.encode(args, kwargs)[0]
        update_id = self._id or new_token()
        answered = await handle.question(
            asked.topic,
            payload,
            timeout=self._timeout,
            update_id=update_id,
            answer_key=answer_key(asked.name, update_id),
        )
        result: R_co = asked.result.decode(answered)
        return result

    def with_options(
        self,
        *,
        id: str | EllipsisType | None = ...,
        timeout: Seconds | EllipsisType | None = ...,
    ) -> Update[P, R_co]:
        """Return a copy with an id, under which a run is asked once, or a limit on the wait."""
        update_id = self._id
        if id is not ...:
            update_id = None if id is None else checked_key(id)
        return Update(self._asked, id=update_id, timeout=_limit(self._timeout, timeout))

    def __repr__(self) -> str:
        return f"<{self._asked.where}>"


def update(fn: object, name: str | None, known: dict[str, Asked]) -> Update[..., Any]:
    """Define an update of the version that `known` are the queries and updates of."""
    function = checked_function(fn, "an update")
    where = f"update {function.__qualname__} ({source(function)})"
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{where} is a plain def; make it `async def {function.__name__}(run: Run, …)`"
        )
    first = next(iter(resolved(function, where).parameters.values()), None)
    if first is None or first.annotation is not Run:
        raise DefinitionError(f"{where}: its first parameter is given the run; write `run: Run`")
    asked = Asked(UPDATE, checked_name(name or default_name(function), where), function)
    add(asked, known)
    return Update(asked)


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
