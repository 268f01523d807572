"""The supervisor: it spawns, watches, restarts and stops worker processes."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError(
        "aiki.supervisor needs POSIX signals and process groups, which Windows does not have; "
        "there, use aiki.client, and run the supervisor under Linux or macOS"
    )

from aiki.supervisor.settings import Settings
from aiki.supervisor.supervisor import Supervisor

__all__ = ["Settings", "Supervisor"]
