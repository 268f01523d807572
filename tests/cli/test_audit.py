"""`aiki audit`: what is wrong in the store, for people and for scripts."""

import json

import aiki
from aiki.cli import Exit
from tests.cli.till import invoke, start


async def damage(client: aiki.Client, run_id: str) -> None:
    """Take a run off its listing, and leave something that nobody can mend."""
    base = client.store.audit._base
    await client.store.link.send(("ZREM", f"{base}index:active/shop", run_id))
    await client.store.link.send(("SET", f"{base}a\x1bstranger", "1"))


async def test_audit_finds_nothing_in_a_healthy_store(client: aiki.Client) -> None:
    await start("shop/1.2.0")
    result = await invoke("audit")
    assert (result.exit_code, result.stderr) == (Exit.DONE, "")
    assert "1 of them runs, were looked at: all is as it should be." in result.stdout
    assert client.store.audit is not None


async def test_audit_tells_what_is_wrong_and_mends_what_can_be(client: aiki.Client) -> None:
    run_id = await start("shop/1.2.0")
    await damage(client, run_id)

    found = await invoke("audit")
    assert found.exit_code == Exit.UNSUCCESSFUL
    *lines, last = found.stdout.splitlines()
    assert sorted(lines) == sorted(
        [f"{run_id}  was not listed as queued", "a\\x1bstranger  is no key of aiki's"]
    )
    assert last.endswith("2 things are wrong; --repair would mend 1.")

    told = json.loads((await invoke("audit", "--json")).stdout)
    assert sorted(told) == ["findings", "keys", "runs"]
    assert {
        "what": run_id, "problem": "was not listed as queued",
        "can_be_mended": True, "is_mended": False,
    } in told["findings"]  # fmt: skip

    mended = await invoke("audit", "--repair")
    assert mended.exit_code == Exit.UNSUCCESSFUL, "what cannot be mended is still there"
    assert f"{run_id}  was not listed as queued; mended" in mended.stdout
    assert mended.stdout.endswith("1 thing is wrong.\n")
    assert [run.id async for run in client.runs()] == [run_id]

    await client.store.link.send(("DEL", f"{client.store.audit._base}a\x1bstranger"))
    assert (await invoke("audit")).exit_code == Exit.DONE
