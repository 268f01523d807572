"""Whether the kernel killed a worker for want of memory, which its signal alone does not tell.

For each control group, Linux counts the processes that it has killed so. A worker that ended by
SIGKILL while that count grew was one of them, unless another worker was, or something else of the
group, and somebody sent the worker a signal, all within some seconds. Where there is no such count,
nothing is claimed.
"""

from __future__ import annotations

import functools
import time
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_COUNT = "oom_kill "
# A process is counted when it is killed, and ends when its memory is freed. So its end is compared
# with a look that was before the last one, and two looks are so many seconds apart.
_APART = 1.0


class Shortage:
    """The count of one control group, or none (supervisor process)."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._explained = 0
        self._looked = time.monotonic()
        self._last = self._before = self._unexplained()

    def look(self) -> None:
        """Note what has been counted by now, and explains none of the ends so far."""
        now = time.monotonic()
        if now - self._looked >= _APART:
            self._looked = now
            self._before, self._last = self._last, self._unexplained()

    def explains_one(self) -> bool:
        """Tell whether a process was counted within the last seconds, and take it as explained."""
        left = self._unexplained() - 1
        if left < self._before:
            return False
        self._explained += 1
        # A look may have come between the count and the end.
        self._before, self._last = min(self._before, left), min(self._last, left)
        return True

    def _unexplained(self) -> int:
        with suppress(OSError):
            for line in self._file.read_text().splitlines() if self._file else ():
                if line.startswith(_COUNT):
                    return int(line.removeprefix(_COUNT)) - self._explained
        return 0


def shortage_of(pid: int) -> Shortage:
    """Give the count that a process would be in; all processes of a group share it."""
    try:
        return _shortage(counter(Path(f"/proc/{pid}/cgroup").read_text()))
    except OSError:  # not Linux, or the process is gone
        return _shortage(None)


_shortage = functools.cache(Shortage)


def counter(groups: str, root: Path = _ROOT) -> Path | None:
    """Find the file with the count for a process with this `/proc/…/cgroup`; None without one."""
    paths: dict[str, str] = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path.strip("/")
    if "memory" in paths:  # version 1, which may stand beside version 2
        root, path, name = root / "memory", paths["memory"], "memory.oom_control"
    elif "" in paths:
        path, name = paths[""], "memory.events"
    else:
        return None
    # Some containers see their own group as the root, and are told its name on the host.
    files = (root / path / name, root / name)
    return next((file for file in files if file.exists()), None)
