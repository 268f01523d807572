"""Runs whose stored data was damaged: they are held, and nobody else notices."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from aiki.states import Status
from tests.faults.site import serving
from tests.support.store import Scene

# What is damaged, in which key of the run and which field (of a step where it ends with a colon),
# and what becomes of the value there.
DAMAGES: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "input": ("", "input", lambda _: b"\xff\xfe no JSON"),
    "a time": ("", "created", lambda _: b"yesterday"),
    "an entry": (":journal", "charge:", lambda _: b"\x00 what was this?"),
    "an entry's kind": (":journal", "charge:", lambda entry: b"z" + entry[1:]),
    "a result": (":journal", "charge:", lambda entry: entry.partition(b"\n")[0] + b"\n\xff{"),
    "a key": (":journal", "no-address", lambda _: b"r 1:t 1 0 9999999 1 1 w\n1"),
}


async def test_damaged_runs_are_held_with_a_reason_and_the_others_complete(tmp_path: Path) -> None:
    async with serving(tmp_path, "--lease", "60s", workers=1) as (site, found):
        workers = await found.has_workers(1)
        handles = {name: await site.start(name, reserve="fail:well") for name in DAMAGES}
        beside = await site.start_many(5, "beside", reserve="fail:well")
        for handle in (*handles.values(), *beside):
            await site.comes_to_be(handle, Status.AWAITING_RETRY)
        scene = Scene(site.client.store)
        for name, (part, start, damaged) in DAMAGES.items():
            key = f"{scene.base}run:{handles[name].id}{part}"
            fields = [field.decode() for field in await scene.command("HKEYS", key)]
            field = next((each for each in fields if each.startswith(start)), start)
            value = await scene.command("HGET", key, field)
            await scene.command("HSET", key, field, damaged(value or b""))
        site.open("well")
        await site.complete(beside)
        for name, handle in handles.items():
            await site.comes_to_be(handle, Status.STALLED)
            status = await handle.status()
            assert status.reason, name
        await site.is_alive()
        assert found.workers() == workers
        assert len(found.output().splitlines()) < 200
        for handle in handles.values():
            assert await handle.cancel("damaged") is Status.CANCELLED
        found.send(signal.SIGTERM)
        assert await found.ends() == 0
