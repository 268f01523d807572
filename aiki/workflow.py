"""Workflows, their versions, and what starts one run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from types import EllipsisType, FunctionType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from aiki.annotations import resolved
from aiki.ask import Query, Update, query, update
from aiki.asked import Asked
from aiki.client import Call, Client, StartOptions
from aiki.codec import Arguments, Codec
from aiki.definition import (
    appearance,
    checked_function,
    identity,
    portable,
    source,
)
from aiki.errors import DataError, DefinitionError
from aiki.handle import Handle
from aiki.names import checked_key, checked_name, checked_version
from aiki.run import Run

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
A = TypeVar("A")
R_co = TypeVar("R_co", covariant=True)

OnConflict: TypeAlias = Literal["error", "return_existing"]


@dataclass(frozen=True, eq=False, repr=False)
class Start(Generic[P, R_co]):
    """What starts a run: a version of a workflow, with options.

    Only a `WorkflowVersion` can be registered: with options about one run, such as an idempotency
    key, it is no longer a definition, and `with_options` returns a mere `Start`.
    """

    name: str
    version: str
    handler: Callable[..., Coroutine[Any, Any, R_co]]
    arguments: Arguments
    result: Codec
    identity: tuple[str, str]
    source: str
    options: StartOptions
    asked: dict[str, Asked] = field(default_factory=dict[str, Asked])

    def __post_init__(self) -> None:
        vars(self).update(appearance(self.handler))

    async def start(self, client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Start a run and return its handle, once the store has it.

        Raises `DataError` for arguments that their annotations do not describe, before anything
        is sent, and `Conflict` when the idempotency key belongs to a run with other input.
        """
        if not isinstance(client, Client):
            raise DefinitionError(
                f"{self} is started with the client that aiki.client() gives, not with "
                f"{type(client).__qualname__}"
            )
        return await client.start_call(self.bind(*args, **kwargs))

    def handle(self, client: Client, run_id: str) -> Handle[R_co]:
        """Return a handle on a run of this version by its id; nothing is asked of the store."""
        return client.typed_handle(run_id, self.result)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Return the start with its arguments, for `start_many`."""
        payload, _, _ = self.arguments.encode(args, kwargs)
        return Call(
            workflow=self.name,
            version=self.version,
            payload=payload,
            result=self.result,
            options=self.options,
        )

    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
    ) -> Start[P, R_co]:
        """Return a copy with other options; those left out stay as they are."""
        options = self.options
        if pool is not ...:
            options = replace(options, pool=checked_name(pool, f"{self}: pool"))
        if idempotency_key is not ...:
            key = None if idempotency_key is None else checked_key(idempotency_key)
            options = replace(options, idempotency_key=key)
        if on_conflict is not ...:
            options = replace(options, on_conflict=_checked_on_conflict(on_conflict))
        return Start(
            name=self.name,
            version=self.version,
            handler=self.handler,
            arguments=self.arguments,
            result=self.result,
            identity=self.identity,
            source=self.source,
            options=options,
        )

    def __str__(self) -> str:
        return f"workflow {self.name} {self.version} ({self.source})"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self}>"

    def __getstate__(self) -> dict[str, Any]:
        handler = portable(self.handler)
        return vars(self) | {"handler": handler, "__wrapped__": handler}


class WorkflowVersion(Start[P, R_co]):
    """One version of a workflow; called directly, it is the plain handler.

    Made by `Workflow.v`.
    """

    @property
    def pool(self) -> str:
        """The pool of workers that its runs are meant for."""
        return self.options.pool

    def __call__(self, run: Run, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the plain handler, outside of any run."""
        return self.handler(run, *args, **kwargs)

    @overload
    def query(self, fn: Callable[Concatenate[Any, Q], A], /) -> Query[Q, A]: ...
    @overload
    def query(
        self, /, *, name: str
    ) -> Callable[[Callable[Concatenate[Any, Q], A]], Query[Q, A]]: ...
    def query(self, fn: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
        """Define what a run of this version can be asked: `@v1.query`, or `@v1.query(name=…)`.

        It is a plain `def` whose first parameter is the run's state, annotated with the class that
        the handler gives to `run.state`. It must not change the state. Its other parameters come
        from who asks. Raises `DefinitionError` for what cannot work.
        """
        if fn is None:
            return partial(query, name=name, known=self.asked)
        return query(fn, name, self.asked)

    @overload
    def update(
        self, fn: Callable[Concatenate[Run, Any, Q], Coroutine[Any, Any, A]], /
    ) -> Update[Q, A]: ...
    @overload
    def update(
        self, /, *, name: str
    ) -> Callable[[Callable[Concatenate[Run, Any, Q], Coroutine[Any, Any, A]]], Update[Q, A]]: ...
    def update(self, fn: Callable[..., Any] | None = None, /, *, name: str | None = None) -> Any:
        """Define how a run of this version can be changed: `@v1.update`, `@v1.update(name=…)`.

        It is an `async def` that is given the run, so that it can start tasks, sleep and wait as
        the handler can; the run's state, by the class that the handler gives to `run.state`; and
        what who asks has given. Its `validator` may refuse. Raises `DefinitionError` for what
        cannot work.
        """
        if fn is None:
            return partial(update, name=name, known=self.asked)
        return update(fn, name, self.asked)

    @overload
    def with_options(self, *, pool: str | EllipsisType = ...) -> WorkflowVersion[P, R_co]: ...
    @overload
    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
    ) -> Start[P, R_co]: ...
    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
    ) -> Start[P, R_co]:
        """Return a copy with other options; those left out stay as they are.

        `idempotency_key` and `on_conflict` are about one run, and make it a `Start`. A second
        start with the same key and the same input returns the same run, until its retention ends;
        with other input it raises `Conflict`, or returns the run with
        `on_conflict="return_existing"`. The key is shared by all versions of the workflow.
        """
        start = super().with_options(
            pool=pool, idempotency_key=idempotency_key, on_conflict=on_conflict
        )
        if idempotency_key is ... and on_conflict is ...:
            return replace(self, options=start.options)
        return start


class Workflow:
    """A named workflow, of which there are versions. Made by `workflow`."""

    def __init__(self, name: str) -> None:
        self.name = checked_name(name, "workflow")
        self._versions: dict[str, WorkflowVersion[..., Any]] = {}

    @property
    def versions(self) -> list[WorkflowVersion[..., Any]]:
        """The versions, in the order of their definition."""
        return list(self._versions.values())

    @overload
    def v(
        self, version: str, /
    ) -> Callable[
        [Callable[Concatenate[Run, P], Coroutine[Any, Any, R]]], WorkflowVersion[P, R]
    ]: ...
    @overload
    def v(
        self, version: str, /, *, exec: Callable[Concatenate[Run, P], Coroutine[Any, Any, R]]
    ) -> WorkflowVersion[P, R]: ...
    def v(self, version: str, /, *, exec: Callable[..., Any] | None = None) -> Any:
        """Define a version, MAJOR.MINOR.PATCH: `@wf.v("1.0.0")` or `wf.v("1.0.0", exec=fn)`.

        The handler is `async def handler(run: Run, …)`. Its other parameters are the run's input,
        and what it returns its result, stored as JSON by their annotations. Raises
        `DefinitionError` for what cannot work, and for another handler of the same version.
        """
        number = checked_version(version, f"workflow {self.name}")
        if exec is not None:
            return self._define(number, exec)
        return partial(self._define, number)

    def _define(self, version: str, handler: object) -> WorkflowVersion[..., Any]:
        fn = _checked_handler(handler)
        place = source(fn)
        where = f"workflow {self.name} {version} ({place})"
        defined = WorkflowVersion[..., Any](
            name=self.name,
            version=version,
            handler=fn,
            arguments=Arguments(fn, skip=1, where=where),
            result=Codec.of_result(fn, where),
            identity=identity(fn),
            source=place,
            options=StartOptions(),
        )
        refuse_second(self._versions.get(version), defined)
        self._versions[version] = defined
        return defined

    def __repr__(self) -> str:
        return f"<workflow {self.name}: {', '.join(self._versions) or 'no versions'}>"


def workflow(name: str) -> Workflow:
    """Make a workflow; its versions are defined by `v`. Raises `DefinitionError` for a bad name."""
    return Workflow(name)


def refuse_second(
    known: WorkflowVersion[..., Any] | None, defined: WorkflowVersion[..., Any]
) -> None:
    """Raise `DefinitionError` if `defined` is another handler for what `known` is the handler of.

    The same module and qualified name again is a redefinition, by a reload or in a notebook.
    """
    if known is not None and known.identity != defined.identity:
        raise DefinitionError(
            f"workflow {defined.name} {defined.version} is defined twice: at {known.source} and "
            f"at {defined.source}; give one of them another name or version"
        )


def _checked_handler(handler: object) -> FunctionType:
    fn = checked_function(handler, "a workflow handler")
    where = f"workflow handler {fn.__qualname__} ({source(fn)})"
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(
            f"{where} is a plain def; make it `async def {fn.__name__}(run: Run, …)`"
        )
    run = next(iter(resolved(fn, where).parameters.values()), None)
    if run is None or run.kind not in {run.POSITIONAL_ONLY, run.POSITIONAL_OR_KEYWORD}:
        raise DefinitionError(f"{where} has no parameter for the run; begin with `run: Run`")
    if run.annotation is not Run:
        raise DefinitionError(
            f"{where}: its first parameter is given the run, but is written as `{run}`; begin with "
            "`run: Run`"
        )
    return fn


def _checked_on_conflict(value: object) -> OnConflict:
    if value == "error":
        return "error"
    if value == "return_existing":
        return "return_existing"
    raise DataError(f'on_conflict is "error" or "return_existing", not {value!r:.100}')
