"""`python -m aiki.supervisor`."""

from __future__ import annotations

from aiki.supervisor.cli import main

if __name__ == "__main__":
    main()
