"""Has the embedded server started again when it has died, and not in a hurry."""

from __future__ import annotations

import asyncio
import logging

from aiki.embedded import EmbeddedServer
from aiki.errors import AikiError

_logger = logging.getLogger("aiki.embedded")

# A server that dies at its first write (of a full disk) would otherwise be started all the time.
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
WELL = 60.0  # seconds after which a death has nothing to do with the one before


class Revival:
    """What a client does about the death of the server that it uses."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._pause = FIRST_PAUSE
        self._tried_at: float | None = None

    async def __call__(self) -> AikiError | None:
        """Start it again if it is dead and that was not tried just now; why it could not be."""
        now = self._loop.time()
        if self._tried_at is not None:
            if now < self._tried_at + self._pause:
                return None
            longer = min(2 * self._pause, LAST_PAUSE)
            self._pause = FIRST_PAUSE if now > self._tried_at + WELL else longer
        self._tried_at = now
        try:
            await asyncio.to_thread(self._server.revive)
        except AikiError as error:
            _logger.error("%s", error)  # noqa: TRY400 - the message says all
            return error
        return None
