"""The table in aiki/states.py, cell by cell, against the scripts.

A legal move arrives where the table says. An illegal one changes nothing at all. Both hold as
well for a run in quarantine, and leave a store in which everything is where its record says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from aiki.errors import InvalidTransition, NotFound
from aiki.records import NextAttempt, Ownership, ReadyEntry
from aiki.states import FINAL, MOVES, WAITING, Reason, Status
from tests.support.audit import audit
from tests.support.store import ALONE, STREAM, TIMEOUT, Dump, Scene


@dataclass
class Case:
    """A run in some status, and who owns it or owned it last."""

    scene: Scene
    owner: Ownership

    @property
    def run_id(self) -> str:
        return self.owner.run_id

    @property
    def key(self) -> str:
        return f"{self.scene.base}run:{self.owner.run_id}"


@dataclass(frozen=True)
class Event:
    """Something that happens to a run, and what must be so that it happens."""

    act: Callable[[Case], Awaitable[object]]
    arrange: Callable[[Case], Awaitable[object]] | None = None


# What happens


async def claim(case: Case) -> None:
    record = await case.scene.record(case.run_id)
    stream = ALONE if record.get("quarantine") == "1" else STREAM
    entry = ReadyEntry(stream, record.get("entry") or "1-1", case.run_id, record["epoch"])
    await case.scene.try_claim(entry, case.owner.incarnation, quarantine=True)


async def release(case: Case) -> None:
    epoch = (await case.scene.record(case.run_id))["epoch"]
    await case.scene.store.runs.release(case.run_id, epoch, case.owner.incarnation)


async def recover(case: Case) -> None:
    await case.scene.kill(case.owner.incarnation)


def park(status: Status) -> Callable[[Case], Awaitable[object]]:
    return lambda case: case.scene.park(case.owner, "step#0", status=status)


async def wake(case: Case) -> None:
    await case.scene.store.timers.fire()


async def stall(case: Case) -> bytes:
    return await case.scene.store.runs.stall(case.owner, "the code does not fit")


async def nobody_serves(case: Case) -> None:
    await case.scene.stall_unserved()


async def hold(case: Case) -> None:
    await stall(case)
    await nobody_serves(case)


async def cancel(case: Case) -> None:
    await case.scene.cancel(case.run_id)


def by_a_person(name: str) -> Callable[[Case], Awaitable[object]]:
    """Let a person steer the run; what its status does not allow is refused and told."""

    async def act(case: Case) -> None:
        control, run_id = case.scene.store.control, case.run_id
        with suppress(InvalidTransition):
            match name:
                case "terminate":
                    await control.terminate(run_id, "at once", timeout=TIMEOUT)
                case "retry":
                    epoch = int((await case.scene.record(run_id)).get("epoch", "0"))
                    await control.retry(run_id, epoch, [], ["step#0"], timeout=TIMEOUT)
                case _:
                    await getattr(control, name)(run_id, timeout=TIMEOUT)

    return act


async def try_later(case: Case) -> bytes:
    attempt = NextAttempt(2, 1, 3_600_000, "it failed", [], [])
    return await case.scene.store.control.retry_later(case.owner, attempt)


async def continue_as_new(case: Case) -> bytes:
    return await case.scene.store.control.continue_run(case.owner, b"{}")


def finish(status: Status) -> Callable[[Case], Awaitable[object]]:
    return lambda case: case.scene.finish(case.owner, status)


# What must be so


async def is_among_its_runs(case: Case) -> None:
    await case.scene.command(
        "SADD", f"{case.scene.base}worker:{case.owner.incarnation}:runs", case.run_id
    )


async def has_nearly_died_too_often(case: Case) -> None:
    await is_among_its_runs(case)
    length = await case.scene.command("HLEN", f"{case.key}:journal")
    await case.scene.command("HSET", case.key, "deaths", "4", "progress", length)


async def has_a_due_timer(case: Case) -> None:
    await case.scene.command("ZADD", case.scene.base + "timers", 1, case.run_id)


async def is_served_by_nobody(case: Case) -> None:
    for stream in (STREAM, ALONE):
        await case.scene.command(
            "XGROUP", "DELCONSUMER", case.scene.base + stream, "workers", case.owner.incarnation
        )


async def has_a_cancel_waiting(case: Case) -> None:
    await case.scene.command("HSET", case.key, "cancel", "no longer wanted")


async def is_to_rest(case: Case) -> None:
    """Let a pause be wanted where it is a wish: of a run that has an owner."""
    if (await case.scene.record(case.run_id))["status"] == Status.RUNNING:
        await case.scene.command("HSET", case.key, "pause", "1")


async def is_to_rest_and_among_its_runs(case: Case) -> None:
    await is_to_rest(case)
    await is_among_its_runs(case)


async def is_unserved_and_cancelled(case: Case) -> None:
    await has_a_cancel_waiting(case)
    await is_served_by_nobody(case)


async def is_late_to_finish(case: Case) -> None:
    await case.scene.command("HSET", case.key, "finish_by", "1")
    await case.scene.command("ZADD", case.scene.base + "timers", 1, f"{case.run_id}!finish")


async def is_late_to_start(case: Case) -> None:
    """Let the deadline have come, and let what waits or is held be one that was never claimed."""
    scene, record = case.scene, await case.scene.record(case.run_id)
    await scene.command("HSET", case.key, "start_by", "1")
    await scene.command("ZADD", scene.base + "timers", 1, f"{case.run_id}!start")
    if record["status"] in (Status.QUEUED, Status.PAUSED, Status.STALLED):
        await scene.command("HSET", case.key, "epoch", "0")
    if record["status"] == Status.QUEUED:
        stream = ALONE if record.get("quarantine") == "1" else STREAM
        await scene.command("XDEL", scene.base + stream, record["entry"])
        entry = await scene.command(
            "XADD", scene.base + stream, "*", "run", case.run_id, "epoch", "0"
        )
        await scene.command("HSET", case.key, "entry", entry)


EVENTS = {
    Reason.CLAIM: Event(claim),
    Reason.RELEASE: Event(release),
    Reason.RECOVER: Event(recover, is_among_its_runs),
    Reason.DEATHS: Event(recover, has_nearly_died_too_often),
    Reason.PARK: Event(park(Status.AWAITING_RETRY)),
    Reason.PARK_ASLEEP: Event(park(Status.SLEEPING)),
    Reason.PARK_FOR_EVENT: Event(park(Status.AWAITING_EVENT)),
    Reason.PARK_FOR_CHILD: Event(park(Status.AWAITING_CHILD)),
    Reason.WAKE: Event(wake, has_a_due_timer),
    Reason.STALL: Event(stall),
    Reason.COMPLETE: Event(finish(Status.COMPLETED)),
    Reason.FAIL: Event(finish(Status.FAILED)),
    Reason.ACKNOWLEDGE_CANCEL: Event(finish(Status.CANCELLED)),
    Reason.CANCEL: Event(cancel),
    Reason.CANCEL_UNSERVED: Event(cancel, is_served_by_nobody),
    Reason.HOLD_CANCELLED: Event(hold, is_unserved_and_cancelled),
    Reason.UNSERVED: Event(nobody_serves, is_served_by_nobody),
    Reason.NOT_STARTED: Event(wake, is_late_to_start),
    Reason.NOT_FINISHED: Event(wake, is_late_to_finish),
    Reason.TERMINATE: Event(by_a_person("terminate")),
    Reason.PAUSE: Event(by_a_person("pause")),
    Reason.RELEASE_PAUSED: Event(release, is_to_rest),
    Reason.RECOVER_PAUSED: Event(recover, is_to_rest_and_among_its_runs),
    Reason.RESUME: Event(by_a_person("resume")),
    Reason.TRY_LATER: Event(try_later),
    Reason.TRY_CANCELLED: Event(try_later, has_a_cancel_waiting),
    Reason.TRY_PAUSED: Event(try_later, is_to_rest),
    Reason.CONTINUE: Event(continue_as_new),
    Reason.CONTINUE_PAUSED: Event(continue_as_new, is_to_rest),
    Reason.RETRY: Event(by_a_person("retry")),
}


async def bring_to(status: Status, scene: Scene, *, alone: bool) -> Case:
    """Start a run and let it get to a status, behind a failed attempt that it may wait for."""
    incarnation = await scene.register()
    if status is Status.SCHEDULED:
        run_id = await scene.start_run(more="at +3600000")
        return Case(scene, Ownership(run_id, "0", "0:nobody", incarnation))
    await scene.start_run()
    if alone:
        for _ in range(2):
            victim = await scene.register()
            await scene.take(victim)
            await scene.kill(victim)
    owner = (await scene.take(incarnation, quarantine=alone)).ownership
    await scene.attempt(owner, "step#0", delay=3600)
    if status is Status.QUEUED:
        await scene.store.runs.release(owner.run_id, owner.epoch, incarnation)
    elif status in WAITING:
        await scene.park(owner, "step#0", status=status)
    elif status is Status.PAUSED:
        await scene.store.runs.release(owner.run_id, owner.epoch, incarnation)
        await scene.store.control.pause(owner.run_id, timeout=TIMEOUT)
    elif status is Status.STALLED:
        await scene.store.runs.stall(owner, "the code does not fit")
    elif status in FINAL:
        await scene.finish(owner, status)
    case = Case(scene, owner)
    assert await scene.status(owner.run_id) is status
    await audit(scene)
    return case


def about_the_run(dump: Dump) -> Dump:
    """Leave out what a worker's death takes with it, and timers, which only fall due."""
    kept = {
        name: value
        for name, value in dump.items()
        if not name.startswith("worker") and name not in ("timers", "sweep", "unserved")
    }
    for name, value in kept.items():
        if name.startswith("ready:"):
            kept[name] = value["entries"]
    return kept


def expected_of(status: Status, reason: Reason) -> Status | None:
    """Read the table. Who serves a run is asked only where it waits for a worker or a time."""
    if reason is Reason.CANCEL_UNSERVED and status in (Status.RUNNING, Status.STALLED):
        return MOVES[status, Reason.CANCEL]
    return MOVES.get((status, reason))


@pytest.mark.parametrize("where", ["free", "quarantined"])
@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("status", Status)
async def test_a_run_moves_as_the_table_says_and_in_no_other_way(
    scene: Scene, status: Status, reason: Reason, where: str
) -> None:
    if status is Status.SCHEDULED and where == "quarantined":
        where = "free"  # it has ended no worker yet
    case = await bring_to(status, scene, alone=where == "quarantined")
    event = EVENTS[reason]
    if event.arrange is not None:
        await event.arrange(case)
    before = about_the_run(await scene.dump())

    await event.act(case)

    expected = expected_of(status, reason)
    assert await scene.status(case.run_id) is (expected or status)
    if expected is None:
        assert about_the_run(await scene.dump()) == before
    elif event.arrange not in (is_served_by_nobody, is_unserved_and_cancelled):
        await audit(scene)


@pytest.mark.parametrize("reason", [Reason.CANCEL, Reason.CANCEL_UNSERVED])
async def test_a_cancel_of_a_run_that_was_never_claimed_ends_it(
    scene: Scene, reason: Reason
) -> None:
    incarnation = await scene.register()
    run_id = await scene.start_run()
    case = Case(scene, Ownership(run_id, "0", "", incarnation))
    if reason is Reason.CANCEL_UNSERVED:
        await is_served_by_nobody(case)
    await cancel(case)
    assert await scene.status(run_id) is Status.CANCELLED
    assert await scene.entries() == []
    await audit(scene)


@pytest.mark.parametrize("reason", Reason)
async def test_nothing_happens_to_a_run_that_does_not_exist(scene: Scene, reason: Reason) -> None:
    incarnation = await scene.register()
    case = Case(scene, Ownership("0-unknown", "1", "1:token", incarnation))
    before = about_the_run(await scene.dump())
    match reason:
        case Reason.CANCEL | Reason.CANCEL_UNSERVED:
            with pytest.raises(NotFound):
                await cancel(case)
        case Reason.CLAIM:
            entry = ReadyEntry(STREAM, "1-1", case.run_id, "0")
            assert await scene.try_claim(entry, incarnation) == b"STALE"
        case Reason.RELEASE:
            assert await scene.store.runs.release(case.run_id, "1", incarnation) == b"STALE"
        case Reason.TERMINATE | Reason.PAUSE | Reason.RESUME | Reason.RETRY:
            with pytest.raises(NotFound):
                await EVENTS[reason].act(case)
        case Reason.RELEASE_PAUSED:
            assert await scene.store.runs.release(case.run_id, "1", incarnation) == b"STALE"
        case Reason.RECOVER | Reason.RECOVER_PAUSED | Reason.DEATHS:
            await is_among_its_runs(case)
            assert await scene.kill(incarnation) == []
        case Reason.WAKE:
            await has_a_due_timer(case)
            assert await scene.store.timers.fire() == (0, None)
        case Reason.NOT_STARTED | Reason.NOT_FINISHED:
            timers = scene.base + "timers"
            await scene.command("ZADD", timers, 1, "0-unknown!start", 1, "0-unknown!finish")
            assert await scene.store.timers.fire() == (0, None)
        case Reason.UNSERVED | Reason.HOLD_CANCELLED:
            await is_served_by_nobody(case)
            await nobody_serves(case)
        case _:
            assert await EVENTS[reason].act(case) == b"FENCED"
    assert about_the_run(await scene.dump()) == before


def test_every_reason_has_an_event_and_every_row_is_walked() -> None:
    assert set(EVENTS) == set(Reason)
    assert {reason for _, reason in MOVES} == set(Reason)
