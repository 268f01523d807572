"""Releases of the checkout: wheels that were built of it, each in a directory of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.supervised import ROOT

_QUIETLY = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")


@dataclass(frozen=True)
class Release:
    """An installed wheel. What it depends on is taken from the environment of the tests."""

    version: str
    place: Path

    def environ(self) -> dict[str, str]:
        """Give the variables by which a process finds it, and not the checkout."""
        return {"PYTHONPATH": os.pathsep.join((str(self.place), str(ROOT)))}


def release(directory: Path, version: str) -> Release:
    """Build and install a wheel with this version, by which the text of each script differs too."""
    source, wheels, place = (directory / version / part for part in ("source", "wheels", "place"))
    source.mkdir(parents=True)
    for name in ("aiki", "supervisor"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    settings = (ROOT / "pyproject.toml").read_text()
    numbered, count = re.subn("(?m)^version = .*$", f'version = "{version}"', settings)
    assert count == 1
    (source / "pyproject.toml").write_text(numbered)
    for script in (source / "aiki/store/lua").glob("*.lua"):
        first, rest = script.read_text().split("\n", 1)
        script.write_text(f"{first}\n-- As of {version}.\n{rest}")
    # Without a network: what builds it is among the tools of the environment.
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    (wheel,) = wheels.iterdir()
    _pip("install", "--target", str(place), str(wheel))
    return Release(version, place)


def _pip(command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *_QUIETLY, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
