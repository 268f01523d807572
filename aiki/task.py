"""Tasks: the steps of a workflow, each executed once and recorded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from types import EllipsisType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from aiki.codec import Arguments, Codec
from aiki.current_step import is_in_step
from aiki.definition import (
    appearance,
    checked_function,
    default_name,
    identity,
    portable,
    source,
)
from aiki.durations import Seconds, seconds
from aiki.errors import DataError, DefinitionError
from aiki.names import checked_name
from aiki.retry import RetryPolicy, checked_retry, never
from aiki.run import Run
from aiki.step import StepSpec

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)

_NEVER = never()


class Task(Generic[P, R_co, C_co]):
    """A step that a workflow can start; called directly, it is the plain function.

    Made by `task`. `C_co` is what a direct call gives: the result, or a coroutine of it.
    """

    def __init__(self, spec: StepSpec) -> None:
        vars(self).update(appearance(spec.fn))
        self._spec = spec

    @property
    def name(self) -> str:
        """The name under which the journal records the task."""
        return self._spec.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the plain function, outside of any run."""
        result: C_co = self._spec.fn(*args, **kwargs)
        return result

    # Not a plain method that hands on the run's coroutine, though it is the hottest call there
    # is: for mypy, `asyncio.gather` over anything but true coroutine functions gives `Any`.
    async def start(self, run: Run, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Execute the task as a step of `run`, or take its recorded result.

        Raises `DataError` for arguments that their annotations do not describe, `TaskFailed` when
        the attempts are used up, and `DefinitionError` where there is no run to be a step of.
        """
        if not isinstance(run, Run):
            raise _no_run(self._spec, run)
        result: R_co = await run.execute_step(self._spec, args, kwargs)
        return result

    def prepare(
        self, run: Run, /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[str, Callable[[], Coroutine[Any, Any, object]]]:
        """Check the arguments of a start; give the task's name and the start itself."""
        if not isinstance(run, Run):
            raise _no_run(self._spec, run)
        # As they are now: the handler may change them before they are needed
        _, kept, named = self._spec.arguments.encode(args, kwargs)
        return self.name, lambda: run.execute_step(self._spec, kept, named)

    def with_options(
        self,
        *,
        retry: RetryPolicy | EllipsisType = ...,
        timeout: Seconds | EllipsisType | None = ...,
        schedule_to_close: Seconds | EllipsisType | None = ...,
        heartbeat_timeout: Seconds | EllipsisType | None = ...,
        once: bool | EllipsisType = ...,
    ) -> Task[P, R_co, C_co]:
        """Return a copy with other options; those left out stay as they are."""
        spec = self._spec
        where = _where(spec.name, spec.source)
        if retry is not ...:
            spec = replace(spec, retry=checked_retry(retry, where))
        if timeout is not ...:
            spec = replace(spec, timeout=_checked_limit(timeout, "timeout", where))
        if schedule_to_close is not ...:
            closes = _checked_limit(schedule_to_close, "schedule_to_close", where)
            spec = replace(spec, schedule_to_close=closes)
        if heartbeat_timeout is not ...:
            beats = _checked_limit(heartbeat_timeout, "heartbeat_timeout", where)
            spec = replace(spec, heartbeat_timeout=beats)
        if once is not ...:
            spec = replace(spec, once=_checked_once(once, where))
        return Task(spec)

    def __repr__(self) -> str:
        return f"<task {self._spec.name} ({self._spec.source})>"

    def __getstate__(self) -> dict[str, Any]:
        fn = portable(self._spec.fn)
        return vars(self) | {"_spec": replace(self._spec, fn=fn), "__wrapped__": fn}


class _TaskDecorator:
    """What `task(…)` without a function gives: it awaits one."""

    def __init__(self, make: Callable[[object], Task[..., Any, Any]]) -> None:
        self._make = make

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Task[..., Any, Any]:
        return self._make(fn)


@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    exec: Callable[P, Coroutine[Any, Any, R]],
    retry: RetryPolicy = ...,
    timeout: Seconds | None = None,
    schedule_to_close: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    once: bool = False,
) -> Task[P, R, Coroutine[Any, Any, R]]: ...
@overload
def task(
    *,
    name: str | None = None,
    exec: Callable[P, R],
    retry: RetryPolicy = ...,
    timeout: Seconds | None = None,
    schedule_to_close: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    once: bool = False,
) -> Task[P, R, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retry: RetryPolicy = ...,
    timeout: Seconds | None = None,
    schedule_to_close: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    once: bool = False,
) -> _TaskDecorator: ...
def task(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    exec: Callable[..., Any] | None = None,
    retry: RetryPolicy = _NEVER,
    timeout: Seconds | None = None,
    schedule_to_close: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    once: bool = False,
) -> Any:
    """Make a task of a function: `@task`, `@task(…)` or `task(name=…, exec=fn)`.

    A `def` runs in a thread, an `async def` on the loop. The name is the function's, in kebab
    case, unless given. `timeout` bounds one attempt, `schedule_to_close` all of them together with
    the delays between them, and `heartbeat_timeout` the silence between two heartbeats; without
    one it may last. `once=True` gives a second call with equal input in the same run the first
    one's result. Arguments and result are
    stored as JSON, by their annotations. Raises `DefinitionError` for what cannot work.
    """
    if fn is not None and exec is not None:
        raise DefinitionError("a task is made of one function: leave out `exec` or the other one")
    if isinstance(fn, str):
        raise DefinitionError(f"the name of a task is an option: task(name={fn!r:.100})")
    make = partial(
        _made,
        name=name,
        retry=retry,
        timeout=timeout,
        schedule_to_close=schedule_to_close,
        heartbeat_timeout=heartbeat_timeout,
        once=once,
    )
    if fn is None and exec is None:
        return _TaskDecorator(make)
    return make(exec if fn is None else fn)


def _made(
    fn: object,
    *,
    name: str | None,
    retry: RetryPolicy,
    timeout: Seconds | None,
    schedule_to_close: Seconds | None,
    heartbeat_timeout: Seconds | None,
    once: bool,
) -> Task[..., Any, Any]:
    function = checked_function(fn, "a task")
    place = source(function)
    name = checked_name(default_name(function) if name is None else name, f"task ({place})")
    where = _where(name, place)
    return Task(
        StepSpec(
            name=name,
            fn=function,
            is_async=inspect.iscoroutinefunction(function),
            arguments=Arguments(function, skip=0, where=where),
            result=Codec.of_result(function, where),
            retry=checked_retry(retry, where),
            timeout=_checked_limit(timeout, "timeout", where),
            schedule_to_close=_checked_limit(schedule_to_close, "schedule_to_close", where),
            heartbeat_timeout=_checked_limit(heartbeat_timeout, "heartbeat_timeout", where),
            once=_checked_once(once, where),
            identity=identity(function),
            source=place,
        )
    )


def _where(name: str, place: str) -> str:
    return f"task {name} ({place})"


def _checked_limit(given: Seconds | None, what: str, where: str) -> float | None:
    if given is None:
        return None
    limit = seconds(given, what=f"{where}: {what}")
    if limit == 0:
        raise DataError(f"{where}: a {what} of 0 would fail every attempt; None sets no limit")
    return limit


def _checked_once(once: object, where: str) -> bool:
    if not isinstance(once, bool):
        raise DefinitionError(f"{where}: once is True or False, not {type(once).__qualname__}")
    return once


def _no_run(spec: StepSpec, given: object) -> DefinitionError:
    started = f"{_where(spec.name, spec.source)} was started with {type(given).__qualname__}"
    if is_in_step():
        return DefinitionError(
            f"{started} inside a task; a task is one step, so start it from the workflow, or call "
            "it directly to run its code within this step"
        )
    return DefinitionError(
        f"{started} in place of a run; start it in a workflow's handler, with the `run` that the "
        "handler was given"
    )
