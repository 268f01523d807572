"""A client that cannot work as it is: refused where it is made, or where it is used."""

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aiki import Client, ConfigError, DataError, Run, workflow
from aiki.client import LONGEST_START, REDIS_VARIABLE

URL = "redis://localhost"
RUN_ID = "0-00000000000000000000000000"


@workflow("greeting").v("1.0.0")
async def greeting(_: Run, name: str) -> str:
    return f"Hello, {name}"


# How it is made


@pytest.mark.parametrize("redis", [URL, {"host": "localhost"}], ids=["url", "settings"])
def test_the_data_is_in_a_redis_or_in_a_directory_and_not_in_both(
    redis: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="either redis or data_dir"):
        Client(redis, data_dir=tmp_path)


def test_a_data_dir_that_is_given_beats_the_redis_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_VARIABLE, "no address at all")
    Client(data_dir=tmp_path)
    with pytest.raises(ConfigError):
        Client()


@pytest.mark.parametrize(
    "given", [0, 0.0, timedelta(0), LONGEST_START + 1, timedelta(hours=1, seconds=1)], ids=str
)
def test_a_start_takes_more_than_no_time_and_at_most_an_hour(given: float | timedelta) -> None:
    with pytest.raises(ConfigError, match="more than 0 seconds and at most an hour"):
        Client(URL, start_timeout=given)


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), True, "60", None], ids=str)
def test_a_time_for_a_start_that_is_none_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="start_timeout"):
        Client(URL, start_timeout=given)


@pytest.mark.parametrize("given", [0.001, LONGEST_START, timedelta(hours=1)], ids=str)
def test_any_time_between_is_accepted(given: float | timedelta) -> None:
    Client(URL, start_timeout=given)


# How it is used


async def test_it_connects_once_until_it_is_closed_and_may_then_connect_again(
    store_url: str,
) -> None:
    client = Client(store_url, namespace=secrets.token_hex(6))
    for _ in range(2):
        async with client:
            with pytest.raises(ConfigError, match="connected already"):
                await client.connect()
            assert await client.count_runs() == {}, "it goes on"
        await client.aclose()  # once more does nothing


USES: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "start": lambda client: greeting.start(client, "Ada"),
    "list": lambda client: client.count_runs(),
    "follow": lambda client: client.handle(RUN_ID).status(),
    "wait": lambda client: greeting.handle(client, RUN_ID).wait_for_completion(0),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("was_connected", [False, True], ids=["never connected", "closed"])
async def test_it_is_not_used_unconnected(
    store_url: str, use: Callable[[Client], Awaitable[Any]], *, was_connected: bool
) -> None:
    client = Client(store_url, namespace=secrets.token_hex(6))
    if was_connected:
        async with client:
            pass
    with pytest.raises(ConfigError, match="not connected; use it with `async with`"):
        await use(client)
