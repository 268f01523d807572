"""What a run's owner knows of what happens to the run from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiki.errors import AikiError
from aiki.mail import Mail, is_asked
from aiki.records import News, Ownership
from aiki.store.runs import CANCEL_WANTED, Runs


class NewsDesk:
    """Asks for news whenever it hears that there is some, and tells those who wait.

    The reply of each commit says how often something has happened to the run; a worker's notice
    only that something has.
    """

    def __init__(
        self,
        known: News,
        owner: Ownership,
        runs: Runs,
        *,
        on_cancel: Callable[[], None],
        on_pause: Callable[[], None],
        on_fenced: Callable[[], None],
        on_damage: Callable[[str], None],
        on_asked: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._runs = runs
        self._on_cancel = on_cancel
        self._on_pause = on_pause
        self._on_fenced = on_fenced
        self._on_damage = on_damage
        self._on_asked = on_asked
        self._known = known
        self._mail: Mail | None = None
        self._is_told = False
        self._asking: asyncio.Task[None] | None = None
        self._sleepers: dict[asyncio.Future[None], int] = {}
        self._listeners: set[asyncio.Future[None]] = set()

    @property
    def seen(self) -> int:
        """How much of what has happened is known here."""
        return self._known.count

    @property
    def mail(self) -> Mail:
        """What came into the mailbox."""
        if self._mail is None:  # most runs have none
            self._mail = Mail(self._known.mail)
        return self._mail

    def heard(self, flags: int) -> None:
        """Take what the reply of a commit says."""
        if flags & CANCEL_WANTED:
            self._on_cancel()
        if flags >> 1 > self._known.count:
            self.look()

    def look(self) -> None:
        """Ask what is new, and once more where this is said while it is asked."""
        self._is_told = True
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    def woken(self, *, after: int) -> asyncio.Future[None]:
        """Give a future that is done once the run was woken more often; cancel it otherwise."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._known.wakes > after:
            future.set_result(None)
        else:
            self._sleepers[future] = after
            future.add_done_callback(self._sleepers.pop)
        return future

    def next(self) -> asyncio.Future[None]:
        """Give a future that is done when anything has happened; cancel it otherwise."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.add(future)
        future.add_done_callback(self._listeners.discard)
        return future

    async def refresh(self) -> None:
        """Wait until everything that has happened by now is known."""
        self.look()
        while self._asking is not None:
            await asyncio.wait([self._asking])

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self) -> None:
        while self._is_told:
            self._is_told = False
            try:
                told = await self._runs.read_news(self._owner, self.seen)
            except AikiError as error:
                self._on_damage(f"What happened to the run cannot be read: {error}")
                break
            if told is None:
                self._on_fenced()
                break
            self._take(*told)
        self._asking = None

    def _take(self, news: News, is_cancel_wanted: bool) -> None:  # noqa: FBT001 - as it is read
        mail = self.mail
        self._known = news
        mail.arrived(news.mail)
        if is_asked(news.mail):
            self._on_asked()
        # A sleep that began after it was woken, of which we hear only now, goes on.
        woken = [sleeper for sleeper, before in self._sleepers.items() if news.wakes > before]
        for future in (*self._listeners, *woken):
            if not future.done():
                future.set_result(None)
        if is_cancel_wanted:
            self._on_cancel()
        elif news.is_pausing:
            self._on_pause()
