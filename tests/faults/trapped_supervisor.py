"""A supervisor that can be caught while it fires schedules: `python -m …`, then as usual."""

from __future__ import annotations

from aiki.supervisor.cli import main
from tests.faults.traps import lay

if __name__ == "__main__":
    lay()
    main()
