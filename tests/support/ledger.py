"""What tasks did, in a file outside Redis: it survives whatever happens to the store."""

import os
from collections import Counter
from pathlib import Path


class Ledger:
    """One line per effect, appended whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, line: str) -> None:
        """Append one line."""
        file = os.open(self.path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)

    def lines(self) -> list[str]:
        """Return the lines in the order of their writing."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    def count(self) -> Counter[str]:
        """Return how often each line was written."""
        return Counter(self.lines())
