"""As `tests/test_store_model.py`, for longer: copies, late owners and families in any order."""

from __future__ import annotations

import random

import pytest

from tests.model.machine import check_store
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("part", range(2))
def test_the_store_does_what_its_model_does(
    redis_server: RedisServer, rng: random.Random, part: int
) -> None:
    check_store(redis_server.url, rng, examples=250, steps=60 + 40 * part)
