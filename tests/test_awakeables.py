"""Awakeables: a token, and whoever has it decides, once."""

import asyncio
import base64
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from aiki import (
    TIMEOUT,
    DataError,
    DefinitionError,
    InvalidTransition,
    NotFound,
    Rejected,
    Run,
    Status,
    awakeable,
    reject,
    resolve,
    task,
    workflow,
)
from aiki.handle import Handle
from tests.support.app import App, becomes, outcomes
from tests.support.lives import one_life
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Decision:
    by: str
    amount: float


class Desk:
    """Runs that ask for a decision, and the tokens that they have handed over."""

    def __init__(self, app: App) -> None:
        self.app = app

        @task
        async def hand_over(token: str) -> None:
            app.ledger.note(token)

        self.hand_over = hand_over
        self.asks = asks = workflow("asks")

        @asks.v("1.0.0")
        async def asking(run: Run, timeout: float | None = None) -> str:
            asked = awakeable(run, "approval", Decision)
            await hand_over.start(run, asked.token)
            try:
                found = await (asked.wait() if timeout is None else asked.wait(timeout=timeout))
            except Rejected as rejected:
                return f"rejected: {rejected}"
            return "nobody came" if found is TIMEOUT else f"{found.amount} by {found.by}"

        self.asking = asking

    async def token(self, count: int = 1) -> str:
        """Wait until a token was handed over."""
        lines = await eventually(lambda: self.app.ledger.lines()[count - 1 :], what="the token")
        return str(lines[0])


@pytest.fixture
def desk(app: App) -> Desk:
    return Desk(app)


async def begun(desk: Desk, timeout: float | None = None) -> tuple[Handle[str], str]:
    await desk.app.serve(desk.asks, inline_wait=0.05)
    handle = await desk.asking.start(desk.app.client, timeout)
    token = await desk.token()
    await becomes(handle, Status.AWAITING_EVENT)
    return handle, token


async def test_whoever_has_the_token_resolves_it_with_data(desk: Desk) -> None:
    handle, token = await begun(desk)
    assert (await handle.status()).reason == "waits for promise/awakeable/approval"
    await resolve(desk.app.client, token, Decision("Ada", 5))
    assert await handle.wait_for_completion(60) == "5.0 by Ada"
    assert set(desk.app.ledger.lines()) == {token}, "each life makes the same"


async def test_plain_json_resolves_it_too(desk: Desk) -> None:
    handle, token = await begun(desk)
    await resolve(desk.app.client, token, {"by": "a web page", "amount": 2})
    assert await handle.wait_for_completion(60) == "2.0 by a web page"


async def test_whoever_has_the_token_rejects_it_with_a_reason(desk: Desk) -> None:
    handle, token = await begun(desk)
    await reject(desk.app.client, token, "far too dear: 5 €\nsorry")
    assert await handle.wait_for_completion(60) == "rejected: far too dear: 5 €\nsorry"
    assert (await outcomes(handle))[-1] == ("promise/awakeable/approval", "failed")


@pytest.mark.plain_only("it is decided while the run has its slot")
async def test_a_run_that_has_its_slot_is_rejected_too(desk: Desk) -> None:
    await desk.app.serve(desk.asks, inline_wait=60)
    handle = await desk.asking.start(desk.app.client, 30)
    await reject(desk.app.client, await desk.token(), "no")
    assert await handle.wait_for_completion(60) == "rejected: no"


@pytest.mark.parametrize("first", ["resolved", "rejected"])
async def test_the_first_decision_counts(desk: Desk, first: str) -> None:
    handle = await desk.asking.start(desk.app.client)
    await one_life(desk.app, [desk.asks], [handle], {handle.id: 2}, unheard=True)
    token, client = await desk.token(), desk.app.client
    if first == "resolved":
        await resolve(client, token, Decision("Ada", 5))
        await reject(client, token, "no")
    else:
        await reject(client, token, "no")
    await resolve(client, token, Decision("Bob", 7))
    await desk.app.serve(desk.asks)
    expected = "5.0 by Ada" if first == "resolved" else "rejected: no"
    assert await handle.wait_for_completion(60) == expected
    await resolve(client, token, Decision("Bob", 7))  # nor does it matter when the run is over
    assert await desk.app.keys("*:mailbox") == []


async def test_a_decision_may_be_too_late_and_is_kept_for_the_next_wait(app: App) -> None:
    wf = workflow("late")

    @task
    async def hand_over(token: str) -> None:
        app.ledger.note(token)

    @task
    async def remind() -> None:
        app.ledger.note("reminded")

    @wf.v("1.0.0")
    async def late(run: Run) -> str:
        asked = awakeable(run, "answer", str)
        await hand_over.start(run, asked.token)
        while (answer := await asked.wait(timeout=0.1)) is TIMEOUT:
            await remind.start(run)
        return f"{answer}, and again {await asked.wait()}, and {await asked.wait(timeout=1)}"

    await app.serve(wf, inline_wait=0.05)
    handle = await late.start(app.client)
    await eventually(lambda: app.ledger.count()["reminded"] >= 2, what="two reminders")
    await resolve(app.client, app.ledger.lines()[0], "yes")
    assert await handle.wait_for_completion(60) == "yes, and again yes, and yes"


async def test_a_rejection_is_the_same_for_each_wait(app: App) -> None:
    wf = workflow("again")

    @task
    async def hand_over(token: str) -> None:
        await reject(app.client, token, "no")

    @wf.v("1.0.0")
    async def again(run: Run) -> list[str]:
        asked = awakeable(run, "answer")
        await hand_over.start(run, asked.token)
        found: list[str] = []
        for _ in range(3):
            try:
                await asked.wait()
            except Rejected as rejected:
                found.append(str(rejected))
        return found

    await app.serve(wf)
    assert await app.result(again.bind()) == ["no"] * 3


async def test_two_waits_for_one_at_once_are_refused(app: App) -> None:
    wf = workflow("twice")

    @task
    async def hand_over(token: str) -> None:
        await resolve(app.client, token, 5)

    @wf.v("1.0.0")
    async def twice(run: Run) -> list[str]:
        asked = awakeable(run, "answer", int)
        await hand_over.start(run, asked.token)
        both = await asyncio.gather(asked.wait(), asked.wait(), return_exceptions=True)
        return [str(each) for each in both]

    await app.serve(wf)
    found = await app.result(twice.bind())
    assert found[0] == "5"
    assert "is waited for already" in found[1]


async def test_those_of_one_name_are_several(app: App) -> None:
    wf = workflow("several")

    @task
    async def hand_over(tokens: list[str]) -> None:
        for number, token in enumerate(tokens):
            await resolve(app.client, token, number)

    @wf.v("1.0.0")
    async def several(run: Run) -> list[int]:
        asked = [awakeable(run, "answer", int) for _ in range(3)]
        await hand_over.start(run, [each.token for each in asked])
        return await asyncio.gather(*(each.wait() for each in reversed(asked)))

    await app.serve(wf)
    assert await app.result(several.bind()) == [2, 1, 0]


async def test_a_token_is_safe_in_a_url_and_nobody_guesses_one(desk: Desk) -> None:
    handle, token = await begun(desk)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert quote(token, safe="") == token
    client = desk.app.client
    other = forged(handle.id, "awakeable/approval#0", "guessed")
    for wrong in (other, forged("0-unknown", "awakeable/approval#0", "x")):
        with pytest.raises(NotFound):
            await resolve(client, wrong, 1)
    # An entry whose content can be guessed is nobody's to resolve
    step = next(each for each in await handle.journal() if each.task == "hand-over")
    for key, content in ((step.key, "null"), ("awakeable/approval", ""), ("", "")):
        with pytest.raises(NotFound):
            await resolve(client, forged(handle.id, key, content), 1)
    assert await desk.app.keys("*:mailbox") == []
    await resolve(client, token, Decision("Ada", 1))
    assert await handle.wait_for_completion(60) == "1.0 by Ada"


def forged(*parts: str) -> str:
    return base64.urlsafe_b64encode("\n".join(parts).encode()).decode().rstrip("=")


@pytest.mark.plain_only("nothing is executed")
async def test_what_is_no_token_is_refused(app: App) -> None:
    bad: list[Any] = [
        "",
        "x",
        "not a token",
        "€",
        "====",
        forged("a", "b"),
        forged("a"),
        None,
        b"x",
    ]
    for token in bad:
        with pytest.raises((DataError, NotFound)):
            await resolve(app.client, token, 1)
        with pytest.raises((DataError, NotFound)):
            await reject(app.client, token, "no")


async def test_what_cannot_be_stored_is_refused_and_decides_nothing(desk: Desk) -> None:
    handle, token = await begun(desk)
    client = desk.app.client
    for data in (float("nan"), object(), {1: 2}.keys()):
        with pytest.raises((DataError, DefinitionError)):
            await resolve(client, token, data)
    with pytest.raises(DataError, match="a reason has at most"):
        await reject(client, token, "x" * 9000)
    no_text: Any = 7
    with pytest.raises(DataError, match="a reason is a str"):
        await reject(client, token, no_text)
    await reject(client, token, "half a pair: \ud800")
    assert (await handle.wait_for_completion(60)).startswith("rejected: half a pair: ")


async def test_data_that_does_not_fit_stalls_the_run(desk: Desk) -> None:
    handle, token = await begun(desk)
    await resolve(desk.app.client, token, {"by": "Ada"})
    await becomes(handle, Status.STALLED)
    assert "amount" in (await handle.status()).reason


async def test_a_run_that_is_over_is_nobodys_to_decide(desk: Desk) -> None:
    handle, token = await begun(desk, 2)
    assert await handle.wait_for_completion(60) == "nobody came"
    with pytest.raises(InvalidTransition, match="is completed and takes no message"):
        await resolve(desk.app.client, token, Decision("Ada", 1))
    with pytest.raises(InvalidTransition):
        await reject(desk.app.client, token, "no")


@pytest.mark.parametrize("name", ["", "a:b", "a/b", 5])
@pytest.mark.plain_only("nothing is recorded")
async def test_a_bad_name_is_refused(app: App, name: Any) -> None:
    async def handler(run: Run) -> str:
        with pytest.raises(DefinitionError, match="awakeable: "):
            awakeable(run, name)
        return "refused"

    version = workflow("names").v("1.0.0", exec=handler)
    await app.serve(version)
    assert await app.result(version.bind()) == "refused"


async def test_it_is_made_nowhere_but_in_the_handler(app: App) -> None:
    runs: list[Run] = []

    @task
    async def makes() -> str:
        try:
            awakeable(runs[-1], "answer")
        except DefinitionError as refused:
            return str(refused)
        return "made"

    async def handler(run: Run) -> str:
        runs.append(run)
        return await makes.start(run)

    version = workflow("elsewhere").v("1.0.0", exec=handler)
    await app.serve(version)
    assert "inside a task" in await app.result(version.bind())
