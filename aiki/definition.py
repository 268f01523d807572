"""What every definition knows of its function: what it is, which it is, where it stands."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, cast

from aiki.annotations import resolved
from aiki.errors import DefinitionError
from aiki.names import kebab_case

F = TypeVar("F", bound=Callable[..., Any])


def checked_function(value: object, what: str) -> FunctionType:
    """Return `value` if it can be the code of a definition; `what` it is to be is in the message.

    Raises `DefinitionError` for what is not a plain function or a coroutine function. Methods and
    other callables are refused too: they carry state, which a replay elsewhere would not have.
    """
    if not isinstance(value, FunctionType):
        raise DefinitionError(
            f"{what} is a function, not {_kind(value)}; define a `def` that calls it"
        )
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        raise DefinitionError(
            f"{what} cannot be the generator {value.__qualname__} ({source(value)}): what it "
            "yields would be lost; return a list instead"
        )
    return value


def checked_handler(handler: object, run_type: type) -> FunctionType:
    """Return `handler` if it can be that of a workflow: `async def handler(run: Run, …)`."""
    fn = checked_function(handler, "a workflow handler")
    where = f"workflow handler {fn.__qualname__} ({source(fn)})"
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(
            f"{where} is a plain def; make it `async def {fn.__name__}(run: Run, …)`"
        )
    run = next(iter(resolved(fn, where).parameters.values()), None)
    if run is None or run.kind not in {run.POSITIONAL_ONLY, run.POSITIONAL_OR_KEYWORD}:
        raise DefinitionError(f"{where} has no parameter for the run; begin with `run: Run`")
    if run.annotation is not run_type:
        raise DefinitionError(
            f"{where}: its first parameter is given the run, but is written as `{run}`; begin with "
            "`run: Run`"
        )
    return fn


def source(fn: FunctionType) -> str:
    """Return "file:line" of the function inside its decorators."""
    code = _innermost(fn).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def caller() -> str:
    """Return "file:line" of the code outside the library that is defining something."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("aiki."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def identity(fn: FunctionType) -> tuple[str, str]:
    """Return module and qualified name: two definitions that share them are one, redefined.

    All lambdas of a scope have one name, so a lambda's line is part of it. The main module that
    multiprocessing imported again is still the main module.
    """
    name = fn.__qualname__
    if fn.__name__ == "<lambda>":
        name = f"{name}:{fn.__code__.co_firstlineno}"
    return ("__main__" if fn.__module__ == "__mp_main__" else fn.__module__, name)


def default_name(fn: FunctionType) -> str:
    """Return the name of a definition that was given none: its function's, in kebab case."""
    name = kebab_case(fn.__name__)
    if not name or fn.__name__ == "<lambda>":
        raise DefinitionError(f'{fn.__qualname__} ({source(fn)}) gives no name; add name="…"')
    return name


def appearance(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return the attributes by which a definition shows its function to `help` and `inspect`."""
    names = ("__module__", "__name__", "__qualname__", "__doc__")
    return {name: getattr(fn, name) for name in names} | {"__wrapped__": fn}


def portable(fn: F) -> F:
    """Return what a pickled definition holds in place of its function.

    Pickle would store a decorated function by value, since its module has the definition under
    its name, and with it whatever the function uses. If the module can be imported, a reference
    to what the definition wraps will do.
    """
    module, name = fn.__module__, fn.__qualname__
    if module in {"__main__", "__mp_main__"}:
        return fn
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if getattr(found, "__wrapped__", None) is not fn:
        return fn
    return cast("F", _Reference(module, name))


class _Reference:
    """The function that an importable definition wraps; unpickled, it is that function."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        return _referred, (self.module, self.name)


def _referred(module: str, name: str) -> object:
    found: object = importlib.import_module(module)
    for part in (*name.split("."), "__wrapped__"):
        found = getattr(found, part)
    return found


def _innermost(fn: FunctionType) -> FunctionType:
    inner = inspect.unwrap(fn)
    return inner if isinstance(inner, FunctionType) else fn


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return type(value).__qualname__
