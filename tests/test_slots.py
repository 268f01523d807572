"""Slots that several readers share: who gets how many, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from aiki.slots import Slots


class Worker:
    """What has so many free slots."""

    def __init__(self, free: int, readers: int) -> None:
        self.free = free
        self.slots = Slots(lambda: self.free, readers)


async def settle() -> None:
    """Let whoever may go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_reads_alone_gets_all() -> None:
    slots = Worker(7, 1).slots
    assert not slots.are_shared
    assert await slots.take() == 7
    assert slots.left == 0
    slots.give_back(7)
    assert await slots.take() == 7


async def test_each_of_several_gets_a_share_and_one_at_least() -> None:
    slots = Worker(7, 3).slots
    assert [await slots.take() for _ in range(5)] == [2, 1, 1, 1, 1]
    assert slots.left == 1
    worker = Worker(0, 3)
    taking = asyncio.create_task(worker.slots.take())
    await settle()
    assert not taking.done()
    worker.free = 1
    worker.slots.changed()
    assert await taking == 1


async def test_those_who_wait_have_their_turn_in_the_order_of_asking() -> None:
    worker, order = Worker(0, 3), list[str]()

    async def take(name: str) -> None:
        await worker.slots.take()
        order.append(name)

    tasks = [asyncio.create_task(take(name)) for name in "abc"]
    await settle()
    for count in (1, 2, 3):
        worker.free = count
        worker.slots.changed()
        worker.slots.changed()
        late = asyncio.create_task(take("late"))
        await settle()
        assert order == list("abc")[:count]
        late.cancel()
        await settle()
    await asyncio.gather(*tasks)


async def test_a_turn_that_is_not_taken_goes_to_the_next() -> None:
    worker = Worker(0, 2)
    first, second = (asyncio.create_task(worker.slots.take()) for _ in range(2))
    await settle()
    worker.free = 1
    worker.slots.changed()
    first.cancel()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_is_taken_only_if_it_is_there() -> None:
    worker = Worker(1, 2)
    assert worker.slots.try_take()
    assert not worker.slots.try_take()
    worker.slots.give_back(1)
    assert worker.slots.try_take()
