"""Old and new workers side by side on one store, and data that only another release can read."""

from __future__ import annotations

import re
import shutil
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from aiki import StoreRefused
from aiki.store.store import SCHEMA
from aiki.supervisor.exits import Exit
from tests.faults.releases import Release, release
from tests.faults.site import Site, serving, site_at
from tests.faults.traffic import LONG, Traffic
from tests.faults.which import which_v1
from tests.faults.workload import errand_v1, letter
from tests.support.store import Scene
from tests.support.supervised import Supervised
from tests.support.waiting import eventually

# Of an old worker: what it is at is handed on, and is begun again by a new one.
GRACE = ("--grace", "2s")


def of(site: Site, release: Release, name: str) -> Supervised:
    """Prepare a supervisor of a release."""
    return site.supervised(*GRACE, "tests.faults.which", name=name, environ=release.environ())


async def are_served_by(site: Site, release: Release) -> str:
    """See that a release serves, and nobody else; give what the server calls one of its scripts."""
    told = {tuple(await (await which_v1.start(site.client)).wait_for_completion()) for _ in "1234"}
    ((version, place, sha),) = told
    assert version == release.version
    assert Path(place).is_relative_to(release.place)
    return sha


async def ends(found: Supervised) -> None:
    """Stop a supervisor while runs are under way."""
    found.send(signal.SIGTERM)
    assert await found.ends() == 0
    await found.leaves_nothing()
    assert "Traceback" not in found.output()
    assert "the sweep mended" not in found.output(), "what the other release has written"


def is_at_work(site: Site, found: Supervised) -> bool:
    """Tell whether all workers of a supervisor have done something."""
    done_by = {effect.pid for effect in site.effects()}
    return all(worker.pid in done_by for worker in found.workers())


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Release]:
    """Give an old release and a new one."""
    directory = tmp_path_factory.mktemp("releases")
    return release(directory, "0.97.0"), release(directory, "0.98.0")


@pytest.mark.slow
async def test_releases_side_by_side_execute_the_same_runs_and_one_takes_over_from_the_other(
    tmp_path: Path, releases: tuple[Release, Release]
) -> None:
    """Checks I1 to I6, I13 and I15: from the old to the new under load, and back again."""
    old, new = releases
    async with site_at(tmp_path) as site, site.admin() as admin, AsyncExitStack() as stack:
        found = stack.enter_context(of(site, old, "old"))
        await found.serves()
        shas = [await are_served_by(site, old)]
        traffic = Traffic(site, found)
        await traffic.begin()
        held = await site.start("held", charge="gate:over")
        owners = await site.under_way(held, "charge")
        errands = [await errand_v1.start(site.client, f"errand-{n}") for n in range(5)]
        site.started |= {errand.id for errand in errands}
        for name, other in (("new", new), ("old-again", old)):
            successor = stack.enter_context(of(site, other, name))
            await successor.serves()
            for each in (found, successor):
                await eventually(partial(is_at_work, site, each), LONG, "both at work")
            assert await site.under_way(held, "charge") == owners
            await ends(found)
            owners = await site.under_way(held, "charge", len(owners) + 1)
            assert owners[-1] in {worker.pid for worker in successor.workers()}
            traffic.found = found = successor
            await traffic.flows()
            shas.append(await are_served_by(site, other))
            errand = errands.pop()
            await letter.send(site.client, errand.id, name)
            assert (await errand.wait_for_completion(timeout=60))[2:] == ["True", name]
        assert shas[0] == shas[2] != shas[1]
        assert await admin.script_exists(*shas[:2]) == [True, True], "two scripts of one name"
        for errand in errands:
            await letter.send(site.client, errand.id, "in the end")
            assert (await errand.wait_for_completion(timeout=60))[2:] == ["True", "in the end"]
        await traffic.end(undisturbed=False)
        (story,) = await site.complete([held])
        assert story.starts["charge"] == len(owners) == 3
        stories = await site.complete(traffic.moving)
        assert all(story.starts.total() == 5 for story in stories), "a step that was handed on"


@pytest.mark.slow
async def test_a_supervisor_that_was_updated_in_place_serves_on_and_asks_to_be_restarted(
    tmp_path: Path, releases: tuple[Release, Release]
) -> None:
    old, new = releases
    place = tmp_path / "place"
    shutil.copytree(old.place, place)
    async with site_at(tmp_path) as site:
        updated = [of(site, Release(each.version, place), each.version) for each in releases]
        with updated[0] as found:
            await found.serves()
            workers = await found.has_workers(2)
            place.rename(tmp_path / "before")  # the fault
            shutil.copytree(new.place, place)
            found.send(signal.SIGHUP)
            said = r"aiki was updated under this supervisor, from 0\.97\.0 to 0\.98\.0: restart"
            await found.says(said)
            await found.says("the reload failed; the old workers serve on")
            await site.is_alive()
            assert found.workers() == workers
            await ends(found)
        with updated[1] as found:
            await found.serves()
            await are_served_by(site, Release(new.version, place))
            await site.is_alive()
            await site.ends(found)


async def test_a_release_of_other_data_is_refused_in_words_and_those_that_serve_go_on(
    tmp_path: Path,
) -> None:
    """The number of this release is changed in the store, as if another one had made it."""
    async with serving(tmp_path) as (site, found):
        scene = Scene(site.client.store)
        meta = scene.base + "meta"
        for schema, advice in (("2", "a later release.*update aiki here"), ("0", "an earlier")):
            await scene.command("HSET", meta, "schema", schema)
            with pytest.raises(StoreRefused, match=advice):
                await site.make_client().connect()
            with site.supervised(name=f"of-{schema}") as refused:
                assert await refused.ends() == Exit.STORE
                assert re.search(advice, refused.output())
                assert "Traceback" not in refused.output()
        await scene.command("HSET", meta, "schema", SCHEMA)
        await site.is_alive()
        await site.ends(found)
