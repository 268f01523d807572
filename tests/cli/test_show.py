"""`aiki show`: what people are told of a run."""

import pytest

import aiki
from aiki.cli import Exit
from tests.cli.till import Sum, invoke, reach, shop, shop_new, show, start, total


@pytest.mark.usefixtures("worker")
async def test_show_tells_the_journal_of_a_completed_run(client: aiki.Client) -> None:
    run_id = await start("shop", *total(5.0))
    await client.handle(run_id).wait_for_completion()
    output = (await invoke("show", run_id)).stdout
    assert output.startswith(f"Run {run_id}\n\n  workflow   shop 1.10.0\n  status     completed ")
    assert '\n  input      {"total": {"amount": 5.0, "currency": "EUR"}}\n' in output
    assert '\n  result     "paid 5.0 EUR"\n' in output
    head, *steps = output.split("\n\n")[-1].splitlines()
    assert head.split() == ["STEP", "OUTCOME", "ATTEMPTS", "DURATION", "WORKER"]
    assert [(row.split()[:3], row.split()[-1]) for row in steps] == [
        (["check", "completed", "1"], "till-1"),
        (["charge", "completed", "1"], "till-1"),
    ]


@pytest.mark.usefixtures("worker")
async def test_show_tells_what_failed_and_where_in_the_users_code(client: aiki.Client) -> None:
    run_id = await start("shop", *total(-1))
    await reach(client, run_id, aiki.Status.FAILED)
    output = (await invoke("show", run_id)).stdout
    assert "TaskFailed: task 'check' failed after 1 attempt: ValueError: -1.0 EUR" in output
    assert 'raise ValueError(f"{total.amount} {total.currency} is no price")' in output
    assert "execution.py" not in output  # nor anything else of ours that called it
    assert output.endswith("till-1\n  ValueError: -1.0 EUR is no price\n")
    shown = await show(run_id)
    assert shown["failure"]["cause"]["type"] == "ValueError"
    assert [step["outcome"] for step in shown["journal"]] == ["failed"]


@pytest.mark.usefixtures("worker")
async def test_show_tells_what_a_run_waits_for(client: aiki.Client) -> None:
    run_id = await start("shop", *total(5.0, "XXX"))
    await reach(client, run_id, aiki.Status.AWAITING_RETRY)
    output = (await invoke("show", run_id)).stdout
    assert "\n  status     awaiting_retry for " in output
    assert "\n  reason     its next attempt is due at 20" in output
    assert "\n  ConnectionError: the provider is away\n  next attempt in " in output
    shown = await show(run_id)
    assert shown["journal"][1]["outcome"] == "retrying"
    assert shown["journal"][1]["due"] is not None


async def test_show_tells_why_a_run_was_cancelled(client: aiki.Client) -> None:
    handle = await shop_new.start(client, Sum(5.0))
    await handle.cancel("ordered \x1b[2J twice")
    output = (await invoke("show", handle.id)).stdout
    assert "\n  status     cancelled " in output
    assert "\n  cancelled  ordered \\x1b[2J twice\n" in output
    assert output.endswith("No step is recorded yet.\n")


async def test_show_tells_which_runs_a_run_belongs_to(client: aiki.Client) -> None:
    parents = aiki.workflow("parents")

    @parents.v("1.0.0")
    async def parent(run: aiki.Run) -> str:
        return (await shop_new.start_as_child(run, Sum(5.0))).id

    worker = aiki.worker(client)
    worker.workflow_registry.add(parents)
    worker.workflow_registry.add(shop)
    async with worker:
        handle = await parent.start(client)
        child_id = await handle.wait_for_completion()
        fork = await handle.fork()
        assert await fork.wait_for_completion() == child_id
    assert f"\n  child of   {handle.id}\n" in (await invoke("show", child_id)).stdout
    assert f"\n  fork of    {handle.id}\n" in (await invoke("show", fork.id)).stdout
    assert (await show(child_id))["parent"] == handle.id
    assert (await show(fork.id))["forked_from"] == handle.id


@pytest.mark.usefixtures("client")
async def test_show_of_a_run_that_does_not_exist_is_not_found() -> None:
    result = await invoke("show", "0-nothing")
    assert result.exit_code == Exit.NOT_FOUND
    assert result.stderr.startswith("Error: there is no run '0-nothing'")


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("run_id", ["order-1", "", "0-", "\udcff", "x" * 10_000])
async def test_show_of_what_is_no_id_says_so(run_id: str) -> None:
    result = await invoke("show", run_id)
    assert result.exit_code == Exit.NOT_FOUND
    assert "is not the id of a run" in result.stderr


async def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(client: aiki.Client) -> None:
    handle = await shop_new.start(client, Sum(5.0))
    key = f"aiki:default:{{0}}:run:{handle.id}"
    await client.store.link.send(("HSET", key, "input", "{torn", "status", "failed"))
    await client.store.link.send(("HSET", key, "failure", "{torn"))
    await client.store.link.send(("HSET", f"{key}:journal", "charge:x#0", "r torn"))
    result = await invoke("show", handle.id)
    assert result.exit_code == Exit.DONE
    assert '\n  input      "{torn"\n' in result.stdout
    assert "\n  failure    DataError: a stored failure cannot be read" in result.stdout
    assert f"the journal of run {handle.id} cannot be read" in result.stderr
    assert (await show(handle.id))["input"] == "{torn"
