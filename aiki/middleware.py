"""What is called around starts, attempts and runs, and what else a workflow brings with it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from aiki.call import Call
from aiki.context import Lifespan, RunContext
from aiki.current_step import CurrentStep
from aiki.errors import DataError, DefinitionError, Failure
from aiki.handle import Handle
from aiki.run import Run
from aiki.step import StepSpec

T = TypeVar("T")


class Middleware:
    """Called around what is done. Override what you need; the rest costs nothing.

    Each method calls `call_next` once and gives what that gave, or does something else. What it
    raises is what the start, the attempt or the run has failed with.
    """

    async def start(
        self, call: Call[Any], call_next: Callable[[Call[Any]], Awaitable[Handle[Any]]], /
    ) -> Handle[Any]:
        """Start a run, in the process of the client that has this middleware."""
        return await call_next(call)

    async def task(
        self,
        step: CurrentStep,  # noqa: ARG002 - for who overrides it
        call_next: Callable[[], Awaitable[Any]],
        /,
    ) -> Any:
        """Make one attempt of a step; recorded steps make none."""
        return await call_next()

    async def run(
        self,
        run: Run,  # noqa: ARG002 - for who overrides it
        call_next: Callable[[], Awaitable[Any]],
        /,
    ) -> Any:
        """Execute a run's handler, from its first line, whenever a worker has taken the run.

        `run.is_replaying` says whether it repeats what is recorded. Where the run leaves the
        worker before its end, `asyncio.CancelledError` is raised here.
        """
        return await call_next()


class FailureTask(Protocol):
    """A task that takes how a run has failed."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def __call__(self, failure: Failure, /) -> object:
        """Be told of the failure."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a version of a workflow brings with it, beside its handler."""

    lifespans: tuple[Lifespan[Any], ...] = ()
    context: RunContext[Any] | None = None
    middleware: tuple[Middleware, ...] = ()
    on_failure: StepSpec | None = None


NO_HOOKS = Hooks()


def checked_hooks(
    where: str,
    *,
    lifespan: Lifespan[Any] | Sequence[Lifespan[Any]],
    context: RunContext[Any] | None,
    middleware: Middleware | Sequence[Middleware],
) -> Hooks:
    """Return what was given to a workflow or a worker. Raises `DefinitionError`."""
    given: object = context
    if given is not None and not isinstance(given, RunContext):
        raise DefinitionError(
            f"{where}: context is what aiki.run_context makes of a function, not {_shown(given)}"
        )
    kind = cast("type[Lifespan[Any]]", Lifespan)
    lifespans = _several(lifespan, kind, f"{where}: lifespan", "what aiki.lifespan makes")
    around = _several(middleware, Middleware, f"{where}: middleware", "an aiki.Middleware")
    for each in around:
        for name in ("start", "task", "run"):
            if not inspect.iscoroutinefunction(getattr(each, name)):
                raise DefinitionError(f"{where}: {type(each).__qualname__}.{name} is no async def")
    return Hooks(lifespans, context, around) if lifespans or context or around else NO_HOOKS


def told_by(hooks: Hooks, task: object, where: str) -> Hooks:
    """Return hooks with a task that is told of failures, if any. Raises `DefinitionError`."""
    if task is None:
        return hooks
    spec = getattr(task, "_spec", None)
    if not isinstance(spec, StepSpec):
        raise DefinitionError(f"{where}: on_failure is a task, not {_shown(task)}")
    try:
        spec.arguments.encode((Failure("ValueError", "tried out", ""),), {})
    except DataError as error:
        raise DefinitionError(
            f"{where}: task {spec.name} ({spec.source}) is told of failures, so it takes one "
            f"argument, an aiki.Failure: {error}"
        ) from None
    return replace(hooks, on_failure=spec)


def overriding(middleware: Sequence[Middleware], name: str) -> tuple[Any, ...]:
    """Give those that do something of their own there."""
    passed_on = getattr(Middleware, name)
    return tuple(each for each in middleware if getattr(type(each), name) is not passed_on)


def _several(given: object, kind: type[T], where: str, what: str) -> tuple[T, ...]:
    if isinstance(given, kind):
        return (given,)
    if not isinstance(given, list | tuple):
        raise DefinitionError(f"{where} is {what}, or a list of them, not {_shown(given)}")
    for each in cast("Sequence[object]", given):
        if not isinstance(each, kind):
            raise DefinitionError(f"{where} is {what}, not {_shown(each)}")
    return tuple(cast("Sequence[T]", given))


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}; make one of it"
    return f"{type(value).__qualname__} {value!r:.60}"
