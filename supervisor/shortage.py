"""Whether the kernel killed a worker for want of memory, which its signal alone does not tell.

For each control group, Linux counts the processes that it has killed so. A worker that ended by
SIGKILL while that count grew was one of them, unless it is another worker's death that was counted,
or something else of the group was killed and somebody sent the worker a signal, all within some
seconds. Where there is no such count, nothing is claimed.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_COUNT = "oom_kill "
# A process is counted when it is killed, and ends when its memory is freed. So its end is compared
# with a look that was before the last one, and two looks are so many seconds apart.
_APART = 1.0

_told: Counter[Path] = Counter()
"""Of each count, how much has explained an end."""


class Shortage:
    """The count of the control group that a process was born in (supervisor process)."""

    def __init__(self, pid: int) -> None:
        self._file: Path | None = None
        with suppress(OSError):  # not Linux, or the process is gone
            self._file = counter(Path(f"/proc/{pid}/cgroup").read_text())
        self._looked = time.monotonic()
        self._last = self._before = self._unexplained()

    def look(self) -> None:
        """Note the count as it is while the process lives."""
        now = time.monotonic()
        if now - self._looked >= _APART:
            self._looked = now
            self._before, self._last = self._last, self._unexplained()

    def explains(self) -> bool:
        """Tell whether it is this process that was counted within the last seconds; ask once."""
        if self._file is None or self._unexplained() <= self._before:
            return False
        _told[self._file] += 1
        return True

    def _unexplained(self) -> int:
        if self._file is None:
            return 0
        with suppress(OSError):
            for line in self._file.read_text().splitlines():
                if line.startswith(_COUNT):
                    return int(line.removeprefix(_COUNT)) - _told[self._file]
        return 0


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
