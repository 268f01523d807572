"""Files that processes lock; the kernel drops a lock with its holder, however that ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

if sys.platform != "win32":
    import fcntl


class LockFile:
    """An open file to lock; child processes do not inherit its descriptor.

    Each one that is opened is a holder of its own, also within a process. A forked child
    shares the holder of its parent: it closes the file and never releases it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def share(self, *, within: float = 0.0) -> bool:
        """Hold the lock together with others, trying for `within` seconds."""
        return self._acquire(fcntl.LOCK_SH, within)

    def hold(self, *, within: float = 0.0) -> bool:
        """Hold the lock alone, trying for `within` seconds; a share of it is lost if that fails."""
        return self._acquire(fcntl.LOCK_EX, within)

    def _acquire(self, mode: int, within: float) -> bool:
        over = time.monotonic() + within
        pauses = growing_pauses()
        while True:
            try:
                fcntl.flock(self.descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= over:
                    return False
                time.sleep(next(pauses))
            else:
                return True

    def release(self) -> None:
        """Drop the lock for every process that shares this holder."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; the lock stays with a child that was given the descriptor."""
        os.close(self.descriptor)

    def is_in_place(self) -> bool:
        """Tell whether its path still leads to it; somebody may have removed the directory."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False


def growing_pauses() -> Iterator[float]:
    """Give pauses without end: short enough for what takes 40 ms, long enough for minutes."""
    pause = 0.001
    while True:
        yield pause
        pause = min(pause * 1.3, 0.05)
