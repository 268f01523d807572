"""The store against its model, `tests/model`: whatever is sent to both, both are the same."""

from __future__ import annotations

import random

from tests.model.machine import check_store
from tests.support.server import RedisServer


def test_the_store_does_what_its_model_does(redis_server: RedisServer, rng: random.Random) -> None:
    check_store(redis_server.url, rng, examples=15, steps=40)
