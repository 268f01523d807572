"""What a case that fails tells of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.states import Status
from tests.faults.site import site_at


async def failing(directory: Path) -> None:
    """Fail beside a run that waits, one that is at a step, and one that is over."""
    async with site_at(directory, proxied=True) as site:
        with site.supervised(workers=1):
            parked = await site.start("parked", reserve="fail:well")
            await site.comes_to_be(parked, Status.AWAITING_RETRY)
            held = await site.start("held", charge="gate:open")
            (worker,) = await site.under_way(held, "charge")
            done = await site.start("done")
            await site.complete([done])
            site.proxy.blackhole()  # which keeps nobody from telling
            raise AssertionError(parked.id, held.id, done.id, worker)


async def test_a_case_that_fails_tells_where_its_runs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError) as failure:
        await failing(tmp_path)
    parked, held, done, worker = failure.value.args
    told = capsys.readouterr().out.partition("runs that are not over when it failed")[2]
    assert f"{held} orders running epoch 1\n" in told
    assert f"(pid {worker}, lease " in told
    assert "recorded: validate\n" in told
    assert f"{parked} orders " in told, "it may have been tried again meanwhile"
    assert done not in told
    assert "is ready" in told.partition("supervisor said last:")[2]
    assert len(told.splitlines()) < 20
