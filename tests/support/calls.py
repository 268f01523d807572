"""Every script, each with a situation in which it has something to do: for tests of all scripts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiki.records import EntryKind, Ownership, ReadyEntry, StreamNote, entry_rest, stream_lines
from aiki.states import Status
from aiki.store.children import NewChild
from aiki.store.rights import Role, commands
from tests.support.store import (
    ALONE,
    POOL,
    STREAM,
    TIMEOUT,
    VERSION,
    WORKFLOW,
    Scene,
    entry_of,
)

RUN, WORKER, HEIR = "0-run", "worker-a", "worker-b"

Argument = str | bytes | int
Arrange = Callable[[Scene], Awaitable[list[Argument]]]


@dataclass(frozen=True)
class Call:
    """A script, what it is called with, and what it says to that and to a copy that comes after."""

    script: str
    arrange: Arrange
    reply: Any
    again: Any


CALLS: dict[str, Call] = {}
SAME = object()
ANY = object()

_NO_PAYLOAD = entry_rest(1, 0, 0, "a label", b"")


def call(script: str, reply: Any = ANY, again: Any = SAME) -> Callable[[Arrange], Arrange]:
    """Note a situation; what it returns are the script's arguments."""

    def note(arrange: Arrange) -> Arrange:
        CALLS[arrange.__name__] = Call(script, arrange, reply, again)
        return arrange

    return note


async def _owned(scene: Scene) -> Ownership:
    await scene.register(name=WORKER)
    return await scene.running(WORKER, run_id=RUN)


async def _delivered(scene: Scene) -> ReadyEntry:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    return await scene.deliver_one(WORKER)


def _claim(entry: ReadyEntry) -> list[Argument]:
    return [entry.stream, WORKER, "0", entry.entry, entry.run_id, entry.epoch, "token"]


@call("try_commands", [])
async def preflight(scene: Scene) -> list[Argument]:
    assert scene.base
    return [*commands(Role.SUPERVISOR)]


@call("open_store")
async def opening(scene: Scene) -> list[Argument]:
    assert scene.base
    return ["another id", "1", "1"]


@call("open_store")
async def opening_what_is_there(scene: Scene) -> list[Argument]:
    assert scene.base
    return ["", "1", "1"]


@call("open_store")
async def completing(scene: Scene) -> list[Argument]:
    assert scene.base
    return ["", "1", "1", "1"]


@call("beat_supervisor", [b"STORE"])
async def supervisors_beat_elsewhere(scene: Scene) -> list[Argument]:
    assert scene.base
    return ["another store", "a supervisor", "60000"]


@call("start_runs", [[b"OK", RUN.encode()]])
async def start(scene: Scene) -> list[Argument]:
    return [scene.store.store_id, RUN, WORKFLOW, VERSION, POOL, b"{}", "", "hash", ""]


@call("start_runs", [[b"OK", RUN.encode()]])
async def start_with_key(scene: Scene) -> list[Argument]:
    return [scene.store.store_id, RUN, WORKFLOW, VERSION, POOL, b"{}", "key", "hash", ""]


@call("start_runs", [[b"CONFLICT", RUN.encode()]])
async def start_in_conflict(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN, key="key")
    return [scene.store.store_id, "0-other", WORKFLOW, VERSION, POOL, b"{}", "key", "other", ""]


@call("start_runs", [[b"OK", RUN.encode()]])
async def start_with_tags_and_deadlines(scene: Scene) -> list[Argument]:
    more = "start +60000\nfinish +90000\ntag customer:7\nmemo {}"
    return [scene.store.store_id, RUN, WORKFLOW, VERSION, POOL, b"{}", "", "hash", more]


@call("start_runs", [[b"OK", RUN.encode()]])
async def start_with_delay(scene: Scene) -> list[Argument]:
    more = "at +60000\nfinish 9999999999999\ntag customer:7"
    return [scene.store.store_id, RUN, WORKFLOW, VERSION, POOL, b"{}", "key", "hash", more]


@call("register_worker", b"OK")
async def registration(scene: Scene) -> list[Argument]:
    return [scene.store.store_id, WORKER, "60000", "{}", STREAM, ALONE]


@call("beat", [b"OK", [RUN.encode()]])
async def beat(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(owner.run_id)
    return [scene.store.store_id, WORKER, "60000", "0-confirmed"]


@call("beat_supervisor", [0, 1])
async def supervisors_beat(scene: Scene) -> list[Argument]:
    assert scene.base
    return [scene.store.store_id, "a supervisor", "60000"]


@call("read_ready", again=[])
async def reading(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    return [WORKER, "5", STREAM, ALONE]


@call("return_ready", b"OK")
async def returning(scene: Scene) -> list[Argument]:
    return [STREAM, (await _delivered(scene)).entry]


@call("claim_runs")
async def first_claim(scene: Scene) -> list[Argument]:
    return _claim(await _delivered(scene))


@call("claim_runs")
async def later_claim(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0")
    await scene.store.runs.release(RUN, owner.epoch, WORKER)
    return _claim(await scene.deliver_one(WORKER))


@call("claim_runs", [[b"STALE"]])
async def stale_claim(scene: Scene) -> list[Argument]:
    entry = await _delivered(scene)
    await scene.claim(entry, WORKER)
    await scene.command("XADD", scene.base + STREAM, "*", "run", RUN, "epoch", "0")
    return _claim(await scene.deliver_one(WORKER))


@call("claim_runs", [[b"DEAD"]])
async def dead_claim(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.kill(WORKER)
    await scene.start_run(run_id=RUN)
    return _claim(await scene.deliver_one(WORKER))


@call("claim_runs", [[b"ALONE"]])
async def wrong_claim(scene: Scene) -> list[Argument]:
    entry = await _delivered(scene)
    await scene.command("HSET", f"{scene.base}run:{RUN}", "quarantine", "1")
    await scene.command("ZADD", scene.base + "quarantine", 1, RUN)
    return _claim(entry)


@call("commit_step", 0)
async def commit(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "step#0", entry_of(owner, EntryKind.RESULT, b"1")]


@call("commit_step", 1)
async def commit_after_attempts(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(RUN)
    await scene.attempt(owner, "step#0")
    return [RUN, owner.token, "step#0", entry_of(owner, EntryKind.FAILURE, b"1")]


@call("commit_attempt", 0)
async def attempt(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.attempt(owner, "step#0", number=1)
    return [RUN, owner.token, "step#0", "60000", entry_rest(2, 2, 5, "a label", b"it failed")]


@call("heartbeat_step", 0)
async def heartbeat(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "step#0", entry_rest(2, 0, 5, "a label", b"\n40")]


@call("heartbeat_step", 1)
async def heartbeat_of_a_later_attempt(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(RUN)
    await scene.attempt(owner, "step#0", number=1)
    return [RUN, owner.token, "step#0", entry_rest(2, 1, 70, "a label", b"it failed\n40")]


@call("heartbeat_step", 0)
async def heartbeat_that_comes_too_late(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0")
    return [RUN, owner.token, "step#0", entry_rest(2, 0, 5, "a label", b"\n40")]


@call("abandon_step", 0)
async def abandon(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "step#0", entry_of(owner, EntryKind.ABANDONED, b""), "0"]


@call("abandon_step", 1)
async def delivery_of_cancel(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(RUN)
    return [RUN, owner.token, "step#0", entry_of(owner, EntryKind.ABANDONED, b""), "1"]


@call("park_run", b"PARKED", b"FENCED")
async def park(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.attempt(owner, "step#0")
    return [RUN, owner.token, WORKER, "awaiting_retry", "0", "step#0", "step#0"]


@call("park_run", b"PARKED", b"FENCED")
async def park_in_quarantine(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.command("HSET", f"{scene.base}run:{RUN}", "quarantine", "1")
    await scene.command("ZADD", scene.base + "quarantine", 1, RUN)
    await scene.attempt(owner, "step#0")
    return [RUN, owner.token, WORKER, "awaiting_retry", "0", "step#0", "step#0"]


@call("park_run", b"PARKED", b"FENCED")
async def park_for_a_message(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, WORKER, "awaiting_event", "0", "event/paid#0"]


@call("open_wait", again=ANY)
async def beginning_of_a_wait(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "sleep/x#0", "60000", "", entry_rest(1, 0, 0, "a label", b"")]


@call("end_wait", 0)
async def end_of_a_wait(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.open_wait(owner, "sleep/x#0", _NO_PAYLOAD, lasts_ms=0)
    return [RUN, owner.token, "sleep/x#0", entry_of(owner, EntryKind.RESULT, b"false"), "", "0"]


@call("end_wait", [b"NEWS"])
async def end_of_a_wait_behind_mail(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.open_wait(owner, "event/paid#0", _NO_PAYLOAD, lasts_ms=0)
    await scene.post(RUN)
    return [RUN, owner.token, "event/paid#0", entry_of(owner, EntryKind.TIMEOUT, b""), "0", "0"]


@call("consume_message", 2)
async def taking_of_a_message(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.post(RUN)
    return [RUN, owner.token, "event/paid#0", entry_of(owner, EntryKind.RESULT, b"1"), "1"]


@call("read_news", [b"1", b"0", None, None, [b"1", b"event/paid\n1"], None])
async def reading_of_news(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.post(RUN)
    return [RUN, owner.token, "0"]


@call("post_message", [b"OK"])
async def message_to_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN, "message", "60000", b"event/paid\n1", "1000", "100000"]


@call("post_message", [b"OK"])
async def message_to_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.park(owner, status=Status.AWAITING_EVENT)
    return [RUN, "message", "", b"event/paid\n1", "1000", "100000"]


@call("post_message", [b"OVER", b"completed"])
async def message_to_a_run_that_is_over(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.finish(owner)
    return [RUN, "message", "", b"event/paid\n1", "1000", "100000"]


@call("post_message", [b"OK"])
async def message_that_keeps_a_promise(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "awakeable/x#0", b"secret", EntryKind.NOTE)
    promise = ["awakeable/x#0", "secret"]
    return [RUN, "message", "", b"promise/x\nr1", "1000", "100000", *promise]


_QUERY: list[Argument] = [
    RUN, "message", "60000", b"query/status\nid\n{}", "1000", "100000", "",
]  # fmt: skip
_UPDATE: list[Argument] = [
    RUN, "message", "60000", b"update/add\nid\n{}", "1000", "100000", "answer/add:1#0",
]  # fmt: skip


@call("ask_run", [b"OK"])
async def query_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return _QUERY


@call("ask_run", [b"OK"])
async def update_of_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.park(owner, status=Status.AWAITING_EVENT)
    return _UPDATE


@call("ask_run")
async def update_that_was_answered(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "answer/add:1#0")
    await scene.finish(owner)
    return _UPDATE


@call("ask_run")
async def update_that_an_earlier_generation_answered(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "answer/add:1#0")
    await scene.script("continue_run", RUN, owner.token, WORKER, b"{}", "60000")
    return _UPDATE


@call("ask_run", [b"HELD", b"stalled", b"a reason"])
async def query_of_a_stalled_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.stall(owner, "a reason")
    return _QUERY


@call("answer_unrecorded", 2)
async def answer_to_a_query(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("ask_run", *_QUERY)
    return [RUN, owner.token, "1", "", b"id\nr1"]


@call("answer_unrecorded", 2)
async def refusal_of_an_update(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("ask_run", *_UPDATE)
    return [RUN, owner.token, "1", "answer/add:1#0", b"id\njno"]


@call("answer_update", 0)
async def answer_to_an_update(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    entry = entry_of(owner, EntryKind.RESULT, b"1")
    return [RUN, owner.token, "answer/add:1#0", entry, b"id\nr1"]


@call("wake_up", [b"OK", b"running"])
async def waking_up_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN, "request", "60000"]


@call("wake_up", [b"OK", b"queued"])
async def waking_up_of_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.open_wait(owner, "sleep/x#0", _NO_PAYLOAD, lasts_ms=60000)
    await scene.park(owner, "sleep/x#0", status=Status.SLEEPING)
    return [RUN, "request", "60000"]


_TWO_CHUNKS = stream_lines({"text": StreamNote(1, 2, 10)})


def _chunks(first: int) -> list[Argument]:
    return ["text", f"0-{first}", b"1 0 \n1", "text", f"0-{first + 1}", b"1 1 \n2"]


@call("publish_chunks", 0)
async def publishing(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "0", "2", _TWO_CHUNKS, *_chunks(1)]


@call("publish_chunks", 0)
async def publishing_of_more(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("publish_chunks", RUN, owner.token, "0", "2", _TWO_CHUNKS, *_chunks(1))
    notes = stream_lines({"text": StreamNote(2, 4, 20, is_closed=True)})
    return [RUN, owner.token, "2", "4", notes, *_chunks(3)]


@call("note_progress", 0)
async def progress(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, "1700000000000 1.0 2.0"]


@call("remove_run", 1, 0)
async def removal_of_a_run_that_has_published(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("publish_chunks", RUN, owner.token, "0", "2", _TWO_CHUNKS, *_chunks(1))
    await scene.finish(owner)
    return ["0", "100", WORKFLOW]


@call("delete_run", [b"OK"])
async def deletion_of_a_run_that_has_published_and_answered(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("publish_chunks", RUN, owner.token, "0", "2", _TWO_CHUNKS, *_chunks(1))
    await scene.commit(owner, "answer/add:1#0")
    await scene.script("continue_run", RUN, owner.token, WORKER, b"{}", "60000")
    await scene.finish((await scene.take(WORKER)).ownership)
    return [RUN, "7200"]


_CHILD = [WORKFLOW, VERSION, POOL]


async def _parent(scene: Scene, *, policy: str = "cancel") -> Ownership:
    """Give a run that has a child, which another worker owns."""
    owner = await _owned(scene)
    new = NewChild(WORKFLOW, VERSION, POOL, "", policy)
    entry = entry_of(owner, EntryKind.RESULT, b'"0-child"')
    await scene.store.children.start_child(owner, "child/x#0", entry, "0-child", new, b"{}")
    return owner


@call("start_child", 0)
async def start_of_a_child(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    entry = entry_of(owner, EntryKind.RESULT, b'"0-child"')
    return [RUN, owner.token, "child/x#0", entry, "0-child", "cancel", *_CHILD, b"{}", ""]


@call("start_children", 0)
async def start_of_children(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    some: list[Argument] = ["0", "0-first", b"{}", "1", "0-second", b"{}"]
    return [RUN, owner.token, "map/x#0", _NO_PAYLOAD, "1", "2", "cancel", *_CHILD, "", *some]


@call("consume_end", [2, b"completed", b"the outcome"])
async def taking_of_a_childs_end(scene: Scene) -> list[Argument]:
    owner = await _parent(scene)
    await scene.finish((await scene.take(await scene.register(name=HEIR))).ownership)
    return [RUN, owner.token, "end/0-child#0", "1", _NO_PAYLOAD, "0-child", "1", "1000"]


@call("consume_end", [b"WAIT"])
async def taking_of_an_end_that_is_to_come(scene: Scene) -> list[Argument]:
    owner = await _parent(scene)
    return [RUN, owner.token, "end/0-child#0", "1", _NO_PAYLOAD, "0-child", "", "1000"]


@call("finish_run", b"OK")
async def finish_of_a_child(scene: Scene) -> list[Argument]:
    owner = await _parent(scene)
    await scene.park(owner, status=Status.AWAITING_CHILD)
    child = (await scene.take(await scene.register(name=HEIR))).ownership
    return ["0-child", child.token, HEIR, "completed", b"1"]


async def _mapped(scene: Scene, owner: Ownership, *, strict: bool) -> Ownership:
    """Have a run map over one item, and its child be claimed."""
    await scene.store.children.start_children(
        owner, "map/x#0", _NO_PAYLOAD, NewChild(WORKFLOW, VERSION, POOL, "", "cancel"),
        [(0, "0-child", b"{}")], strict=strict, wake_at=1,
    )  # fmt: skip
    return (await scene.take(await scene.register(name=HEIR))).ownership


@call("finish_run", b"OK")
async def finish_of_a_mapped_child(scene: Scene) -> list[Argument]:
    child = await _mapped(scene, await _owned(scene), strict=True)
    return ["0-child", child.token, HEIR, "failed", b"{}"]


@call("start_children", 2)
async def start_of_children_that_have_ended_meanwhile(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    some: list[Argument] = ["0", "0-first", b"{}"]
    before = [RUN, owner.token, "map/x#0", _NO_PAYLOAD, "0", "0", "cancel", *_CHILD, "", *some]
    await scene.script("start_children", *before)
    await scene.finish((await scene.take(await scene.register(name=HEIR))).ownership)
    return [RUN, owner.token, "map/x#0", _NO_PAYLOAD, "0", "1", "cancel", *_CHILD, ""]


@call("cascade", 0)
async def cascade(scene: Scene) -> list[Argument]:
    owner = await _parent(scene)
    await scene.finish(owner)
    return ["100"]


@call("finish_run", b"OK")
async def finish(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.watch(RUN, scene.base + "inbox:x")
    mark = entry_of(owner, EntryKind.ABANDONED, b"")
    return [RUN, owner.token, WORKER, "completed", b"1", "step#0", mark]


@call("stall_run", b"OK", b"FENCED")
async def stall(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.token, WORKER, "a reason"]


@call("stall_run", b"OK", b"FENCED")
async def stall_of_a_cancelled_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(RUN)
    return [RUN, owner.token, WORKER, "a reason"]


@call("set_details", b"OK")
async def details(scene: Scene) -> list[Argument]:
    return [RUN, (await _owned(scene)).token, "half done"]


@call("stall_unserved", [RUN.encode()], [])
async def holding_the_unserved(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN)
    return ["0", "60000", "100", "24 h"]


@call("stall_unserved", [RUN.encode()], [])
async def holding_the_unserved_that_are_cancelled(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN)
    await scene.command("HSET", f"{scene.base}run:{RUN}", "cancel", "a reason")
    return ["0", "60000", "100", "24 h"]


@call("release_run", b"OK", b"STALE")
async def release(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    return [RUN, owner.epoch, WORKER]


@call("recover_worker", again=[b"DONE", [], []])
async def recovery(scene: Scene) -> list[Argument]:
    await _owned(scene)
    await scene.start_run(run_id="0-delivered")
    await scene.deliver(WORKER)
    return [WORKER, "0", "it died", "1", "", "2", "5", "100"]


@call("recover_worker", again=[b"DONE", [], []])
async def recovery_after_many(scene: Scene) -> list[Argument]:
    await _owned(scene)
    key = f"{scene.base}run:{RUN}"
    await scene.command("HSET", key, "deaths", "4", "progress", "0", "quarantine", "1")
    await scene.command("ZADD", scene.base + "quarantine", 1, RUN)
    return [WORKER, "0", "it died", "1", "", "2", "5", "100"]


@call("find_expired", [WORKER.encode()])
async def expiry(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.expire(WORKER)
    return ["60000"]


@call("fire_timers", [1, b""], [0, b""])
async def due_timers(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    owner = (await scene.take(WORKER)).ownership
    await scene.attempt(owner, "step#0")
    await scene.park(owner, "step#0")
    await scene.fall_due()
    return ["100"]


@call("fire_timers", [1, b""], [0, b""])
async def due_start(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN, more="at +60000")
    await scene.fall_due()
    return ["100"]


@call("fire_timers", [0, b""])
async def deadline_of_an_unclaimed_run(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN, more="at +60000\nstart +60000\nfinish +60000")
    await scene.command("ZADD", scene.base + "timers", 1, RUN + "!start", 1, RUN + "!finish")
    return ["100"]


@call("fire_timers", [0, b""])
async def deadline_of_a_running_run(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN, more="start +60000\nfinish +60000")
    await scene.take(WORKER)
    await scene.fall_due()
    return ["100"]


@call("remove_run", 1, 0)
async def removal_of_a_tagged_run(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    more = "start +60000\nfinish +60000\ntag customer:7\ntag red"
    owner = await scene.running(WORKER, run_id=RUN, more=more)
    await scene.finish(owner)
    return ["0", "100", WORKFLOW]


@call("remove_run", 1, 0)
async def removal(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    owner = await scene.running(WORKER, run_id=RUN, key="key")
    await scene.commit(owner, "step#0")
    await scene.finish(owner)
    return ["0", "100", WORKFLOW]


@call("request_cancel", b"cancelled")
async def cancel_of_an_unclaimed_run(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN)
    return [RUN, "a reason"]


@call("request_cancel", b"cancelled")
async def cancel_of_a_scheduled_run(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN, more="at +60000\nfinish +60000")
    return [RUN, "a reason"]


@call("request_cancel", b"running")
async def cancel_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN, "a reason"]


@call("request_cancel", b"queued")
async def cancel_of_a_queued_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.release(RUN, owner.epoch, WORKER)
    return [RUN, "a reason"]


@call("request_cancel", b"queued")
async def cancel_of_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.attempt(owner, "step#0")
    await scene.park(owner, "step#0")
    return [RUN, "a reason"]


@call("request_cancel", b"cancelled")
async def cancel_of_a_stalled_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.stall(owner, "a reason")
    return [RUN, "a reason"]


@call("requeue_idle", 1, 0)
async def requeueing(scene: Scene) -> list[Argument]:
    await scene.register(name=HEIR)
    await _delivered(scene)
    return ["0", "100"]


@call("sweep")
async def sweeping(scene: Scene) -> list[Argument]:
    await _owned(scene)
    await scene.start_run(run_id="0-queued")
    return ["0", "10000"]


@call("audit")
async def auditing(scene: Scene) -> list[Argument]:
    await sweeping(scene)
    return ["", "0", "10000", ""]


@call("audit", again=ANY)
async def auditing_of_members(scene: Scene) -> list[Argument]:
    index = f"index:active/{WORKFLOW}"
    await scene.command("ZADD", scene.base + index, 1, "0-gone")
    return [index, "0", "100", "1"]


@call("audit", [b"0", [], []])
async def auditing_of_offers(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN)
    return [STREAM, "0", "100", ""]


@call("audit")
async def auditing_of_entries(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0")
    return [f"run:{RUN}:journal", "0", "100", ""]


@call("audit")
async def auditing_of_owned(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [f"worker:{WORKER}:runs", "0", "100", ""]


@call("watch_run", [b"WAIT"])
async def watch(scene: Scene) -> list[Argument]:
    await scene.start_run(run_id=RUN)
    return [RUN, scene.base + "inbox:x"]


@call("watch_run", [b"completed", b"the outcome"])
async def watch_of_an_end(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.finish(owner)
    return [RUN, scene.base + "inbox:x"]


@call("start_runs", [[b"GONE", RUN.encode()]])
async def start_of_a_run_that_was_deleted(scene: Scene) -> list[Argument]:
    await scene.finish(await _owned(scene))
    await scene.store.control.delete(RUN, timeout=TIMEOUT)
    return [scene.store.store_id, RUN, WORKFLOW, VERSION, POOL, b"{}", "", "hash", ""]


@call("terminate_run", b"cancelled")
async def termination_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN, "a reason"]


@call("terminate_run", b"cancelled")
async def termination_of_a_queued_run(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    return [RUN, "a reason"]


@call("terminate_run", b"cancelled")
async def termination_of_a_parent(scene: Scene) -> list[Argument]:
    await _parent(scene)
    return [RUN, "a reason"]


@call("terminate_run", b"cancelled")
async def termination_of_a_child(scene: Scene) -> list[Argument]:
    owner = await _parent(scene)
    await scene.park(owner, status=Status.AWAITING_CHILD)
    return ["0-child", "a reason"]


@call("terminate_run", b"cancelled")
async def termination_of_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.attempt(owner, "step#0")
    await scene.park(owner, "step#0")
    return [RUN, "a reason"]


@call("pause_run", [b"OK", b"running"])
async def pause_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN]


@call("pause_run", [b"OK", b"paused"])
async def pause_of_a_queued_run(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    return [RUN]


@call("pause_run", [b"OK", b"paused"])
async def pause_of_a_parked_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.attempt(owner, "step#0")
    await scene.park(owner, "step#0")
    return [RUN]


@call("release_run", b"OK", b"STALE")
async def release_of_a_run_that_is_to_rest(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.control.pause(RUN, timeout=TIMEOUT)
    return [RUN, owner.epoch, WORKER]


@call("request_cancel", b"queued")
async def cancel_of_a_run_that_rests(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.release(RUN, owner.epoch, WORKER)
    await scene.store.control.pause(RUN, timeout=TIMEOUT)
    return [RUN, "a reason"]


@call("resume_run", [b"OK", b"queued"])
async def resumption(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    await scene.start_run(run_id=RUN)
    await scene.store.control.pause(RUN, timeout=TIMEOUT)
    return [RUN]


@call("resume_run", [b"OK", b"queued"])
async def resumption_of_a_stalled_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.store.runs.stall(owner, "a reason")
    return [RUN]


@call("resume_run", [b"OK", b"running"])
async def resumption_before_the_run_rests(scene: Scene) -> list[Argument]:
    await _owned(scene)
    await scene.store.control.pause(RUN, timeout=TIMEOUT)
    return [RUN]


async def _failed(scene: Scene) -> Ownership:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0", kind=EntryKind.FAILURE)
    await scene.commit(owner, "step#1")
    await scene.finish(owner, Status.FAILED)
    return owner


@call("retry_run", [b"OK", b"queued"])
async def retry(scene: Scene) -> list[Argument]:
    owner = await _failed(scene)
    return [RUN, owner.epoch, "1", "step#0", "step#1"]


@call("retry_run", [b"OK", b"queued"])
async def retry_of_a_run_whose_child_failed(scene: Scene) -> list[Argument]:
    child = await scene.running(await scene.register(), run_id="0-child")
    await scene.finish(child, Status.FAILED)
    owner = await _owned(scene)
    await scene.commit(owner, "end/0-child#0", kind=EntryKind.FAILURE)
    await scene.finish(owner, Status.FAILED)
    return [RUN, owner.epoch, "1", "end/0-child#0"]


@call("retry_run", [b"CHANGED"])
async def retry_of_what_was_read_before(scene: Scene) -> list[Argument]:
    await _failed(scene)
    return [RUN, "0", "1", "step#0", "step#1"]


@call("retry_run", [b"TAKEN", RUN.encode()])
async def retry_of_what_is_among_the_results_of_a_map(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    child = await _mapped(scene, owner, strict=False)
    await scene.finish(child, Status.FAILED)
    await scene.commit(owner, "map/x#0")
    return ["0-child", child.epoch, "0"]


@call("retry_later", b"OK", b"FENCED")
async def attempt_later(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0", kind=EntryKind.FAILURE)
    await scene.commit(owner, "step#1")
    later = ["2", "1700000000000", "60000", "it failed", "1"]
    return [RUN, owner.token, WORKER, *later, "step#0", "step#1"]


@call("retry_later", b"OK", b"FENCED")
async def attempt_of_a_cancelled_run(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.cancel(RUN)
    return [RUN, owner.token, WORKER, "2", "1700000000000", "60000", "it failed", "0"]


@call("continue_run", b"OK", b"FENCED")
async def continuation(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.commit(owner, "step#0")
    await scene.post(RUN)
    return [RUN, owner.token, WORKER, b"{}", "60000"]


@call("continue_run", b"OK", b"FENCED")
async def continuation_of_what_was_published_and_answered(scene: Scene) -> list[Argument]:
    owner = await _owned(scene)
    await scene.script("publish_chunks", RUN, owner.token, "0", "2", _TWO_CHUNKS, *_chunks(1))
    await scene.commit(owner, "answer/add:1#0")
    await scene.script("continue_run", RUN, owner.token, WORKER, b"{}", "60000")
    owner = (await scene.take(WORKER)).ownership
    await scene.commit(owner, "answer/add:2#0")
    return [RUN, owner.token, WORKER, b"{}", "60000"]


@call("fork_run", [b"OK", b"0-fork"])
async def fork(scene: Scene) -> list[Argument]:
    await _failed(scene)
    return [scene.store.store_id, "0-fork", RUN, RUN, "1", "step#0", "step#1"]


@call("fork_run", [b"CHANGED"])
async def fork_of_what_is_there_no_more(scene: Scene) -> list[Argument]:
    await _failed(scene)
    return [scene.store.store_id, "0-fork", RUN, RUN, "1", "step#2"]


@call("delete_run", [b"OK"])
async def deletion(scene: Scene) -> list[Argument]:
    await scene.register(name=WORKER)
    owner = await scene.running(WORKER, run_id=RUN, key="key")
    await scene.commit(owner, "step#0")
    await scene.finish(owner)
    return [RUN, "7200"]


@call("delete_run", [b"REFUSED", b"running"])
async def deletion_of_a_running_run(scene: Scene) -> list[Argument]:
    await _owned(scene)
    return [RUN, "7200"]
