"""Workflows, their versions, and what starts one run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import EllipsisType
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    overload,
)

from aiki.ask import Query, Update, query, update
from aiki.asked import Asked
from aiki.call import Call, PlainCall, StartOptions
from aiki.children import ChildHandle
from aiki.client import Client
from aiki.codec import Arguments, Codec
from aiki.context import Lifespan, RunContext
from aiki.definition import (
    appearance,
    checked_handler,
    identity,
    portable,
    source,
)
from aiki.durations import Seconds
from aiki.errors import DefinitionError
from aiki.handle import Handle
from aiki.middleware import NO_HOOKS, FailureTask, Hooks, Middleware, checked_hooks, told_by
from aiki.names import checked_key, checked_name, checked_run_id, checked_version
from aiki.options import (
    OnConflict,
    OnParentClose,
    When,
    check_order,
    checked_memo,
    checked_on_close,
    checked_on_conflict,
    checked_tags,
    deadline,
    due,
)
from aiki.retry import RetryPolicy, checked_retry, never
from aiki.run import Run

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
A = TypeVar("A")
R_co = TypeVar("R_co", covariant=True)

_NEVER = never()


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
    hooks: Hooks = NO_HOOKS
    retry: RetryPolicy = _NEVER
    asked: dict[str, Asked] = field(default_factory=dict[str, Asked])

    def __post_init__(self) -> None:
        vars(self).update(appearance(self.handler))

    async def start(self, client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Start a run and return its handle, once the store has it.

        Raises `DataError` for arguments that their annotations do not describe, before anything
        is sent, and `Conflict` when the idempotency key belongs to a run with other input.
        """
        given: object = client
        if isinstance(given, Run):
            raise DefinitionError(f"{self} is started by a run with start_as_child(run, …)")
        if not isinstance(given, Client):
            raise DefinitionError(
                f"{self} is started with the client that aiki.client() gives, not with "
                f"{type(client).__qualname__}"
            )
        return await client.start_call(self.bind(*args, **kwargs))

    async def start_as_child(
        self, run: Run, /, *args: P.args, **kwargs: P.kwargs
    ) -> ChildHandle[R_co]:
        """Start a run as a child of `run`, as a recorded step, and return its handle.

        What becomes of it when `run` ends says `with_options(on_parent_close=…)`: by default it is
        cancelled. An idempotency key is that of the parent: the same key gives the same child.
        Raises `DataError` for arguments that their annotations do not describe.
        """
        if not isinstance(run, Run):
            raise DefinitionError(
                f"{self} is started as a child of the run that the handler was given, not of "
                f"{type(run).__qualname__}"
            )
        run.check_here(f"{self} was started as a child")
        return await run.children.start(self.bind(*args, **kwargs))

    def handle(self, client: Client, run_id: str) -> Handle[R_co]:
        """Return a handle on a run of this version by its id; nothing is asked of the store.

        Raises `DataError` for what can be no id.
        """
        return client.typed_handle(checked_run_id(run_id), self.result)

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
        tags: Sequence[str] | EllipsisType = ...,
        memo: Mapping[str, Any] | EllipsisType = ...,
        start_by: When | EllipsisType | None = ...,
        finish_by: When | EllipsisType | None = ...,
        on_parent_close: OnParentClose | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
        delay: Seconds | EllipsisType | None = ...,
        start_at: datetime | EllipsisType | None = ...,
    ) -> Start[P, R_co]:
        """Return a copy with other options; those left out stay as they are."""
        options = self.options
        if pool is not ...:
            options = replace(options, pool=checked_name(pool, f"{self}: pool"))
        if idempotency_key is not ...:
            key = None if idempotency_key is None else checked_key(idempotency_key)
            options = replace(options, idempotency_key=key)
        if on_conflict is not ...:
            options = replace(options, on_conflict=checked_on_conflict(on_conflict))
        if tags is not ...:
            options = replace(options, tags=checked_tags(tags, options.tags))
        if memo is not ...:
            options = replace(options, memo=checked_memo(memo, options.memo))
        if start_by is not ...:
            options = replace(options, start_by=deadline(start_by, "start_by"))
        if finish_by is not ...:
            options = replace(options, finish_by=deadline(finish_by, "finish_by"))
        if on_parent_close is not ...:
            options = replace(options, on_parent_close=checked_on_close(on_parent_close))
        if delay is not ... or start_at is not ...:
            at = due(None if delay is ... else delay, None if start_at is ... else start_at)
            options = replace(options, at=at)
        check_order(options.at, start_by=options.start_by, finish_by=options.finish_by)
        return Start(
            name=self.name,
            version=self.version,
            handler=self.handler,
            arguments=self.arguments,
            result=self.result,
            identity=self.identity,
            source=self.source,
            options=options,
            retry=self.retry,
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

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> PlainCall[R_co]:
        """Return the start with its arguments, for `start_many` and `schedule`."""
        call = super().bind(*args, **kwargs)
        return PlainCall(call.workflow, call.version, call.payload, call.result, call.options)

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
    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        tags: Sequence[str] | EllipsisType = ...,
        memo: Mapping[str, Any] | EllipsisType = ...,
        start_by: Seconds | EllipsisType | None = ...,
        finish_by: Seconds | EllipsisType | None = ...,
        retry: RetryPolicy | EllipsisType = ...,
        on_parent_close: OnParentClose | EllipsisType = ...,
    ) -> WorkflowVersion[P, R_co]: ...
    @overload
    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        tags: Sequence[str] | EllipsisType = ...,
        memo: Mapping[str, Any] | EllipsisType = ...,
        start_by: When | EllipsisType | None = ...,
        finish_by: When | EllipsisType | None = ...,
        on_parent_close: OnParentClose | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
        delay: Seconds | EllipsisType | None = ...,
        start_at: datetime | EllipsisType | None = ...,
    ) -> Start[P, R_co]: ...
    def with_options(
        self,
        *,
        pool: str | EllipsisType = ...,
        tags: Sequence[str] | EllipsisType = ...,
        memo: Mapping[str, Any] | EllipsisType = ...,
        start_by: When | EllipsisType | None = ...,
        finish_by: When | EllipsisType | None = ...,
        on_parent_close: OnParentClose | EllipsisType = ...,
        idempotency_key: str | EllipsisType | None = ...,
        on_conflict: OnConflict | EllipsisType = ...,
        delay: Seconds | EllipsisType | None = ...,
        start_at: datetime | EllipsisType | None = ...,
        retry: RetryPolicy | EllipsisType = ...,
    ) -> Start[P, R_co]:
        """Return a copy with other options; those left out stay as they are.

        `tags` and `memo` are added to those that there are. `start_by` and `finish_by` are
        deadlines, at which the run is cancelled where it was never claimed, or is not over; a
        length of time counts from when the run is due to start. `on_parent_close` says what becomes
        of a child when its parent ends: "cancel", "abandon" (it goes on) or "wait" (the parent ends
        after it). `retry` is the policy of workers where the copy is registered.

        `idempotency_key`, `on_conflict`, `delay`, `start_at` and a deadline that is a datetime are
        about one run, and make it a `Start`. A second start with the same key and the same input
        returns the same run, until its retention ends; with other input it raises `Conflict`, or
        returns the run with `on_conflict="return_existing"`. The key is shared by all versions of
        the workflow. A run with a delay, or to start at a time that is to come, is `scheduled`.
        """
        start = super().with_options(
            pool=pool,
            tags=tags,
            memo=memo,
            start_by=start_by,
            finish_by=finish_by,
            on_parent_close=on_parent_close,
            idempotency_key=idempotency_key,
            on_conflict=on_conflict,
            delay=delay,
            start_at=start_at,
        )
        of_one_run = any(
            option is not ... for option in (idempotency_key, on_conflict, delay, start_at)
        ) or any(isinstance(by, datetime) for by in (start_by, finish_by))
        if of_one_run and retry is ...:
            return start
        if of_one_run:
            raise DefinitionError(
                f"{self}: retry belongs to the definition that is registered, and the other "
                "options to one run; give them one after the other"
            )
        policy = self.retry if retry is ... else checked_retry(retry, str(self))
        return replace(self, options=start.options, retry=policy)


class Workflow:
    """A named workflow, of which there are versions. Made by `workflow`."""

    def __init__(self, name: str, hooks: Hooks = NO_HOOKS) -> None:
        self.name = checked_name(name, "workflow")
        self._hooks = hooks
        self._versions: dict[str, WorkflowVersion[..., Any]] = {}

    @property
    def versions(self) -> list[WorkflowVersion[..., Any]]:
        """The versions, in the order of their definition."""
        return list(self._versions.values())

    @overload
    def v(
        self,
        version: str,
        /,
        *,
        on_failure: FailureTask | None = None,
        retry: RetryPolicy = ...,
    ) -> Callable[
        [Callable[Concatenate[Run, P], Coroutine[Any, Any, R]]], WorkflowVersion[P, R]
    ]: ...
    @overload
    def v(
        self,
        version: str,
        /,
        *,
        exec: Callable[Concatenate[Run, P], Coroutine[Any, Any, R]],
        on_failure: FailureTask | None = None,
        retry: RetryPolicy = ...,
    ) -> WorkflowVersion[P, R]: ...
    def v(
        self,
        version: str,
        /,
        *,
        exec: Callable[..., Any] | None = None,
        on_failure: FailureTask | None = None,
        retry: RetryPolicy = _NEVER,
    ) -> Any:
        """Define a version, MAJOR.MINOR.PATCH: `@wf.v("1.0.0")` or `wf.v("1.0.0", exec=fn)`.

        The handler is `async def handler(run: Run, …)`. Its other parameters are the run's input,
        and what it returns its result, stored as JSON by their annotations. `on_failure` is a task
        that takes an `aiki.Failure`, executed as the last step of a run that fails. With a `retry`
        policy, a handler that fails is called again; what has a result is not executed again.
        Raises `DefinitionError` for what cannot work, and for another handler of the same version.
        """
        number = checked_version(version, f"workflow {self.name}")
        where = f"workflow {self.name} {number}"
        policy = checked_retry(retry, where)
        hooks = told_by(self._hooks, on_failure, where)
        if exec is not None:
            return self._define(number, policy, hooks, exec)
        return partial(self._define, number, policy, hooks)

    def _define(
        self, version: str, retry: RetryPolicy, hooks: Hooks, handler: object
    ) -> WorkflowVersion[..., Any]:
        fn = checked_handler(handler, Run)
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
            retry=retry,
            hooks=hooks,
        )
        refuse_second(self._versions.get(version), defined)
        self._versions[version] = defined
        return defined

    def __repr__(self) -> str:
        return f"<workflow {self.name}: {', '.join(self._versions) or 'no versions'}>"


def workflow(
    name: str,
    *,
    lifespan: Lifespan[Any] | Sequence[Lifespan[Any]] = (),
    context: RunContext[Any] | None = None,
    middleware: Middleware | Sequence[Middleware] = (),
) -> Workflow:
    """Make a workflow; its versions are defined by `v`.

    Workers that serve it enter each `lifespan`; `context` makes a value for each of its runs;
    `middleware` is called around its runs and their steps. Raises `DefinitionError` for what
    cannot work.
    """
    where = f"workflow {checked_name(name, 'workflow')}"
    hooks = checked_hooks(where, lifespan=lifespan, context=context, middleware=middleware)
    return Workflow(name, hooks)


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
