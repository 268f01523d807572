"""The command line and encrypted payloads: shown with the keys, and named without them."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import aiki
from aiki import Encrypted
from aiki.cli import Exit
from tests.cli.till import Sum, invoke, shop, shop_new, show, total

UNREADABLE = "encrypted (key id 2030-01)"


@pytest.fixture
async def keys(place: Path) -> Path:
    """Make a file of one key by the command."""
    made = await invoke("new-key", "2030-01")
    assert made.exit_code == Exit.DONE
    path = place / "keys"
    path.touch(mode=0o600)
    path.write_text(made.stdout)
    return path


@pytest.fixture
async def sealing(place: Path, keys: Path) -> AsyncGenerator[aiki.Client]:
    """Make a client that encrypts, with a worker."""
    codec = Encrypted.from_file(keys)
    async with aiki.client(data_dir=place / ".aiki", codec=codec) as client:
        worker = aiki.worker(client, id="till-1")
        worker.workflow_registry.add(shop)
        async with worker:
            yield client


async def test_show_tells_payloads_with_the_keys_and_names_the_key_without(
    sealing: aiki.Client, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await shop_new.start(sealing, Sum(5.0))
    await handle.wait_for_completion(10)
    output = (await invoke("show", handle.id)).stdout
    assert f"\n  input      {json.dumps(UNREADABLE)}\n" in output
    assert f"\n  result     {json.dumps(UNREADABLE)}\n" in output
    assert ["check", "completed"] in [line.split()[:2] for line in output.splitlines()]
    shown = await show(handle.id)
    assert (shown["input"], shown["result"]) == (UNREADABLE, UNREADABLE)
    assert [step["result"] for step in shown["journal"]] == [UNREADABLE, UNREADABLE]

    shown = await show(handle.id, "--encryption-keys", str(keys))
    assert shown["result"] == "paid 5.0 EUR"
    assert [step["result"] for step in shown["journal"]] == [True, "paid 5.0 EUR"]
    monkeypatch.setenv("AIKI_ENCRYPTION_KEYS", str(keys))
    assert (await show(handle.id))["result"] == "paid 5.0 EUR"


async def test_show_without_the_keys_tells_that_a_run_failed_and_not_with_what(
    sealing: aiki.Client,
) -> None:
    handle = await shop_new.start(sealing, Sum(-5.0))
    with pytest.raises(aiki.RunFailed):
        await handle.wait_for_completion(10)
    output = (await invoke("show", handle.id)).stdout
    assert f"failure    aiki.Sealed: {UNREADABLE}" in output
    assert "EUR" not in output
    shown = await show(handle.id)
    assert shown["failure"]["message"] == UNREADABLE
    assert shown["journal"][0]["failure"]["message"] == UNREADABLE


@pytest.mark.usefixtures("sealing")
async def test_start_encrypts_and_waits_by_the_keys_of_the_project(place: Path, keys: Path) -> None:
    (place / "pyproject.toml").write_text(f'[tool.aiki]\nencryption-keys = "{keys.name}"\n')
    started = await invoke("start", "shop", "--wait", *total(7.0))
    assert started.exit_code == Exit.DONE, started.output
    assert json.loads(started.stdout) == "paid 7.0 EUR"
    (place / "pyproject.toml").unlink()
    refused = await invoke("start", "shop", "--wait", *total(7.0))  # whose end is encrypted
    assert refused.exit_code == Exit.USAGE
    assert "is encrypted with key '2030-01', which this process does not have" in refused.output


@pytest.mark.parametrize("arguments", [("new-key", "a key"), ("runs", "--encryption-keys", "no")])
async def test_what_is_wrong_with_keys_is_said(arguments: tuple[str, ...], place: Path) -> None:
    (place / ".aiki").mkdir()
    refused = await invoke(*arguments)
    assert refused.exit_code == Exit.USAGE
    assert refused.output.startswith("Error: ")
