"""Worlds that are simulated from a seed, with a real server: see `tests/simulation`."""

from __future__ import annotations

import random

import pytest

from tests.simulation.world import simulate
from tests.support.server import RedisServer


@pytest.mark.parametrize("number", range(2))
def test_what_happens_to_simulated_workers_loses_nothing(
    redis_server: RedisServer, rng: random.Random, number: int
) -> None:
    report = simulate(redis_server.url, f"{rng.random()}", runs=12, is_faulty=True)
    assert len(report.faults) > 4, f"too little happened in world {number}: {report.faults}"


def test_the_same_seed_is_the_same_world(redis_server: RedisServer, rng: random.Random) -> None:
    seed = f"{rng.random()}"
    first, again = (simulate(redis_server.url, seed, runs=6, is_faulty=True) for _ in range(2))
    assert first == again
    other = simulate(redis_server.url, f"{seed}, another", runs=6, is_faulty=True)
    assert other.trace != first.trace


def test_where_nothing_happens_each_step_is_executed_once(
    redis_server: RedisServer, rng: random.Random
) -> None:
    report = simulate(redis_server.url, f"{rng.random()}", runs=12, is_faulty=False)
    assert not report.faults
