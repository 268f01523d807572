"""The one shape that everybody who is measured is brought into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from tests.benchmarks.peers.orders import Order
from tests.benchmarks.peers.site import Site


class Peer(Protocol):
    """A system with its servers and two worker processes, and its client in this process."""

    STEPS_TOGETHER: ClassVar[bool]
    """A run is one job: there are no steps, and the order's pause is that of all four."""

    def __init__(self, site: Site) -> None: ...

    async def start(self) -> None:
        """Start servers and workers; be ready for orders."""
        ...

    async def submit(self, orders: Sequence[Order]) -> None:
        """Start a run for each order, as fast as it goes, and wait for none."""
        ...

    async def results(self) -> None:
        """Wait for the results of what was submitted, beyond the tally of last steps.

        Not where its client would ask again and again for each of them.
        """

    async def process_one(self, order: Order) -> None:
        """Start a run and wait for its result, as its documentation says."""
        ...

    async def close(self) -> None:
        """Let go of connections; processes are ended by the site."""
        ...
