"""What an owner has of a run, and how it writes what comes of the run's operations.

An outcome is written in its turn, and reaches the handler in that turn. The store's word may be
another than "done": then the run is steered, and whoever waits for the outcome waits until the run
is left.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

from aiki.asked import Asked
from aiki.codec import address
from aiki.commits import Commits
from aiki.conditions import Conditions
from aiki.current_step import CurrentStep
from aiki.errors import AikiError
from aiki.journal import Journal
from aiki.newsdesk import NewsDesk
from aiki.operation import Host, Operation, Operations, State
from aiki.publisher import Publisher
from aiki.records import ClaimedRun
from aiki.rounds import Rounds, Turn
from aiki.steering import Steer, Steering

SUSPEND_AFTER = 0.1

_making = threading.Lock()  # a publisher, by whoever is the first to ask

T = TypeVar("T")


class Recording(ABC):
    """One owner's part of one run: its operations, its turns, what it hears and what it writes."""

    def __init__(self, claimed: ClaimedRun, host: Host, asked: Mapping[str, Asked]) -> None:
        self.owner = claimed.ownership
        self.run_id = claimed.ownership.run_id
        self.scope = claimed.scope
        self._secret = claimed.secret
        self.host = host
        self.is_draining = host.is_draining
        self.asked = asked
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._journal = Journal(claimed.journal, claimed.cancel_at)
        self._rounds = Rounds(claimed.journal, claimed.cancel_at)
        self.commits = Commits(claimed, host, self._journal, self._rounds)
        self.steering = Steering()
        self.is_closed = False
        self._handler: asyncio.Task[None] | None = None
        self._operations = Operations()
        # Made where they are needed: they refer back to us, and a run that forms no cycle of
        # references is freed without the garbage collector.
        self._known_news = claimed.news
        self._news: NewsDesk | None = None
        self._streams = claimed.streams
        self._attempt = claimed.attempt
        self._publisher: Publisher | None = None
        self._states: dict[type[Any], Any] = {}
        self._conditions: Conditions | None = None

    @abstractmethod
    def suspend(self) -> None:
        """Start nothing more; ask to be handed back once nothing executes."""

    @abstractmethod
    def cancel_requested(self) -> None:
        """Deliver a person's cancel at the next point where it can be recorded."""

    @abstractmethod
    def look_for_questions(self) -> None:
        """Answer what is asked of the run, now or once nothing is repeated any more."""

    def address(self, name: str, content: bytes) -> str:
        """Give the address of what has this name and this content, such as a step's input."""
        return address(name, content, self._secret)

    # What there is beside operations

    def is_on_this_loop(self) -> bool:
        """Tell whether the caller is on the loop that executes the run."""
        return threading.get_ident() == self._thread

    @property
    def news(self) -> NewsDesk:
        """What happens to the run from outside."""
        if self._news is None:
            self._news = NewsDesk(
                self._known_news,
                self.owner,
                self.host.runs,
                on_cancel=self.cancel_requested,
                on_pause=self.suspend,
                on_fenced=lambda: self.steering.ask(Steer.FENCED),
                on_damage=self.steering.stall,
                on_asked=self.look_for_questions,
            )
        return self._news

    @property
    def publisher(self) -> Publisher:
        """What the run publishes; tasks ask for it in any thread."""
        with _making:
            if self._publisher is None:
                self._publisher = Publisher(
                    self.owner,
                    self.host.streams,
                    self._streams,
                    attempt=self._attempt,
                    written=self.written,
                    now_ms=self.commits.server_now,
                    loop=self.loop,
                )
            return self._publisher

    def published_as(self, key: str) -> str:
        """Give whose a step's chunks are: its key, and the generation where that is not the first.

        Streams go on where a run continues as new, and its keys begin anew.
        """
        scope = self.scope.removeprefix(self.owner.run_id)
        return f"{scope}/{key}" if scope else key

    async def flush(self) -> None:
        """Wait until what was published is in the store."""
        if self._publisher is not None:
            await self._publisher.flush()

    def state(self, kind: type[T]) -> T:
        """Give the run's one object of a class, made when it is asked for first."""
        if kind not in self._states:
            self._states[kind] = kind()
        found: T = self._states[kind]
        return found

    @property
    def conditions(self) -> Conditions:
        """What the handler waits for that its own code makes true."""
        if self._conditions is None:
            self._conditions = Conditions()
        return self._conditions

    # What is written

    async def record(
        self, operation: Operation, write: Callable[[Turn], Awaitable[int | bytes]]
    ) -> None:
        """Record an outcome by a write that is given its turn; return in that turn."""
        if self.is_closed or operation.state is State.POINT:
            await self._operations.until_cancelled()
        turn = operation.turn = self._rounds.join(is_alone=self._is_alone(operation))
        operation.state = State.COMMITTING
        if not await self.written(operation.key, write(turn)) or self.is_closed:
            await self._operations.never()
        operation.state = State.RECORDED
        if self.host.suspend_always:
            await self._suspended()
        if await self._rounds.come(turn, is_final=False):
            self._operations.cancel_again(operation)

    async def record_for_good(
        self, operation: Operation, write: Callable[[Turn], Awaitable[Any]]
    ) -> Any:
        """Record an outcome that no cancellation takes back, such as a message that was taken.

        Returns None in its turn; else, where the store's answer is neither flags nor a word that
        steers the run, that answer: then nothing was recorded.
        """
        if self.is_closed or operation.state is State.POINT:
            await self._operations.until_cancelled()
        turn = operation.turn = self._rounds.join(is_alone=self._is_alone(operation))
        operation.state = State.COMMITTING
        writing = asyncio.ensure_future(write(turn))
        await self._outlast(writing)
        answer: list[Any] | int | bytes = 0
        if writing.exception() is None:
            answer = writing.result()
        if isinstance(answer, list):
            self._rounds.withdraw(turn)
            operation.turn = None
            operation.state = State.WAITING
            if operation.is_cancelled:
                raise asyncio.CancelledError
            return answer
        if not await self.written(operation.key, writing) or self.is_closed:
            await self._operations.never()
        operation.state = State.RECORDED
        if self.host.suspend_always:
            await self._suspended()
        await self._rounds.come(turn, is_final=True)
        if operation.is_cancelled:
            self._operations.cancel_again(operation)
        return None

    async def answered(self, key: str, sending: Awaitable[Any]) -> list[Any]:
        """Give what the store answers, flags first; wait for ever where it did nothing."""
        answers: list[Any] = []

        async def flags() -> Any:
            reply: list[Any] | int | bytes = await sending
            if isinstance(reply, list):
                answers.extend(reply)
                return answers[0]
            return reply

        if not await self.written(key, flags()) or self.is_closed:
            await self._operations.never()
        return answers

    async def beat(self, step: CurrentStep) -> None:
        """Store what an attempt of a step says while it is under way."""
        if not self.is_closed:
            await self.written(step.journal_key, self.commits.heartbeat(step))

    async def written(self, key: str, sending: Awaitable[int | bytes]) -> bool:
        """Tell whether a write was done, and steer the run where the store's word is another."""
        try:
            reply = await sending
        except AikiError as error:
            self.steering.stall(f"The store refused to record {key}: {error}")
            return False
        if isinstance(reply, int):
            if reply:
                self.news.heard(reply)
            return True
        if reply == b"FENCED":
            self.steering.ask(Steer.FENCED)
        elif reply == b"DIVERGED":
            self.steering.stall(f"{key} was recorded by another owner of the run.")
        return False

    async def _suspended(self) -> NoReturn:
        self.suspend()
        # Others that execute may end first; one that would never end is not waited for.
        self.loop.call_later(SUSPEND_AFTER, self.steering.ask, Steer.RELEASE)
        await self._operations.never()

    async def _record_abandoned(self, operation: Operation, late: Turn | None) -> Turn:
        """Write the mark; `late` is the turn of a result that was not given yet."""
        operation.state = State.ABANDONING
        if late is not None:
            self._rounds.hold(late)
        turn = operation.turn = self._rounds.join(is_alone=self._is_alone(operation))
        writing = self.loop.create_task(self.commits.abandon(operation, turn))
        await self._outlast(writing)
        if late is not None:
            self._rounds.withdraw(late)
        if not await self.written(operation.key, writing):
            await self._operations.never()
        operation.state = State.RECORDED
        return turn

    async def _outlast(self, writing: asyncio.Future[Any]) -> None:
        """Wait for a write, whatever cancellations come, unless the run is left."""
        while not writing.done():
            try:
                await asyncio.wait([writing])
            except asyncio.CancelledError:
                if self.is_closed:
                    raise

    def _is_alone(self, operation: Operation) -> bool:
        """Tell whether the handler itself waits for this and for nothing else."""
        return len(self._operations) == 1 and operation.task is self._handler
