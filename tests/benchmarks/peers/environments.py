"""An environment for each peer, in `.peers/`: they do not get along in one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.peers.catalogue import Entry
from tests.benchmarks.peers.site import ROOT, postgres_programs
from tests.benchmarks.plan import say

PLACE = ROOT / ".peers"
PLOTTING = ("matplotlib==3.11.2",)
_INSTALLATION = 600.0
_HINTS = {
    "redis-server": "apt-get install redis-server",
    "postgres": "apt-get install postgresql",
    "npm": "apt-get install npm",
}


class Unavailable(Exception):
    """A peer cannot be set up on this machine."""


def python_of(entry: Entry) -> Path:
    """Set up the environment of a peer, if it is not there yet, and give its Python."""
    if not entry.environment:
        return Path(sys.executable)
    for program in entry.programs:
        if not (postgres_programs() if program == "postgres" else shutil.which(program)):
            raise Unavailable(f"there is no {program} here ({_HINTS[program]})")
    python = environment(entry.environment, entry.requirements)
    if entry.npm:
        place = PLACE / entry.environment
        if not (place / "node_modules" / ".bin").exists():
            _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(place), *entry.npm])
    return python


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """Make a virtual environment with these packages, if it is not there yet; give its Python."""
    place = PLACE / name
    python, ready = place / "bin" / "python", place / "ready"
    wanted = "\n".join((sys.version, *requirements))
    if not ready.exists() or ready.read_text() != wanted:
        say(f"setting up {place.relative_to(ROOT)} …")
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        plain = [each for each in requirements if not each.startswith("--")]
        _run([*pip, "psutil", *plain])
        for special in requirements:
            if special.startswith("--"):
                _run([*pip, *special.split()])
        ready.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALLATION)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise Unavailable(f"{Path(command[0]).name} {command[1]} failed: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error
