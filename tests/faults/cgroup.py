"""Control groups with little memory, whose processes the kernel kills when they want more."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiki.supervisor.shortage import counter
from tests.support.waiting import PAUSE


class Group:
    """A control group, as the test sees it."""

    def __init__(self, place: Path, counter: Path) -> None:
        self._place = place
        self._counter = counter

    def take(self, pid: int) -> None:
        """Have a process, and all that it starts from now on, share the memory of the group."""
        (self._place / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """Count the processes of the group that the kernel has killed for want of memory."""
        lines = (line.split() for line in self._counter.read_text().splitlines())
        return next(int(count) for name, count in lines if name == "oom_kill")


@contextmanager
def group_of(size: int) -> Generator[Group]:
    """Make a group with so many bytes and no swap below that of this process; skip without one."""
    found = counter(Path("/proc/self/cgroup").read_text())
    if found is None or "oom_kill " not in found.read_text():
        pytest.skip("no control group for memory that counts here")
    place = found.parent / f"aiki-test-{os.getpid()}"
    try:
        if found.name == "memory.events":  # version 2: refused where processes are in ours
            (found.parent / "cgroup.subtree_control").write_text("+memory")
            limits = {"memory.max": size, "memory.swap.max": 0}
        else:
            limits = {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
        place.mkdir()
    except OSError as error:
        pytest.skip(f"no control group for memory can be made here: {error}")
    try:
        for name, value in limits.items():
            if (place / name).exists():  # what limits the swap is not there where there is none
                (place / name).write_text(str(value))
        yield Group(place, place / found.name)
    finally:
        _remove(place)


def _remove(place: Path) -> None:
    """Remove a group whose processes were killed, and are let go of in a moment."""
    over = time.monotonic() + 30.0
    while True:
        try:
            place.rmdir()
        except OSError:
            if time.monotonic() > over:
                raise
            time.sleep(PAUSE)
        else:
            return
