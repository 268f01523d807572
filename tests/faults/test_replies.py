"""Scripts that were done and whose reply was lost: sent again, they change nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki import RunCancelled
from aiki.states import Status
from tests.faults.ledger import VARIABLE
from tests.faults.site import serving
from tests.faults.traps import lay_losses

# Each is sent by a worker in the life of one of the orders below.
SENT_BY_WORKERS = (
    "claim_runs",
    "commit_step",
    "commit_attempt",
    "abandon_step",
    "park_run",
    "finish_run",
)


async def test_a_lost_reply_of_any_script_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, "--lease", "60s", workers=1) as (site, found):
        site.traps.set(*(f"lose-{script}" for script in SENT_BY_WORKERS))
        plain = await site.start("plain")
        (story,) = await site.complete([plain])
        assert story.is_undisturbed()
        parking = await site.start("parking", reserve="fail:well")
        await site.comes_to_be(parking, Status.AWAITING_RETRY)
        site.open("well")
        (story,) = await site.complete([parking])
        assert story.ends.total() == 5
        cancelled = await site.start("cancelled", charge="gate:never")
        await site.under_way(cancelled, "charge")
        await cancelled.cancel("no longer wanted")
        with pytest.raises(RunCancelled):
            await cancelled.wait_for_completion(timeout=60)
        begun = [effect.task for effect in site.effects(cancelled.id) if effect.phase == "start"]
        assert begun == ["validate", "charge", "restore"]
        # What a client sends
        monkeypatch.setenv(VARIABLE, str(site.ledger))
        lay_losses(monkeypatch.setattr)
        site.traps.set("lose-start_runs", "lose-watch_run", "lose-request_cancel")
        (story,) = await site.complete([await site.start("from a client")])
        assert story.is_undisturbed()
        stuck = await site.start("stuck", charge="gate:never")
        await site.under_way(stuck, "charge")
        assert await stuck.cancel() in (Status.RUNNING, Status.CANCELLED)
        await site.comes_to_be(stuck, Status.CANCELLED)
        runs = {effect.run for effect in site.effects()}
        assert len(runs) == 5
        await site.is_alive()
        await site.is_consistent(workers=1)
        await site.ends(found)
