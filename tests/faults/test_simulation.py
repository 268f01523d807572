"""As `tests/test_simulation.py`, of many seeds."""

from __future__ import annotations

import random

import pytest

from tests.simulation.world import simulate
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORLDS = 25


@pytest.mark.parametrize("part", range(4))
def test_what_happens_to_simulated_workers_loses_nothing(
    redis_server: RedisServer, rng: random.Random, part: int
) -> None:
    for number in range(WORLDS):
        seed = f"{rng.random()}"
        try:
            simulate(redis_server.url, seed, runs=10 + 10 * part, is_faulty=True)
        except BaseException as error:
            error.add_note(f"world {number} of seed {seed}")
            raise
