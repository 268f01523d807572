"""Keys: rotation, runs for which one is missing, payloads that were moved, what is the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

import aiki
from aiki import Encrypted, Handle, Run, workflow
from aiki.errors import Conflict, DataError, Tampered, UnknownKey
from aiki.states import Status
from tests.support.app import TIMEOUT, App, becomes
from tests.support.marked import MARK, NEW, OLD, lasting, lasting_v1, paid, say, stored
from tests.test_encryption import child, child_v1


@dataclass
class State:
    text: str = ""


asked = workflow("asked")


@asked.v("1.0.0")
async def asked_v1(run: Run) -> str:
    state = run.state(State)
    await run.until("told to end", lambda: state.text == "end")
    return state.text


@asked_v1.query
def last(state: State, text: str) -> str:
    return f"{text}: {state.text}"


@asked_v1.update
async def change(run: Run, state: State, text: str) -> str:
    state.text = await say.start(run, text) if text != "end" else text
    return state.text


async def test_the_newest_key_encrypts_and_every_known_one_decrypts(app: App) -> None:
    before = await app.connect(Encrypted({"2029": OLD}))
    worker = await app.serve(lasting, client=before)
    handle = await lasting_v1.start(before, "begun")
    await becomes(handle, Status.AWAITING_EVENT)
    await app.end(worker)

    after = await app.connect(Encrypted({"2030": NEW, "2029": OLD}))
    await app.serve(lasting, client=after)
    await paid.send(lasting_v1.handle(after, handle.id), "paid")
    assert await lasting_v1.handle(after, handle.id).wait_for_completion(TIMEOUT) == "begun! paid"
    entries = [value for values in (await stored(after)).values() for value in values]
    assert any(b"\0\x02\x042029" in value for value in entries)
    assert any(b"\0\x02\x042030" in value for value in entries)
    with pytest.raises(UnknownKey, match="encrypted with key '2030', which this process"):
        await handle.wait_for_completion(TIMEOUT)  # by the client that has the old key alone


async def test_a_run_begun_in_plain_goes_on_encrypted_and_lies_beside_others(app: App) -> None:
    worker = await app.serve(lasting)
    plain = await lasting_v1.start(app.client, f"{MARK} plain")
    await becomes(plain, Status.AWAITING_EVENT)
    await app.end(worker)
    client = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(lasting, client=client)
    handle = lasting_v1.handle(client, plain.id)
    await paid.send(handle, "later")
    assert await handle.wait_for_completion(TIMEOUT) == f"{MARK} plain! later"
    assert [step.outcome for step in await handle.journal()] == 2 * ["completed"]
    with pytest.raises(UnknownKey):
        await plain.wait_for_completion(TIMEOUT)


async def test_with_keys_that_only_read_everybody_can_be_ready_before_the_first_encrypts(
    app: App,
) -> None:
    ready = await app.connect(Encrypted({"k1": NEW}, reads_only=True))
    worker = await app.serve(lasting, client=ready)
    handles = [await lasting_v1.start(ready, "plain")]
    handles.append(await lasting_v1.start(await app.connect(Encrypted({"k1": NEW})), "sealed"))
    for handle in handles:
        await becomes(handle, Status.AWAITING_EVENT)
    assert len(await app.client.handle(handles[0].id).journal()) == 1  # by who has no keys
    await app.end(worker)
    encrypting = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(lasting, client=encrypting)
    for handle in handles:
        await paid.send(handle, "paid")
    ends = [
        await lasting_v1.handle(ready, each.id).wait_for_completion(TIMEOUT) for each in handles
    ]
    assert ends == ["plain! paid", "sealed! paid"]


@pytest.mark.parametrize("codec", [None, Encrypted({"other": OLD})])
async def test_a_worker_without_the_key_holds_the_run_which_goes_on_elsewhere(
    app: App, codec: Encrypted | None
) -> None:
    client = await app.connect(Encrypted({"k1": NEW}))
    handle = await lasting_v1.start(client, "kept")
    worker = await app.serve(lasting, client=await app.connect(codec))
    await becomes(handle, Status.STALLED)
    assert (
        "encrypted with key 'k1', which this process does not have"
        in (await handle.status()).reason
    )
    await app.end(worker)
    await app.serve(lasting, client=client)
    await handle.resume()
    await paid.send(handle, "paid")
    assert await handle.wait_for_completion(TIMEOUT) == "kept! paid"


@pytest.mark.parametrize("codec", [None, Encrypted({"other": OLD})])
async def test_what_reaches_a_run_under_an_unknown_key_holds_it_and_is_kept(
    app: App, codec: Encrypted | None
) -> None:
    without = await app.connect(codec)
    worker = await app.serve(lasting, client=without)
    handle = await lasting_v1.start(without, "mine")
    await becomes(handle, Status.AWAITING_EVENT)
    sender = await app.connect(Encrypted({"k1": NEW}))
    await paid.send(lasting_v1.handle(sender, handle.id), "sealed")
    await becomes(handle, Status.STALLED)
    assert "'k1'" in (await handle.status()).reason
    await app.end(worker)
    both = await app.connect(Encrypted({"k1": NEW, "other": OLD}))
    await app.serve(lasting, client=both)
    await handle.resume()
    assert await lasting_v1.handle(both, handle.id).wait_for_completion(TIMEOUT) == "mine! sealed"


@pytest.mark.parametrize("codec", [None, Encrypted({"other": OLD})])
async def test_who_asks_under_an_unknown_key_is_told_and_the_run_goes_on(
    app: App, codec: Encrypted | None
) -> None:
    without = await app.connect(codec)
    await app.serve(asked, client=without)
    handle = await asked_v1.start(without)
    asking = asked_v1.handle(await app.connect(Encrypted({"k1": NEW})), handle.id)
    with pytest.raises(DataError, match=r"is encrypted with key '(k1|other)', which this"):
        await last.ask(asking, "what")
    with pytest.raises(DataError, match=r"is encrypted with key '(k1|other)', which this"):
        await change.ask(asking, "it")
    await paid.send(asking, "what it does not wait for now")
    assert await change.ask(handle, "end") == "end"
    assert await handle.wait_for_completion(TIMEOUT) == "end"


@pytest.mark.parametrize("codec", [None, Encrypted({"other": OLD})])
async def test_a_decision_under_an_unknown_key_holds_the_run_and_is_kept(
    app: App, codec: Encrypted | None
) -> None:
    wf, tokens = workflow("deciding"), list[str]()

    @wf.v("1.0.0")
    async def deciding_v1(run: Run) -> str:
        promise = aiki.awakeable(run, "decision", str)
        tokens.append(promise.token)
        return await promise.wait()

    without = await app.connect(codec)
    worker = await app.serve(wf, client=without)
    handle = await deciding_v1.start(without)
    await becomes(handle, Status.AWAITING_EVENT)
    await aiki.resolve(await app.connect(Encrypted({"k1": NEW})), tokens[0], "yes")
    await becomes(handle, Status.STALLED)
    await app.end(worker)
    both = await app.connect(Encrypted({"k1": NEW, "other": OLD}))
    await app.serve(wf, client=both)
    await handle.resume()
    assert await deciding_v1.handle(both, handle.id).wait_for_completion(TIMEOUT) == "yes"


# What does not belong where it lies


async def test_a_payload_of_another_run_is_refused_where_it_is_read(app: App) -> None:
    client = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(lasting, client=client)
    runs = [await lasting_v1.start(client, text) for text in ("one", "other")]
    for handle in runs:
        await paid.send(handle, "paid")
        await handle.wait_for_completion(TIMEOUT)
    (one, link), (other, elsewhere) = [
        (f"{app.base_of(each.id)}run:{each.id}", app.link_of(each.id)) for each in runs
    ]
    result = await link.send(("HGET", one, "result"))
    await elsewhere.send(("HSET", other, "result", result))
    with pytest.raises(Tampered, match=f"end of run {runs[1].id} is not what was written there"):
        await runs[1].wait_for_completion(TIMEOUT)
    await link.send(("HSET", one, "result", result[:-1] + b"x"))
    with pytest.raises(Tampered):
        await runs[0].wait_for_completion(0)
    assert (await runs[0].status()).status is Status.COMPLETED


async def test_two_steps_whose_results_were_exchanged_hold_their_run(app: App) -> None:
    wf = workflow("two")

    @wf.v("1.0.0")
    async def two_v1(run: Run) -> list[str]:
        found = [await say.start(run, "a"), await say.start(run, "b")]
        return [*found, await paid.wait(run)]

    client = await app.connect(Encrypted({"k1": NEW}))
    worker = await app.serve(wf, client=client)
    handle = await two_v1.start(client)
    await becomes(handle, Status.AWAITING_EVENT)
    await app.end(worker)
    key, link = f"{app.base_of(handle.id)}run:{handle.id}:journal", app.link_of(handle.id)
    first, second = [step.key for step in await handle.journal()][:2]
    one, other = [
        (await link.send(("HGET", key, each))).partition(b"\n") for each in (first, second)
    ]
    await link.send(("HSET", key, first, one[0] + b"\n" + other[2]))
    await paid.send(handle, "now")
    await app.serve(wf, client=client)
    await becomes(handle, Status.STALLED)
    assert "was changed, or moved there" in (await handle.status()).reason
    await link.send(("HSET", key, first, b"".join(one)))
    await handle.resume()
    assert await handle.wait_for_completion(TIMEOUT) == ["a!", "b!", "now"]


# What is the same


async def test_an_idempotency_key_knows_the_same_input_again_under_any_key(app: App) -> None:
    codecs = [None, Encrypted({"k1": OLD}), Encrypted({"k2": NEW, "k1": OLD})]
    clients = [await app.connect(codec) for codec in codecs]
    for first in range(3):
        start = lasting_v1.with_options(idempotency_key=f"order-{first}")
        handle = await start.start(clients[first], "one")
        for later in clients[first:]:
            assert (await start.start(later, "one")).id == handle.id
            with pytest.raises(Conflict) as conflict:
                await start.start(later, "another")
            assert conflict.value.run_id == handle.id
    start = lasting_v1.with_options(idempotency_key="order-2")
    with pytest.raises(Conflict):  # it cannot know
        await start.start(clients[1], "one")


async def test_a_schedule_is_known_again_under_any_key_and_replaced_to_have_the_newest(
    app: App,
) -> None:
    definition = aiki.schedule("nightly", lasting_v1.bind("one"), cron="0 3 * * *")
    other = aiki.schedule("nightly", lasting_v1.bind("another"), cron="0 3 * * *")
    older = await app.connect(Encrypted({"k1": OLD}))
    newer = await app.connect(Encrypted({"k2": NEW, "k1": OLD}))
    await definition.activate(older)
    handle = await definition.activate(newer)
    with pytest.raises(Conflict):
        await other.activate(newer)
    assert (await handle.describe()).input == {"text": "one"}
    await definition.activate(newer, on_conflict="replace")
    lone = await app.connect(Encrypted({"k1": OLD}))
    assert str((await lone.schedule("nightly").describe()).input) == "encrypted (key id k2)"


async def test_a_step_that_is_repeated_finds_its_result_after_a_rotation(app: App) -> None:
    """Addresses are hashed with the key that the run's input has, whichever is the newest now."""
    client = await app.connect(Encrypted({"k1": OLD}))
    worker = await app.serve(lasting, client=client)
    handles = [await lasting_v1.start(client, "equal") for _ in range(2)]
    for handle in handles:
        await becomes(handle, Status.AWAITING_EVENT)
    # Equal inputs of different runs do not look equal
    assert len({(await handle.journal())[0].key for handle in handles}) == 2
    await app.end(worker)
    rotated = await app.connect(Encrypted({"k2": NEW, "k1": OLD}))
    await app.serve(lasting, client=rotated)
    for handle in handles:
        later = lasting_v1.handle(rotated, handle.id)
        await paid.send(later, "paid")
        assert await later.wait_for_completion(TIMEOUT) == "equal! paid"
        assert [step.attempts for step in await later.journal() if step.task == "say"] == [1]


async def test_who_lacks_the_key_sees_all_but_the_payloads(app: App) -> None:
    client = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(lasting, client=client)
    handle = await lasting_v1.start(client, "one")
    await paid.send(handle, "paid")
    await handle.wait_for_completion(TIMEOUT)
    seen = app.client.handle(handle.id)
    assert (await seen.status()).status is Status.COMPLETED
    steps = await seen.journal()
    assert [step.task for step in steps] == ["say", "event/paid"]
    assert [step.result for step in steps] == 2 * [aiki.Sealed("k1")]
    with pytest.raises(UnknownKey) as unknown:
        await seen.wait_for_completion(0)
    assert unknown.value.key_id == "k1"
    assert isinstance(unknown.value, DataError)


async def test_a_fork_gives_the_recorded_answers_of_the_run_that_it_comes_from(app: App) -> None:
    client = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(asked, client=client)
    handle = await asked_v1.start(client)
    changing = change.with_options(id="first")
    assert await changing.ask(handle, "it") == "it!"
    fork = await (await handle.fork()).fork()
    assert await changing.ask(fork, "another") == "it!"
    assert await change.ask(fork, "end") == "end"
    assert await fork.wait_for_completion(TIMEOUT) == "end"


async def test_all_who_wait_for_a_child_hear_of_its_end(app: App) -> None:
    wf = workflow("waiting")

    @wf.v("1.0.0")
    async def waiting_v1(run: Run) -> list[object]:
        one = await child_v1.start_as_child(run, "well")
        other = await asked_v1.start_as_child(run)
        await other.cancel("not wanted")
        waits = [each.wait_for_completion() for each in (one, one, other, other)]
        return [str(end) for end in await asyncio.gather(*waits, return_exceptions=True)]

    client = await app.connect(Encrypted({"k1": NEW}))
    await app.serve(wf, child, asked, client=client)
    ends = await (await waiting_v1.start(client)).wait_for_completion(TIMEOUT)
    assert ends[:2] == 2 * ["well, the child"]
    assert [str(end).endswith(" was cancelled: not wanted") for end in ends[2:]] == [True, True]


async def test_many_runs_are_started_together_each_bound_to_itself(app: App) -> None:
    client = await app.connect(Encrypted({"k1": NEW}, compress_over=100))
    await app.serve(child, client=client)
    calls = [child_v1.bind(f"{number} " * 100) for number in range(40)]
    handles = await aiki.start_many(client, calls)
    results = await asyncio.gather(
        *(handle.wait_for_completion(TIMEOUT) for handle in handles if isinstance(handle, Handle))
    )
    assert [result.split()[0] for result in results] == [str(number) for number in range(40)]
