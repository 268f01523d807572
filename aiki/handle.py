"""Following and steering one run from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from aiki.codec import Codec
from aiki.completion import Completions
from aiki.controls import Controls
from aiki.description import (
    RecordedStep,
    RunDescription,
    RunStatus,
    description,
    moment,
    recorded_steps,
    run_status,
)
from aiki.durations import Seconds, seconds
from aiki.envelope import SEALED
from aiki.errors import DataError, RunCancelled, RunFailed, StoreUnavailable
from aiki.failures import failure_from_json
from aiki.hints import Hints
from aiki.question import Question
from aiki.states import Status
from aiki.store import Store
from aiki.stream import follow
from aiki.time_limit import time_limit
from aiki.topic import Chunk, Progress, Topic

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_LAST_LOOK = 1.0  # seconds beyond a caller's time-out, to say what the run is at


class Handle(Controls, Generic[R_co]):
    """One run. Made by `start` or `client.handle(id)`; it holds nothing but the id."""

    def __init__(
        self,
        run_id: str,
        store: Store,
        completions: Completions,
        hints: Hints,
        result: Codec,
        *,
        timeout: float,
    ) -> None:
        super().__init__(run_id, store, timeout)
        self._store = store
        self._completions = completions
        self._hints = hints
        self._result = result

    async def wait_for_completion(self, timeout: Seconds | None = None) -> R_co:
        """Wait until the run is over and return its result.

        Told by the store, not polled. With a time-out of 0 it only looks.

        Raises:
            RunFailed: its handler failed.
            RunCancelled: it was cancelled.
            TimeoutError: it was not over in time; it goes on.
            NotFound: there is no such run.
            DataError: the result is not what this handle's type says.
        """
        limit = None if timeout is None else seconds(timeout, what="timeout")
        if limit == 0:
            snapshot = await self._store.runs.snapshot(self.id, timeout=self._timeout)
            if not snapshot.status.is_final:
                raise TimeoutError(f"run {self.id} is {snapshot.status}")
            status, payload = snapshot.status, snapshot.result or snapshot.failure or b""
        elif limit is None:
            status, payload = await self._completions.wait(self.id)
        else:
            try:
                async with time_limit(limit):
                    status, payload = await self._completions.wait(self.id)
            except TimeoutError:
                raise await self._late(f"was not over within {limit:g} s") from None
        if payload[:1] == SEALED:
            payload = self._store.runs.end(self.id, status, payload)
        if status is Status.FAILED:
            failure = failure_from_json(payload)
            raise RunFailed(
                f"run {self.id} failed: {failure.type}: {failure.message}",
                run_id=self.id,
                failure=failure,
            )
        if status is Status.CANCELLED:
            reason = payload.decode(errors="replace")
            raise RunCancelled(
                f"run {self.id} was cancelled" + (f": {reason}" if reason else ""),
                run_id=self.id,
                reason=reason,
            )
        result: R_co = self._result.decode(payload)
        return result

    async def status(self) -> RunStatus:
        """Tell where the run is, since when, and why it waits.

        Raises `NotFound` if there is no such run.
        """
        return run_status(await self._store.runs.snapshot(self.id, timeout=self._timeout))

    async def describe(self) -> RunDescription:
        """Tell what there is to know of the run beside its data: tags, memo, deadlines, details.

        Raises `NotFound` if there is no such run.
        """
        return description(await self._store.runs.snapshot(self.id, timeout=self._timeout))

    async def fork(self, at: str | None = None) -> Handle[R_co]:
        """Start a run that begins with what is recorded of this one, and return its handle.

        `at` is the `key` of a step in `journal()`: what was recorded before it is taken over, and
        it is the first that is executed anew. Without it everything is taken over that has a
        result. Neither messages nor deadlines are. Random numbers and UUIDs stay those of this run.

        Raises:
            NotFound: there is no such run.
            DataError: nothing is recorded under that key.
        """
        run_id = await self._forked(at)
        return Handle(
            run_id,
            self._store,
            self._completions,
            self._hints,
            self._result,
            timeout=self._timeout,
        )

    async def post(
        self, topic: str, payload: bytes, key: str | None, secret: tuple[str, str] | None = None
    ) -> None:
        """Put a message into the run's mailbox. `Event.send` is this."""
        message_id = None if key is None else f"{topic}/{key}"
        await self._store.mailbox.post(
            self.id, topic, payload, message_id=message_id, timeout=self._timeout, secret=secret
        )

    def stream(self, topic: Topic[T], /, *, from_offset: int = 0) -> AsyncIterator[Chunk[T]]:
        """Read what the run publishes under a topic: `async for chunk in handle.stream(topic)`.

        It begins with what was published before, at `from_offset`, and ends when the run is over or
        has closed the topic. Told by the store, not polled. Raises, when it is read:

            NotFound: there is no such run.
            DataError: a chunk is not what the topic's type describes.
            StoreUnavailable: the store gave no answer; go on behind the last chunk's offset.
        """
        offset: object = from_offset
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise DataError(f"from_offset is a whole number from 0, not {offset!r:.100}")
        return follow(
            self.id,
            topic,
            offset,
            streams=self._store.streams,
            hints=self._hints,
            completions=self._completions,
            timeout=self._timeout,
        )

    async def progress(self) -> Progress | None:
        """Tell how far the run is by its own account; None where it has not said.

        Raises `NotFound` if there is no such run.
        """
        note = await self._store.streams.progress(self.id, timeout=self._timeout)
        if note is None:
            return None
        at, done, total = note.decode().split(" ")
        return Progress(float(done), float(total) if total else None, moment(int(at)))

    async def question(
        self,
        topic: str,
        payload: bytes,
        *,
        timeout: float | None,
        update_id: str | None = None,
        answer_key: str = "",
    ) -> bytes:
        """Ask the run, and give the stored answer. `Query.ask` and `Update.ask` are this."""
        asked = Question(self.id, topic, payload, update_id, answer_key)
        doors = self._store.mailbox, self._hints, self._completions
        try:
            async with time_limit(timeout):
                return await asked.ask(*doors, timeout=self._timeout)
        except TimeoutError:
            what = topic.replace("/", " ", 1)
            raise await self._late(f"has not answered {what} within {timeout:g} s") from None

    async def journal(self) -> list[RecordedStep]:
        """Read what is recorded of the run's steps, in the order in which they were recorded.

        Raises `NotFound` if there is no such run.
        """
        entries = await self._store.runs.journal(self.id, timeout=self._timeout)
        if not entries:
            await self._store.runs.snapshot(self.id, timeout=self._timeout)
        return recorded_steps(entries)

    async def _late(self, what: str) -> TimeoutError:
        try:
            now = run_status(await self._store.runs.snapshot(self.id, timeout=_LAST_LOOK))
        except StoreUnavailable:
            return TimeoutError(f"run {self.id} {what}, and the store does not say what it is at")
        why = f": {now.reason}" if now.reason else ""
        return TimeoutError(f"run {self.id} {what}: it is {now.status}{why}")

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"
