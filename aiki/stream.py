"""Reading a run's stream: pushed by a hint, read by its offset, ended by the run or its handler."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

from aiki.completion import Completions
from aiki.hints import Hints
from aiki.store.streams import Streams
from aiki.topic import Chunk, Topic

POLL = 30.0  # seconds; a hint that is lost costs this much at most, and a quarter


async def follow(
    run_id: str,
    topic: Topic[Any],
    offset: int,
    *,
    streams: Streams,
    hints: Hints,
    completions: Completions,
    timeout: float,
) -> AsyncIterator[Chunk[Any]]:
    """Yield the chunks of a topic from an offset on, until no more may come."""
    over: asyncio.Future[Any] | None = None
    try:
        async with hints.about(run_id) as heard:
            while True:
                chunks, is_last = await streams.read(run_id, topic.name, offset, timeout=timeout)
                for stored in chunks:
                    data = topic.codec.decode(stored.payload)
                    yield Chunk(offset, data, stored.step, stored.attempt, stored.number)
                    offset += 1
                if is_last:
                    return
                if over is None:
                    over = asyncio.ensure_future(completions.wait(run_id))
                    over.add_done_callback(lambda _: heard.ring())
                if not chunks:
                    await heard.wait(POLL * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
    finally:
        if over is not None and not over.cancel() and not over.cancelled():
            over.exception()  # whatever it is, the next read meets it
