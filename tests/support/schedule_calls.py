"""The scripts about schedules, each with a situation in which it has something to do."""

from __future__ import annotations

from tests.support.calls import CALLS, RUN, WORKER, Argument, call
from tests.support.store import POOL, TIMEOUT, VERSION, WORKFLOW, Scene

__all__ = ["CALLS"]  # these and all others

SCHEDULE = "a schedule"


@call("activate_schedule", b"OK")
async def activation(scene: Scene) -> list[Argument]:
    return [
        scene.store.store_id, SCHEDULE, "digest", "0", "1000", "1000", WORKFLOW, VERSION, POOL,
        b"{}", "skip", "{}", "finish +60000\ntag red",
    ]  # fmt: skip


@call("activate_schedule", b"CONFLICT")
async def activation_in_conflict(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    return await activation(scene)


@call("activate_schedule", b"OK")
async def replacement(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    arguments = await activation(scene)
    return [*arguments[:3], "1", *arguments[4:]]


@call("take_schedules")
async def taking_of_schedules(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE, due_in=-10)
    await scene.schedule("another schedule")
    return ["10", "0"]


async def _due(scene: Scene, overlap: str = "skip", *, busy: bool) -> list[Argument]:
    """Give a schedule that is due, with a run under way or without."""
    worker = await scene.register(name=WORKER)
    new = await scene.schedule(SCHEDULE, overlap=overlap, due_in=-10)
    if busy:
        await scene.trigger("0-before", name=SCHEDULE)
        await scene.take(worker)
    planned = (await scene.schedule_record(SCHEDULE)).planned
    later = planned + 3_600_000
    return [scene.store.store_id, SCHEDULE, new.digest, planned, later, later, "0", RUN]


@call("fire_schedule", [b"STARTED"], [b"STALE"])
async def firing(scene: Scene) -> list[Argument]:
    return await _due(scene, busy=False)


@call("fire_schedule", [b"SKIPPED"], [b"STALE"])
async def firing_of_what_is_skipped(scene: Scene) -> list[Argument]:
    return await _due(scene, busy=True)


@call("fire_schedule", [b"BUFFERED"], [b"STALE"])
async def firing_into_the_buffer(scene: Scene) -> list[Argument]:
    return await _due(scene, "buffer_one", busy=True)


@call("fire_schedule", [b"BUFFERED", b"0-before"], [b"STALE"])
async def firing_that_cancels(scene: Scene) -> list[Argument]:
    return await _due(scene, "cancel_other", busy=True)


@call("fire_schedule", [b"STARTED"], [b"STALE"])
async def firing_that_terminates(scene: Scene) -> list[Argument]:
    return await _due(scene, "terminate_other", busy=True)


@call("fire_schedule", [b"MISSED"], [b"STALE"])
async def passing_over_what_is_missed(scene: Scene) -> list[Argument]:
    arguments = await _due(scene, busy=False)
    return [*arguments[:6], "3", ""]


@call("fire_schedule", [b"EARLY"])
async def firing_too_early(scene: Scene) -> list[Argument]:
    new = await scene.schedule(SCHEDULE)
    planned = (await scene.schedule_record(SCHEDULE)).planned
    return [scene.store.store_id, SCHEDULE, new.digest, planned, planned, planned, "0", RUN]


async def _buffered(scene: Scene, overlap: str = "buffer_all") -> str:
    """Give a schedule with one run under way, which is returned, and one that waits."""
    worker = await scene.register(name=WORKER)
    await scene.schedule(SCHEDULE, overlap=overlap)
    await scene.trigger("0-before", name=SCHEDULE)
    owner = (await scene.take(worker)).ownership
    assert (await scene.trigger(RUN, name=SCHEDULE))[0] == "BUFFERED"
    if overlap == "buffer_all":
        await scene.finish(owner)
    return owner.run_id


@call("tend_schedule", [b"STARTED"], [b"NOTHING"])
async def tending(scene: Scene) -> list[Argument]:
    await _buffered(scene)
    return [scene.store.store_id, SCHEDULE]


@call("tend_schedule", [b"WAITS", b"0-before"])
async def tending_of_what_must_wait(scene: Scene) -> list[Argument]:
    await _buffered(scene, "cancel_other")
    return [scene.store.store_id, SCHEDULE]


@call("trigger_schedule", [b"STARTED"])
async def trigger(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    return [scene.store.store_id, SCHEDULE, "", RUN, "1000"]


@call("trigger_schedule", [b"STARTED"])
async def trigger_with_tags_and_deadlines(scene: Scene) -> list[Argument]:
    more = "start +60000\nfinish +90000\ntag customer:7\nmemo {}"
    await scene.schedule(SCHEDULE, more=more)
    return [scene.store.store_id, SCHEDULE, "", RUN, "1000"]


@call("trigger_schedule", [b"BUFFERED"])
async def trigger_into_the_buffer(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    await scene.trigger("0-before", name=SCHEDULE)
    return [scene.store.store_id, SCHEDULE, "buffer_all", RUN, "1000"]


@call("trigger_schedule", [b"STARTED"])
async def trigger_that_terminates(scene: Scene) -> list[Argument]:
    await _buffered(scene, "cancel_other")
    return [scene.store.store_id, SCHEDULE, "terminate_other", "0-after", "2000"]


@call("pause_schedule", b"OK")
async def pause_of_a_schedule(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    return [SCHEDULE, "a note"]


@call("resume_schedule", b"OK")
async def resumption(scene: Scene) -> list[Argument]:
    await _buffered(scene)
    digest = (await scene.schedule_record(SCHEDULE)).digest
    await scene.store.schedules.pause(SCHEDULE, "a note", timeout=TIMEOUT)
    return [SCHEDULE, digest, "5000", "5000"]


@call("delete_schedule", b"OK")
async def deletion_of_a_schedule(scene: Scene) -> list[Argument]:
    await scene.schedule(SCHEDULE)
    return [SCHEDULE]
