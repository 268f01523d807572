"""The scripts: each file under `lua/` is one change to the store, loaded by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent: its source, and the SHA-1 by which the server knows it."""

    name: str
    source: str
    sha: str


def _assemble(text: str, shared: Callable[[str], str]) -> str:
    """Put the shared functions that a script names after `-- uses:` before its first code.

    Or where it names them: what only few calls need is not made by the others.
    """
    lines = text.splitlines(keepends=True)
    code = next(n for n, line in enumerate(lines) if line.startswith("local p = KEYS[1]"))
    header = "".join(_named(line, shared) for line in lines[:code])
    body = "".join(_named(line, shared) or line for line in lines[code + 1 :])
    return "".join(lines[: code + 1]) + header + body


def _named(line: str, shared: Callable[[str], str]) -> str:
    """Give the functions that a line names; nothing for any other line."""
    names = line.strip()
    if not names.startswith("-- uses: "):
        return ""
    return "".join(map(shared, names.removeprefix("-- uses: ").split(", ")))


def _load() -> dict[str, Script]:
    root = files("aiki.store") / "lua"

    @cache
    def shared(name: str) -> str:
        return (root / "shared" / f"{name}.lua").read_text()

    scripts: dict[str, Script] = {}
    for file in root.iterdir():
        if file.name.endswith(".lua"):
            source = _assemble(file.read_text(), shared)
            sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            name = file.name.removesuffix(".lua")
            scripts[name] = Script(name, source, sha)
    return scripts


SCRIPTS = _load()
SOURCES = {script.sha: script.source for script in SCRIPTS.values()}
