"""What code of runs can take without its being stored: of a worker's lifespan, of a run's context.

Each is defined by one function and is its own way to the value, `database.get()`, so that the
type checker knows what comes. The values themselves are in a context variable: of each worker,
and of each run.
"""

from __future__ import annotations

import contextvars
import inspect
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Generic, TypeVar, overload

from aiki.errors import DefinitionError
from aiki.records import ClaimedRun

T = TypeVar("T")

_NONE: Mapping[object, Any] = MappingProxyType({})
_values: contextvars.ContextVar[Mapping[object, Any]] = contextvars.ContextVar(
    "aiki_values", default=_NONE
)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run before its handler is called."""

    id: str
    workflow: str
    version: str
    created: datetime
    claims: int
    """How often a worker has taken the run, this time included."""
    _input: bytes = field(repr=False)

    @property
    def input(self) -> Any:
        """The run's input as plain JSON: an object of the handler's arguments, by name."""
        return json.loads(self._input)


def run_info(claimed: ClaimedRun) -> RunInfo:
    """Give what a claim tells of a run."""
    return RunInfo(
        claimed.ownership.run_id,
        claimed.workflow,
        claimed.version,
        datetime.fromtimestamp(claimed.created / 1000, UTC),
        int(claimed.ownership.epoch),
        claimed.input,
    )


class _Provided(Generic[T]):
    """A value that is made for workers or runs, and the way to it."""

    _KIND = ""
    _GIVEN = ""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self.__module__ = getattr(make, "__module__", None) or __name__
        self.__name__ = getattr(make, "__name__", type(make).__name__)
        self.__doc__ = make.__doc__

    def get(self) -> T:
        """Give the value, in the code of a run: its handler, its tasks, what they call.

        Raises `DefinitionError` where there is none.
        """
        try:
            value: T = _values.get()[self]
        except KeyError:
            raise DefinitionError(f"{self} has no value here: {self._GIVEN}") from None
        return value

    @contextmanager
    def using(self, value: T) -> Generator[T]:
        """Let `get` give this value within a `with` block: for tests that call tasks directly."""
        token = provide(self, value)
        try:
            yield value
        finally:
            _values.reset(token)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return f"{self._KIND} {self.__name__} ({self.__module__})"

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        # The same object in each process that can import it: its identity is what finds the value.
        module = sys.modules.get(self.__module__)
        if module is not None and self.__module__ not in {"__main__", "__mp_main__"}:
            for name, value in vars(module).items():
                if value is self:
                    return name
        return super().__reduce_ex__(protocol)


class Lifespan(_Provided[T]):
    """A value that a worker makes before it claims its first run, and ends after its last one.

    Made by `lifespan`.
    """

    _KIND = "lifespan"
    _GIVEN = (
        "it is given to the runs of a workflow that names it, workflow(…, lifespan=…), and to all "
        "of a worker, aiki.worker(…, lifespan=…)"
    )

    def open(self) -> AbstractAsyncContextManager[T]:
        """Give what makes the value when it is entered. Raises `DefinitionError` if none does."""
        if inspect.isasyncgenfunction(self._make):
            return asynccontextmanager(self._make)()
        opened: AbstractAsyncContextManager[T] = self._make()
        if not hasattr(opened, "__aenter__"):
            raise DefinitionError(
                f"{self} gave {type(opened).__qualname__}, which is no async context manager; "
                "write it as an `async def` that yields the value once"
            )
        return opened


class RunContext(_Provided[T]):
    """A value that is made for each execution of a run by a worker. Made by `run_context`."""

    _KIND = "run context"
    _GIVEN = "it is given to the runs of a workflow that names it, workflow(…, context=…)"

    @asynccontextmanager
    async def open(self, info: RunInfo) -> AsyncGenerator[T]:
        """Make the value for a run."""
        if inspect.isasyncgenfunction(self._make):
            async with asynccontextmanager(self._make)(info) as value:
                yield value
        else:
            made = self._make(info)
            yield await made if inspect.iscoroutine(made) else made


def provide(provided: _Provided[T], value: T) -> contextvars.Token[Mapping[object, Any]]:
    """Let `get` give a value to the caller's context, and what is made of it."""
    return _values.set({**_values.get(), provided: value})


@overload
def lifespan(make: Callable[[], AsyncIterator[T]], /) -> Lifespan[T]: ...
@overload
def lifespan(make: Callable[[], AbstractAsyncContextManager[T]], /) -> Lifespan[T]: ...
def lifespan(make: Callable[[], Any], /) -> Lifespan[Any]:
    """Define what a worker makes before it claims its first run, and ends after its last one.

    `make` is an `async def` that yields the value once, or gives an async context manager. Raises
    `DefinitionError` for what cannot work.
    """
    _check(make, "a lifespan", ())
    if inspect.iscoroutinefunction(make):
        raise DefinitionError(
            f"a lifespan yields its value, and {make.__qualname__} returns it; write `yield` in "
            "place of `return`, and behind it what is to be done at the end"
        )
    return Lifespan(make)


@overload
def run_context(make: Callable[[RunInfo], AsyncIterator[T]], /) -> RunContext[T]: ...
@overload
def run_context(make: Callable[[RunInfo], Coroutine[Any, Any, T]], /) -> RunContext[T]: ...
@overload
def run_context(make: Callable[[RunInfo], T], /) -> RunContext[T]: ...
def run_context(make: Callable[[RunInfo], Any], /) -> RunContext[Any]:
    """Define what is made for a run whenever a worker takes it, from what is known of the run.

    `make` is a `def` or `async def` that returns the value, or an `async def` that yields it once.
    Raises `DefinitionError` for what cannot work.
    """
    _check(make, "a run context", (None,))
    return RunContext(make)


def _check(make: object, what: str, arguments: tuple[object, ...]) -> None:
    if not callable(make):
        raise DefinitionError(f"{what} is made by a function, not by {type(make).__qualname__}")
    name = getattr(make, "__qualname__", type(make).__qualname__)
    if inspect.isgeneratorfunction(make):
        raise DefinitionError(f"{what} is no plain generator; make {name} an `async def`")
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as error:
        takes = "the run's RunInfo" if arguments else "nothing"
        raise DefinitionError(f"{what} is called with {takes}, but for {name}: {error}") from None
    except ValueError:  # something of C that does not say
        pass
