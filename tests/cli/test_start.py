"""`aiki start`: which version, which input, and what it ends with."""

import json
import re
from pathlib import Path

import pytest

import aiki
from aiki.cli import Exit
from tests.cli.till import RUN_ID, Sum, invoke, reach, shop_old, show, start, total


@pytest.mark.usefixtures("worker")
async def test_start_waits_for_the_result_and_prints_it_as_json() -> None:
    result = await invoke("start", "shop", "--wait", *total(5.0))
    assert result.exit_code == Exit.DONE
    assert json.loads(result.stdout) == "paid 5.0 EUR"
    assert re.fullmatch(rf"started shop 1\.10\.0 as {RUN_ID.pattern}\n", result.stderr)


@pytest.mark.usefixtures("worker")
async def test_start_prints_the_id_alone_so_that_scripts_can_take_it(client: aiki.Client) -> None:
    run_id = await start("shop", *total(5.0))
    assert await client.handle(run_id).wait_for_completion() == "paid 5.0 EUR"


@pytest.mark.usefixtures("worker")
async def test_a_dash_reads_the_input_from_stdin() -> None:
    given = '{"total": {"amount": 5}, "note": "Grüße: "}'
    result = await invoke("start", "shop", "--wait", "--input", "-", text=given)
    assert json.loads(result.stdout) == "Grüße: paid 5.0 EUR"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("wanted", [("shop/1.2.0",), ("shop", "--version", "1.2.0")])
async def test_a_version_may_be_said_in_two_ways(wanted: tuple[str, ...]) -> None:
    run_id = await start(*wanted, *total(5.0))
    assert (await show(run_id))["version"] == "1.2.0"


async def test_without_a_version_it_is_the_newest_one_that_is_served(
    client: aiki.Client, worker: aiki.Worker
) -> None:
    await start("shop/2.0.0", *total(5.0))  # which nobody serves
    run_id = await start("shop", *total(5.0))
    assert (await show(run_id))["version"] == "1.10.0"
    await worker.stop()
    run_id = await start("shop", *total(5.0))
    assert (await show(run_id))["version"] == "2.0.0"
    await reach(client, run_id, aiki.Status.QUEUED)


@pytest.mark.usefixtures("worker")
async def test_a_run_that_fails_while_it_is_waited_for_is_told_by_the_exit_code() -> None:
    result = await invoke("start", "shop", "--wait", *total(-1))
    assert result.exit_code == Exit.UNSUCCESSFUL
    assert result.stdout == ""
    assert "ValueError: -1.0 EUR is no price" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("worker")
async def test_an_input_that_does_not_fit_the_handler_stalls_the_run_and_says_where() -> None:
    result = await invoke("start", "shop", "--wait", "--input", '{"total": {"amount": "much"}}')
    assert result.exit_code == Exit.UNSUCCESSFUL
    assert "is stalled" in result.stderr
    assert "$.total.amount" in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "--input is not JSON"),
        ("[" * 100_000, "--input is not JSON"),
        ("[5]", "--input is an object"),
        ("null", "--input is an object"),
        ('{"total": NaN}', "nan is not a number in JSON (at $.total)"),
        ('{"total": "\\ud800"}', "lone surrogate"),
        ('{"total": "' + "x" * 2**20 + '"}', "over the limit"),
    ],
)
async def test_an_input_that_is_no_object_of_arguments_is_refused_before_anything_is_sent(
    place: Path, given: str, said: str
) -> None:
    result = await invoke("start", "shop/1.2.0", "--input", "-", text=given)
    assert result.exit_code == Exit.USAGE
    assert said in result.stderr
    assert not (place / ".aiki").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("shop/1.0",), "a version is MAJOR.MINOR.PATCH"),
        (("shop/",), "a version is MAJOR.MINOR.PATCH"),
        (("shop", "--version", "v1"), "a version is MAJOR.MINOR.PATCH"),
        (("shop/1.0.0", "--version", "1.0.0"), "say the version once"),
        (("a:b/1.0.0",), "WORKFLOW: the name 'a:b' holds ':'"),
        (("shop/1.0.0", "--pool", ""), "--pool: the name '' is empty"),
        (("shop/1.0.0", "--idempotency-key", " k"), "begins or ends with white space"),
        ((), "Missing argument 'WORKFLOW'"),
        (("shop/1.0.0", "--redis", "http://x"), "a Redis URL starts with"),
        (("shop/1.0.0", "--redis", "redis://x", "--data-dir", "y"), "are both given"),
    ],
)
async def test_a_wrong_argument_of_start_is_refused_in_a_sentence(
    place: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = await invoke("start", *arguments)
    assert result.exit_code == Exit.USAGE
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not (place / ".aiki").exists()


@pytest.mark.usefixtures("worker")
async def test_a_workflow_that_nobody_ever_served_is_not_found_without_a_version() -> None:
    result = await invoke("start", "shp")
    assert result.exit_code == Exit.NOT_FOUND
    assert "nobody has ever served a workflow 'shp' here; did you mean shop?" in result.stderr
    assert json.loads((await invoke("runs", "--json")).stdout) == []


@pytest.mark.usefixtures("client")
async def test_a_start_that_nobody_serves_yet_is_accepted_and_says_so() -> None:
    result = await invoke("start", "later/1.0.0")
    assert result.exit_code == Exit.DONE
    assert "no worker serves later 1.0.0 in pool 'default' now" in result.stderr
    shown = await show(result.stdout.strip())
    assert shown["status"] == "queued"
    assert shown["reason"] == "waits for a worker of pool 'default' that serves later 1.0.0"


async def test_one_key_and_one_input_mean_one_run_whoever_starts_it(client: aiki.Client) -> None:
    keyed = shop_old.with_options(idempotency_key="k")
    handle = await keyed.start(client, Sum(5.0))
    same = ("--idempotency-key", "k", "--input")
    given = '{ "total": {"currency": "EUR", "amount": 5.0} }'
    assert await start("shop/1.2.0", *same, given) == handle.id
    other = await invoke("start", "shop/1.2.0", *same, '{"total": {"amount": 6.0}}')
    assert other.exit_code == Exit.USAGE
    assert f"belongs to run {handle.id}" in other.stderr


async def test_a_start_may_be_delayed_tagged_and_have_deadlines(client: aiki.Client) -> None:
    result = await invoke(
        "start", "shop/1.2.0", *total(5.0), "--delay", "2h", "--start-by", "1m", "--finish-by",
        "2100-01-31T09:00+01:00", "--tag", "customer:7", "--tag", "red", "--memo", '{"by": "Ada"}',
    )  # fmt: skip
    assert result.exit_code == Exit.DONE, result.output
    assert "is to start at " in result.stderr
    shown = await show(result.stdout.strip())
    assert (shown["status"], shown["tags"]) == ("scheduled", ["customer:7", "red"])
    assert (shown["memo"], shown["details"]) == ({"by": "Ada"}, "")
    assert shown["finish_by"] == "2100-01-31T08:00:00+00:00"
    told = await client.handle(shown["id"]).describe()
    assert told.due is not None
    assert told.start_by is not None
    assert (told.due - told.created).total_seconds() == 7200
    assert (told.start_by - told.due).total_seconds() == 60
    details = (await invoke("show", shown["id"])).stdout
    assert "tags       customer:7, red" in details
    assert 'memo       {"by": "Ada"}' in details
    assert "finish by  2100-01-31" in details

    at = await start("shop/1.2.0", *total(5.0), "--start-at", "2100-01-31T09:00+01:00")
    assert (await show(at))["due"] == "2100-01-31T08:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--delay", "soon"), "--delay is a time such as 90s"),
        (("--start-at", "soon"), "--start-at is a moment such as"),
        (("--finish-by", "2030-1-1"), "--finish-by is a moment such as"),
        (("--delay", "1s", "--start-at", "2100-01-31"), "give delay or start_at"),
        (("--tag", ""), "the tag '' is empty"),
        (("--memo", "red"), "--memo is not JSON"),
        (("--memo", "[1]"), "--memo is an object"),
    ],
    ids=str,
)
async def test_options_that_cannot_be_read_start_nothing(
    client: aiki.Client, arguments: tuple[str, ...], words: str
) -> None:
    result = await invoke("start", "shop/1.2.0", *total(5.0), *arguments)
    assert result.exit_code == Exit.USAGE
    assert words in result.stderr
    assert await client.count_runs() == {}
