import asyncio
import itertools

import pytest

from tests.support.waiting import eventually


async def test_eventually_returns_the_first_true_value_of_a_function() -> None:
    values = itertools.chain([0, 0], itertools.count(7))
    assert await eventually(lambda: next(values)) == 7


async def test_eventually_awaits_a_coroutine_function() -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, done.set)

    async def is_done() -> bool:
        return done.is_set()

    assert await eventually(is_done)


async def test_eventually_fails_at_its_deadline_and_names_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"within 0.02 s: the worker.*last seen: \[\]"):
        await eventually(list[int], 0.02, "the worker's runs")


async def test_eventually_looks_once_when_its_deadline_is_already_over() -> None:
    assert await eventually(lambda: "there", 0) == "there"
