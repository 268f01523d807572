"""How a supervisor ends: its exit codes, each with a sentence that `--help` shows."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """The exit code of a supervisor process."""

    sentence: str

    def __new__(cls, code: int, sentence: str) -> Self:
        """Make the code, with what it says."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    ENDED = 0, "A signal ended it; every run was handed back."
    UNEXPECTED = 1, "An error in the supervisor itself; the traceback is in the log."
    USAGE = 2, "A wrong argument or setting; nothing was started."
    BOOT = 3, "The workflows could not be loaded; the traceback is printed once."
    STORE = 4, "The store could not be reached at the start, or refused it."
    BUDGET = 5, "Worker processes died again and again; the restart budget is spent."
    REPLACED = 6, "The store is not the one any more that was served: it was flushed or replaced."
