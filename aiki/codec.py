"""Python values ⇄ stored JSON, by annotation; canonical form and address.

To encode is to dump with pydantic, bring the JSON into canonical form, parse that by the
annotation, and compare with the value. So what is stored is known to give the value back.
Every step is one call into C, which is why the value is walked only when one of them
fails: to say where and why.

Canonical form: UTF-8, keys sorted, no white space, floats as Python prints them.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from json.encoder import encode_basestring
from types import NoneType
from typing import Any, NotRequired, cast

from pydantic import ConfigDict, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from aiki.annotations import Form, compiled, resolved
from aiki.envelope import check_readable
from aiki.errors import DataError, DefinitionError, LimitExceeded
from aiki.refusals import Finding, difference, hazard, unreadable, unwritable

MAX_PAYLOAD = 1024 * 1024

_canonical = json.JSONEncoder(
    allow_nan=False,
    check_circular=False,
    ensure_ascii=False,
    separators=(",", ":"),
    sort_keys=True,
).encode


def _finite(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    raise ValueError


# The common annotations whose values need no dump, no parse and no comparison.
_PRIMITIVES: dict[object, Callable[[Any], str]] = {
    NoneType: lambda _: "null",
    bool: {False: "false", True: "true"}.__getitem__,
    float: _finite,
    int: repr,
    str: encode_basestring,
}


def address(name: str, payload: bytes, secret: bytes = b"") -> str:
    """Return the address of a step: its name and a hash of its canonical input.

    With a secret, the hash tells nothing of the input to who lacks that.
    """
    return f"{name}:{blake2b(payload, key=secret, digest_size=16).hexdigest()}"


class Codec:
    """The stored form of the values of one annotation.

    `where` opens every message, such as `result of task 'charge'`. With `parameter`, the
    values lie under that name in an object of arguments. Raises `DefinitionError` if the
    annotation has no stored form. Compiled at once, or after unpickling when first used.
    """

    __slots__ = ("_annotation", "_form", "_parameter", "_primitive", "_where")

    def __init__(self, annotation: object, where: str, *, parameter: str | None = None) -> None:
        self.__setstate__((NoneType if annotation is None else annotation, where, parameter))
        self._compile()

    @classmethod
    def of_result(cls, fn: Callable[..., Any], where: str) -> Codec:
        """Return the codec of what a function returns; `where` names the function.

        Without a return annotation that may be anything which is plain JSON.
        """
        annotation = resolved(fn, where).return_annotation
        missing = annotation is inspect.Signature.empty
        return cls(Any if missing else annotation, f"result of {where}")

    @classmethod
    def _uncompiled(cls, annotation: object, where: str, parameter: str | None = None) -> Codec:
        codec = cls.__new__(cls)
        codec.__setstate__((annotation, where, parameter))
        return codec

    def __getstate__(self) -> tuple[object, str, str | None]:
        return self._annotation, self._where, self._parameter

    def __setstate__(self, state: tuple[object, str, str | None]) -> None:
        # Nothing is compiled here: the annotation may name a class that is itself still
        # being unpickled.
        self._annotation, self._where, self._parameter = state
        self._form: Form | None = None
        known = isinstance(self._annotation, type) and self._annotation in _PRIMITIVES
        self._primitive = self._annotation if known else None

    def _compile(self) -> Form:
        form = self._form = compiled(self._annotation, self._where)
        return form

    def encode(self, value: Any, *, limit: int = MAX_PAYLOAD) -> tuple[bytes, Any]:
        """Return the canonical bytes, and the value as whoever reads them will see it.

        Raises `DataError` with the path of what cannot be stored, and `LimitExceeded` for
        more than `limit` bytes.
        """
        if type(value) is self._primitive:
            try:
                data = _PRIMITIVES[self._primitive](value).encode()
            except ValueError as error:
                raise self._refusal(value, error) from error
            if len(data) > limit:
                raise _too_large(self._where, data, limit)
            return data, value
        form = self._form or self._compile()
        try:
            dumped = form.serializer.to_json(value, warnings=False)
        except Exception as error:
            raise self._refusal(value, error) from error
        if len(dumped) > limit:  # before it is parsed and copied
            raise _too_large(self._where, dumped, limit)
        try:
            data = _canonical(self._parsed(dumped)).encode()
            decoded = form.validator.validate_json(data)
        except Exception as error:
            raise self._refusal(value, error, dumped) from error
        if len(data) > limit:
            raise _too_large(self._where, data, limit)
        if found := difference(value, decoded, normalises=form.normalises):
            raise self._error(self._hazard(value) or found)
        return data, decoded

    def decode(self, data: bytes) -> Any:
        """Return the value of stored bytes; raises `DataError` with the path."""
        form = self._form or self._compile()
        try:
            return form.validator.validate_json(data)
        except Exception as error:
            check_readable(data, self._where)
            raise self._error(_finding(error, data), "read") from error

    def _parsed(self, dumped: bytes) -> Any:
        if self._parameter is None:
            return from_json(dumped, allow_inf_nan=False)
        # As deep as it will lie: the parser's limit on depth is the one on payloads.
        return from_json(b"[%b]" % dumped, allow_inf_nan=False)[0]

    def _refusal(self, value: object, error: Exception, dumped: bytes = b"") -> DataError:
        found = self._hazard(value)
        if found is None and not dumped:
            found = unwritable((self._form or self._compile()).serializer, value)
        return self._error(found or _finding(error, dumped))

    def _hazard(self, value: object) -> Finding | None:
        return hazard(value, depth=1 if self._parameter is None else 2)

    def _error(self, found: Finding, done: str = "stored") -> DataError:
        path = found.path
        if self._parameter is not None:
            path = f"$.{self._parameter}{path.removeprefix('$')}"
        return DataError(f"{self._where} cannot be {done}: {found.reason}", path=path)


def _too_large(where: str, data: bytes, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"{where} cannot be stored: {len(data):,} bytes are over the limit of {limit:,} for "
        "one payload; keep the data elsewhere and pass where it is"
    )


def _finding(error: Exception, data: bytes) -> Finding:
    if not isinstance(error, ValidationError):  # of code of the user, called by pydantic
        return Finding("$", f"{type(error).__name__}: {error}")
    try:
        plain = from_json(data)
    except ValueError:
        plain = None
    return unreadable(error, plain)


class Arguments:
    """The stored form of a function's arguments: one JSON object, by parameter name.

    The first `skip` parameters are not stored; `where` names the function, such as
    `task 'charge'`. Raises `DefinitionError` for a parameter without a usable annotation or
    default, and for `*args` and `**kwargs`, which have no names to be stored under.
    """

    __slots__ = (
        "_defaults",
        "_keywords",
        "_names",
        "_object",
        "_parts",
        "_positionals",
        "_signature",
        "_where",
    )

    def __init__(self, fn: Callable[..., Any], *, skip: int, where: str) -> None:
        signature = resolved(fn, where)
        parameters = list(signature.parameters.values())
        _check_parameters(parameters, skip, where)
        self.__setstate__((signature.replace(parameters=parameters[skip:]), where))
        for place, _, codec in self._parts:
            codec._compile()
            if (name := self._names[place]) in self._defaults:
                try:
                    codec.encode(self._defaults[name])
                except DataError as error:
                    raise DefinitionError(f"the default of {error}") from error

    def __getstate__(self) -> tuple[inspect.Signature, str]:
        return self._signature, self._where

    def __setstate__(self, state: tuple[inspect.Signature, str]) -> None:
        self._signature, self._where = state
        parameters = self._signature.parameters
        self._defaults = {
            p.name: p.default for p in parameters.values() if p.default is not p.empty
        }
        self._names = tuple(parameters)
        self._keywords = tuple(p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY)
        self._positionals = self._names[: len(parameters) - len(self._keywords)]
        # Sorted, as the canonical form wants it, each with its place among the values
        self._parts = [
            (
                self._names.index(name),
                f"{encode_basestring(name)}:".encode(),
                Codec._uncompiled(
                    parameters[name].annotation, f"parameter {name!r} of {self._where}", name
                ),
            )
            for name in sorted(parameters)
        ]
        self._object: Codec | None = None  # made when something is read, by workers only

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, limit: int = MAX_PAYLOAD
    ) -> tuple[bytes, tuple[Any, ...], dict[str, Any]]:
        """Bind arguments as a call would, and encode them with the defaults filled in.

        Also returns them as the function will see them. Raises `DataError` if they do not
        fit the signature, otherwise as `Codec.encode`.
        """
        if kwargs or self._keywords or len(args) != len(self._positionals):
            try:
                bound = self._signature.bind(*args, **kwargs)
            except TypeError as error:
                raise DataError(f"{self._where}: {error}; it takes {self._signature}") from error
            named = self._defaults | bound.arguments
            values = [named[name] for name in self._names]
        else:
            values = list(args)
        texts: list[bytes] = []
        for place, key, codec in self._parts:
            text, values[place] = codec.encode(values[place], limit=limit)
            texts.append(key + text)
        data = b"{%b}" % b",".join(texts)
        if len(data) > limit:
            raise _too_large(f"input of {self._where}", data, limit)
        return data, *self._as_call(values)

    def decode(self, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of stored bytes; raises `DataError` with the path.

        A parameter that was added since, and has a default, gets it.
        """
        codec = self._object
        if codec is None:
            stored = _object_of(self._signature.parameters.values())
            codec = self._object = Codec(stored, f"input of {self._where}")
        named = self._defaults | codec.decode(data)
        return self._as_call([named[name] for name in self._names])

    def _as_call(self, values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self._keywords:
            return tuple(values), {}
        count = len(self._positionals)
        return tuple(values[:count]), dict(zip(self._keywords, values[count:], strict=True))


def _check_parameters(parameters: list[inspect.Parameter], skip: int, where: str) -> None:
    for index, parameter in enumerate(parameters):
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise DefinitionError(
                f"{where}: {parameter} has no name to be stored under; take a list or a dict"
            )
        if index >= skip and parameter.annotation is parameter.empty:
            raise DefinitionError(
                f"{where}: parameter {parameter.name!r} has no annotation, which decides how "
                f"it is stored; write `{parameter.name}: ...`"
            )
    if sum(p.kind is not p.KEYWORD_ONLY for p in parameters) < skip:
        raise DefinitionError(f"{where}: its first parameter is missing")


def _object_of(parameters: Iterable[inspect.Parameter]) -> object:
    """Return the annotation of an object that holds arguments."""
    fields = {
        p.name: p.annotation if p.default is p.empty else NotRequired[p.annotation]
        for p in parameters
    }
    # Cast, because no type checker follows fields that are known only now.
    kind = cast("Any", TypedDict)("Arguments", fields)
    kind.__pydantic_config__ = ConfigDict(extra="forbid")
    return kind
