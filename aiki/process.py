"""Which process this is, in words that no later process can share."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

import psutil

_SAME = 2.0  # seconds: it moves when the wall clock is stepped, and no pid is used again so soon


@functools.cache
def this_host() -> str:
    """Name what process ids mean something in: this boot of this machine, this pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()}/{psutil.boot_time():.0f}"


def create_time(pid: int | None = None) -> float:
    """Give when a process was created, in seconds since the epoch; 0 where there is none.

    A pid is used again; a pid and this time are not.
    """
    try:
        return psutil.Process(pid if pid is not None else os.getpid()).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def is_alive(pid: int, created: float) -> bool:
    """Tell whether that very process still runs on this host; one that ended may be a zombie."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - created) < _SAME
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
