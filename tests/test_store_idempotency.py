"""Every script sent twice: an unknown outcome is answered by sending the same bytes again."""

from __future__ import annotations

import re
from typing import Any

import pytest

from aiki.store.scripts import SCRIPTS
from tests.support.calls import ANY, SAME
from tests.support.schedule_calls import CALLS
from tests.support.store import Scene, without_clocks


def without_times(reply: Any) -> str:
    """Leave out the server's time, which a claim's reply tells."""
    return re.sub(r"b'\d{13}'", "a time", repr(reply))


@pytest.mark.parametrize("name", CALLS)
async def test_a_script_sent_twice_does_once_what_it_does(scene: Scene, name: str) -> None:
    call = CALLS[name]
    arguments = await call.arrange(scene)
    first = await scene.script(call.script, *arguments)
    if call.reply is not ANY:
        assert first == call.reply
    before = without_clocks(await scene.dump())

    second = await scene.script(call.script, *arguments)

    assert without_clocks(await scene.dump()) == before
    expected = first if call.again is SAME else call.again
    if expected is not ANY:
        assert without_times(second) == without_times(expected)


def test_every_script_is_tried() -> None:
    assert {call.script for call in CALLS.values()} == set(SCRIPTS)
