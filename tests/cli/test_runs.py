"""`aiki runs`, and where it looks for them."""

import asyncio
import json
from pathlib import Path

import pytest

import aiki
from aiki.cli import Exit
from tests.cli.till import Sum, invoke, reach, shop_old, show, start, total
from tests.support.server import RedisServer


async def test_runs_lists_the_newest_first_and_what_it_is_asked_for(
    client: aiki.Client, worker: aiki.Worker
) -> None:
    done = await start("shop", *total(1.0))
    await reach(client, done, aiki.Status.COMPLETED)
    failed = await start("shop", *total(-1))
    await reach(client, failed, aiki.Status.FAILED)
    waiting = await start("other/1.0.0")

    async def listed(*arguments: str) -> list[str]:
        found = json.loads((await invoke("runs", "--json", *arguments)).stdout)
        return [run["id"] for run in found]

    assert await listed() == [waiting, failed, done]
    assert await listed("--limit", "1") == [waiting]
    assert await listed("--workflow", "shop") == [failed, done]
    assert await listed("--status", "completed") == [done]
    assert await listed("--status", "queued", "--workflow", "shop") == []
    assert worker.hosted == 0

    table = (await invoke("runs")).stdout.splitlines()
    assert table[0].split() == ["RUN", "WORKFLOW", "STATUS", "SINCE"]
    assert [line.split()[:4] for line in table[1:]] == [
        [waiting, "other", "1.0.0", "queued"],
        [failed, "shop", "1.10.0", "failed"],
        [done, "shop", "1.10.0", "completed"],
    ]
    assert "--limit shows more" in (await invoke("runs", "--limit", "2")).stderr


@pytest.mark.usefixtures("client")
async def test_runs_are_found_by_tag_and_age_and_are_counted() -> None:
    red = await start("shop/1.2.0", "--tag", "red")
    blue = await start("other/1.0.0", "--tag", "blue", "--delay", "1h")

    async def listed(*arguments: str) -> list[str]:
        found = json.loads((await invoke("runs", "--json", *arguments)).stdout)
        return [run["id"] for run in found]

    assert await listed("--tag", "red") == [red]
    assert await listed("--tag", "blue", "--status", "queued") == []
    assert sorted(await listed("--since", "1h")) == sorted([red, blue])
    assert await listed("--since", "2100-01-01") == []
    counted = await invoke("runs", "--count", "--json")
    assert json.loads(counted.stdout) == {"other": {"scheduled": 1}, "shop": {"queued": 1}}
    table = (await invoke("runs", "--count", "--workflow", "shop")).stdout.splitlines()
    assert [line.split() for line in table] == [
        ["WORKFLOW", "STATUS", "RUNS"],
        ["shop", "queued", "1"],
    ]
    assert (await invoke("runs", "--count", "--tag", "red")).exit_code == Exit.USAGE
    assert "red" in (await invoke("runs", "--since", "red")).stderr


@pytest.mark.usefixtures("client")
async def test_runs_says_so_when_there_are_none() -> None:
    nothing = await invoke("runs")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no runs\n")
    none_such = await invoke("runs", "--status", "failed")
    assert (none_such.exit_code, none_such.stderr) == (0, "no such runs\n")


@pytest.mark.parametrize("arguments", [("runs",), ("show", "0-x"), ("start", "shop"), ("audit",)])
async def test_where_there_is_no_store_it_says_so_and_leaves_none_behind(
    place: Path, arguments: tuple[str, ...]
) -> None:
    result = await invoke(*arguments)
    assert result.exit_code == Exit.STORE
    assert f"there is no data directory {place / '.aiki'}" in result.stderr
    assert not (place / ".aiki").exists()


async def test_it_uses_the_redis_and_the_namespace_that_it_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(place)
    await asyncio.to_thread(server.start)
    try:
        run_id = await start("shop/1.2.0", "--redis", server.url, "--namespace", "here")
        monkeypatch.setenv("AIKI_REDIS_URL", server.url)
        assert (await show(run_id, "--namespace", "here"))["status"] == "queued"
        assert (await invoke("runs")).stderr == "no runs\n"
    finally:
        await asyncio.to_thread(server.stop)
    assert not (place / ".aiki").exists()


async def test_a_store_that_cannot_be_reached_is_told_without_its_password() -> None:
    result = await invoke("runs", "--redis", "redis://:secret@127.0.0.1:1")
    assert result.exit_code == Exit.STORE
    assert "127.0.0.1:1" in result.stderr
    assert "secret" not in result.output


async def test_it_looks_into_a_store_of_any_durability(place: Path) -> None:
    async with aiki.client(data_dir=place / ".aiki", durability="memory") as client:
        handle = await shop_old.start(client, Sum(5.0))
        assert (await show(handle.id))["status"] == "queued"
