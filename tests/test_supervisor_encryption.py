"""Encryption under a supervisor: its workers get the keys from a file that a setting names."""

import signal
from pathlib import Path

import pytest

from aiki import Client, Encrypted
from aiki.encryption import new_key_line
from aiki.errors import UnknownKey
from aiki.supervisor.exits import Exit
from tests.support.marked import MARK, stored
from tests.support.supervised import Supervised, start
from tests.support.waiting import eventually

SHOP = """
from aiki import Run, task, workflow

@task
def serve(name: str) -> str:
    return f"{name} is served"

shop = workflow("shop")

@shop.v("1.0.0")
async def shop_v1(run: Run, name: str) -> str:
    return await serve.start(run, name)
"""


async def test_workers_encrypt_by_the_keys_in_a_file_and_a_reload_brings_new_ones(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    older, newer = new_key_line("k1"), new_key_line("k2")
    keys.write_text(older)
    found = Supervised(
        tmp_path, "shop", "--workers", "1", environ={"AIKI_ENCRYPTION_KEYS": str(keys)}
    )
    found.write("shop", SHOP)

    def client() -> Client:
        return Client(data_dir=found.data_dir, codec=Encrypted.from_file(keys))

    with found:
        await found.serves()
        async with client() as first:
            handle = await start(first, "shop", name=MARK)
            assert await handle.wait_for_completion(20) == f"{MARK} is served"
            everything = b"".join(b"".join(each) for each in (await stored(first)).values())
            assert MARK.encode() not in everything
            assert b"k1" in everything
            keys.write_text(f"{newer}\n{older}\n")
            old = {worker.pid for worker in found.workers()}
            found.send(signal.SIGHUP)
            await eventually(
                lambda: not old & {worker.pid for worker in found.workers()}, 20.0, "the new ones"
            )
            handle = await start(first, "shop", name=MARK)
            with pytest.raises(UnknownKey, match="'k2'"):  # the workers write with the newer one
                await handle.wait_for_completion(20)
        async with client() as second:
            assert await second.handle(handle.id).wait_for_completion(20) == f"{MARK} is served"
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED


@pytest.mark.parametrize("option", ["--encryption-keys", "--compress-over"])
async def test_a_supervisor_does_not_begin_with_keys_that_are_none(
    tmp_path: Path, option: str
) -> None:
    found = Supervised(tmp_path, "shop", option, "nothing")
    found.write("shop", SHOP)
    with found:
        assert await found.ends(30) == Exit.USAGE
    assert "nothing" in found.output()
