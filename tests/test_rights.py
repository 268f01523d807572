"""Users with the least rights of each role: what they may, and that they may nothing else."""

from __future__ import annotations

import ast
import asyncio
import re
import secrets
from collections.abc import Iterator
from itertools import chain
from typing import Any, cast

import pytest
from redis.exceptions import NoPermissionError, ResponseError

import aiki
from aiki import ConfigError, Run, RunFailed, StoreRefused, workflow
from aiki.store import Store
from aiki.store.connection import Address
from aiki.store.keys import new_run_id
from aiki.store.rights import OPTIONAL, SCRIPTS_OF, SENT_BY, Role, commands, commands_of
from aiki.store.scripts import SCRIPTS
from tests.support.app import TIMEOUT, App, becomes
from tests.support.logins import Logins
from tests.support.store import NewScene
from tests.support.supervised import ROOT
from tests.support.waiting import eventually

sights = aiki.topic("sights", str)
go_on = aiki.event("go-on", str)
travels = workflow("travels")


@aiki.task
async def look(what: str) -> str:
    """Tell what is seen."""
    if what == "fog":
        raise aiki.NonRetryable("nothing is seen")
    return what


@travels.v("1.0.0")
async def travel_v1(run: Run, what: str) -> str:
    """Publish, wait for a word, and look."""
    run.progress(1, 2)
    run.publish(sights, "a harbour")
    word = await go_on.wait(run)
    run.publish(sights, word)
    return await look.start(run, what)


# What stands in the table


def test_each_script_is_sent_by_one_role() -> None:
    listed = list(chain.from_iterable(SCRIPTS_OF.values()))
    assert sorted(listed) == sorted(SCRIPTS)


def test_no_script_executes_a_command_that_cannot_be_read_off_its_source() -> None:
    for name, script in SCRIPTS.items():
        calls = re.findall(r"redis\.p?call\b", script.source)
        named = re.findall(r"redis\.p?call\(\s*'[A-Z]+'", script.source)
        assert len(calls) - len(named) == (name == "try_commands"), name
        assert not re.search(r"call\(\s*'(?:XGROUP|XINFO)'(?!, '[A-Z]+')", script.source), name


def sent() -> Iterator[str]:
    """Name every command that the library sends as it is."""
    for path in (ROOT / "aiki" / "store").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Tuple) or not node.elts:
                continue
            first, *rest = (e.value if isinstance(e, ast.Constant) else None for e in node.elts)
            if isinstance(first, str) and re.fullmatch(r"[A-Z]{3,}", first):
                name = first.lower()
                if name in {"script", "config", "xinfo", "cluster", "sentinel", "xgroup"}:
                    yield f"{name}|{str(rest[0]).lower()}"
                else:
                    yield name


def test_each_command_that_is_sent_as_it_is_belongs_to_a_role() -> None:
    of_addresses = {
        "wait", "waitaof", "cluster|info", "cluster|slots", "sentinel|master",
        "sentinel|get-master-addr-by-name",
    }  # fmt: skip
    table = set(chain.from_iterable(SENT_BY.values()))
    assert set(sent()) - {"acl", "moved", "block"} == table | of_addresses | OPTIONAL


def test_every_command_of_a_script_is_tried_before_it_is_needed() -> None:
    tried = set(re.findall(r"^  \{ '(\w+)'", SCRIPTS["try_commands"].source, re.MULTILINE))
    used = chain.from_iterable(commands_of(name) for name in SCRIPTS)
    assert {name.partition("|")[0].upper() for name in used} == tried


def test_a_role_may_all_that_those_before_it_may() -> None:
    before: set[str] = set()
    for role in Role:
        assert before < set(commands(role)), role
        before = set(commands(role))


# What a server makes of it


@pytest.fixture
async def logins(app: App, store_url: str) -> Logins:
    async def send(*command: str) -> list[object]:
        """Have the server of each partition do it, and give all that is listed."""
        found: list[object] = []
        for each in app.client.partitions.all:
            reply = await each.link.send(command)
            found += reply if isinstance(reply, list) else []
        return found

    return Logins(send, store_url, app.namespace)


def forbidden(url: str, *commands: str) -> list[str]:
    """Name those of some commands that a server forbids to who logs in by a URL."""
    found: list[str] = []
    with Address(url).blocking() as client:
        for command in commands:
            try:
                cast("Any", client).execute_command(*command.split(" "))
            except ResponseError as error:
                # In a script, Redis 7.0 says it in other words than later ones.
                is_right = isinstance(error, NoPermissionError)
                if not (is_right or re.search("executing the script|ACL failure", str(error))):
                    raise
                found.append(command)
    return found


ADMINISTRATION = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "KEYS *", "ACL LIST",
    "SHUTDOWN", "REPLICAOF NO ONE", "CLIENT LIST", "MONITOR", "SCRIPT FLUSH",
    "FUNCTION LIST", "MODULE LIST", "SAVE", "SWAPDB 0 1", "MULTI", "WAIT 0 1",
)  # fmt: skip


@pytest.mark.plain_only("what the server allows does not depend on the mode")
async def test_who_may_only_read_can_look_and_changes_nothing(app: App, logins: Logins) -> None:
    await app.serve(travels)
    url = await logins.add(Role.READER)
    started = await travel_v1.start(app.client, "a sail")
    reader = aiki.client(url, namespace=app.namespace, read_only=True)
    async with reader:
        handle = reader.handle(started.id)
        waiting = asyncio.create_task(handle.wait_for_completion())
        following = asyncio.create_task(collected(handle))
        await becomes(started, aiki.Status.AWAITING_EVENT)
        assert [run.id async for run in reader.runs()] == [started.id]
        assert [run.id async for run in reader.runs(status=aiki.Status.RUNNING)] == []
        assert await reader.count_runs() == {"travels": {aiki.Status.AWAITING_EVENT: 1}}
        assert (await handle.describe()).workflow == "travels"
        progress = await handle.progress()
        assert progress is not None
        assert progress.done == 1
        assert await reader.schedules() == []
        await go_on.send(app.client, started.id, "on")
        assert await waiting == "a sail"
        assert await following == ["a harbour", "on"]
        assert [step.outcome for step in await handle.journal()].count("completed") >= 1

        # It is told at once what it cannot do.
        worker = aiki.worker(reader)
        worker.workflow_registry.add(travels)
        for attempt in (
            travel_v1.start(reader, "x"), handle.cancel(), go_on.send(reader, started.id, "x"),
            handle.delete(), worker.start(),
        ):  # fmt: skip
            with pytest.raises(ConfigError, match="only looks"):
                await attempt
    assert await logins.refused() == []

    base = f"aiki:{app.namespace}:{{0}}:"
    attempts = (
        *ADMINISTRATION, "SCAN 0", f"HSET {base}run:{started.id} status failed", f"DEL {base}meta",
        f"PUBLISH {base}x y", f"EVAL return 1 {base}", f"EVAL_RO return 1 {base}",
        f"EVALSHA {'0' * 40} 1 {base}", "HGET aiki:another:{0}:meta store",
        "SUBSCRIBE aiki:another:{0}:x", "HGET of-another-program x",
    )  # fmt: skip
    assert await asyncio.to_thread(forbidden, url, *attempts) == list(attempts)


async def collected(handle: aiki.Handle[object]) -> list[str]:
    return [chunk.data async for chunk in handle.stream(sights)]


@pytest.mark.plain_only("what the server allows does not depend on the mode")
async def test_a_client_executes_nothing_and_a_worker_administers_nothing(
    app: App, logins: Logins
) -> None:
    base = f"aiki:{app.namespace}:{{0}}:"
    everywhere = (
        *ADMINISTRATION, "HSET of-another-program x y", "HGET aiki:another:{0}:meta store",
        "PUBLISH aiki:another:{0}:x y", "SUBSCRIBE aiki:another:{0}:x", f"GET {base}meta",
        "EVAL return(redis.call('GET','of-another-program')) 0",
        f"EVAL return(redis.call('FLUSHALL')) 1 {base}", "EVAL return(redis.call('KEYS','*')) 0",
    )  # fmt: skip
    reads = f"XREADGROUP GROUP workers me COUNT 1 STREAMS {base}ready:travels/1.0.0/default >"
    for role, more in (
        (Role.CLIENT, (reads, "SCAN 0")),
        (Role.WORKER, (f"HSCAN {base}meta 0",)),
        (Role.SUPERVISOR, ()),
    ):
        attempts = (*everywhere, *more)
        url = await logins.add(role)
        assert await asyncio.to_thread(forbidden, url, *attempts) == list(attempts), role


@pytest.mark.plain_only("what the server allows does not depend on the mode")
async def test_who_has_the_rights_of_another_role_is_told_how_to_get_them(
    app: App, logins: Logins
) -> None:
    reader, client = [await logins.add(role) for role in (Role.READER, Role.CLIENT)]
    with pytest.raises(StoreRefused, match="`aiki acl client` prints all"):
        await aiki.client(reader, namespace=app.namespace).connect()
    async with aiki.client(client, namespace=app.namespace) as connected:
        worker = aiki.worker(connected)
        worker.workflow_registry.add(travels)
        with pytest.raises(StoreRefused, match=r"XREADGROUP.*`aiki acl worker` prints all"):
            await worker.start()
        assert (await travel_v1.start(connected, "x")).id, "it is a client still"
    url = await logins.add(Role.READER, "-xrange")
    with pytest.raises(StoreRefused, match=r"(?i)xrange.*`aiki acl reader` prints all"):
        await aiki.client(url, namespace=app.namespace, read_only=True).connect()


@pytest.mark.plain_only("what the server allows does not depend on the mode")
async def test_a_right_that_a_worker_loses_is_asked_for_when_it_connects_again(
    app: App, logins: Logins
) -> None:
    url = await logins.add(Role.WORKER)
    async with aiki.client(url, namespace=app.namespace) as client:
        worker = await app.serve(travels, client=client)
        send, name = app.client.store.link.send, logins.names[Role.WORKER]
        await send(("ACL", "SETUSER", name, "-xreadgroup"))
        await send(("CLIENT", "KILL", "USER", name))
        link = client.store.link
        await eventually(lambda: "`aiki acl worker` prints all" in str(link.problem))
        await send(("ACL", "SETUSER", name, "+xreadgroup"))
        started = await travel_v1.start(app.client, "a sail")
        await go_on.send(app.client, started.id, "on")
        assert await started.wait_for_completion(TIMEOUT) == "a sail"
        await app.end(worker)


@pytest.mark.plain_only("what the server allows does not depend on the mode")
async def test_a_reader_hears_of_failures_and_of_runs_that_are_not_there(
    app: App, logins: Logins
) -> None:
    await app.serve(travels)
    started = await travel_v1.start(app.client, "fog")
    await go_on.send(app.client, started.id, "on")
    url = await logins.add(Role.READER)
    async with aiki.client(url, namespace=app.namespace, read_only=True) as reader:
        with pytest.raises(RunFailed, match="nothing is seen"):
            await reader.handle(started.id).wait_for_completion(TIMEOUT)
        with pytest.raises(aiki.NotFound):
            await reader.handle(new_run_id(0)).wait_for_completion(TIMEOUT)


async def test_a_reader_makes_no_store(store_url: str) -> None:
    """Given a namespace that nobody uses, nothing is there afterwards."""
    namespace = secrets.token_hex(6)
    async with aiki.client(store_url, namespace=namespace, read_only=True) as reader:
        assert [run async for run in reader.runs()] == []
        assert await reader.store.link.send(("KEYS", f"aiki:{namespace}:*")) == []


async def test_a_namespace_is_no_pattern(new_scene: NewScene) -> None:
    """Given one whose name looks like a pattern, its users get into no other."""
    scene = await new_scene()
    url = scene.store.address.url
    logins = Logins(scene.command, url, scene.store.namespace)
    mine = await logins.add(Role.CLIENT)
    store = Store(Address(mine), scene.store.namespace, role=Role.CLIENT)
    await store.open()
    await store.close()
    other = Store(Address(mine), scene.store.namespace.replace("[*]", "abc"), role=Role.CLIENT)
    with pytest.raises(StoreRefused, match="NOPERM"):
        await other.open()
    await other.close()
