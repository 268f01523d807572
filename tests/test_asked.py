"""What a version can be asked, and what is refused where it is defined."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import pytest

from aiki import DefinitionError, Query, Rejected, Run, Update, Workflow, WorkflowVersion, workflow
from examples.agent import agent, agents, transcript
from tests.support.app import App


@dataclass
class Basket:
    items: list[str] = field(default_factory=list[str])


def shopping() -> tuple[Workflow, WorkflowVersion[[], None], Query[[], int], Update[[str], None]]:
    """Define a workflow with a query and an update."""
    wf = workflow("shopping")

    @wf.v("1.0.0")
    async def version(run: Run) -> None:
        await run.until("never", lambda: False)

    @version.query
    def told(state: Basket) -> int:
        return len(state.items)

    @version.update
    async def add(_: Run, state: Basket, item: str) -> None:
        state.items.append(item)

    @add.validator
    def check_item(_: Basket, item: str) -> None:
        if not item:
            raise ValueError("it has no name")

    return wf, version, told, add


class Needy:
    def __init__(self, value: int) -> None: ...


async def slowly(state: Basket) -> None: ...
def stateless() -> None: ...
def unannotated(state) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def needy(state: Needy) -> None: ...
def no_type(state: Basket, what) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


_NO_QUERIES: Any = [
    (slowly, "is an async def"),
    (stateless, "no parameter for the run's state"),
    (unannotated, "no parameter for the run's state"),
    (needy, "cannot be made without arguments"),
    (no_type, "parameter 'what' has no annotation"),
    (print, "a query is a function"),
]


@pytest.mark.parametrize(("wrong", "why"), _NO_QUERIES)
def test_what_cannot_be_a_query_is_refused_where_it_is_defined(wrong: Any, why: str) -> None:
    wf, version, _, _ = shopping()
    with pytest.raises(DefinitionError, match=why):
        version.query(wrong)
    assert wf.versions == [version]


def test_the_queries_of_a_version_have_names_of_their_own() -> None:
    _, version, told, _ = shopping()

    def other(state: Basket) -> None: ...

    with pytest.raises(DefinitionError, match="query told is defined twice"):
        version.query(name="told")(other)
    with pytest.raises(DefinitionError, match="name"):
        version.query(name="a/b")(other)
    assert told.name == "told"


async def plain_state(run: Run, state: int | str) -> None: ...
def not_async(run: Run, state: Basket) -> None: ...
async def without_run(state: Basket) -> None: ...
async def without_state(run: Run) -> None: ...


_NO_UPDATES: Any = [
    (not_async, "is a plain def"),
    (without_run, "its first parameter is given the run"),
    (without_state, "no parameter for the run's state"),
    (plain_state, "no parameter for the run's state"),
]


@pytest.mark.parametrize(("wrong", "why"), _NO_UPDATES)
def test_what_cannot_be_an_update_is_refused_where_it_is_defined(wrong: Any, why: str) -> None:
    _, version, _, _ = shopping()
    with pytest.raises(DefinitionError, match=why):
        version.update(wrong)


async def slow(state: Basket, item: str) -> None: ...
def other_state(state: list[str], item: str) -> None: ...
def other_names(state: Basket, thing: str) -> None: ...


@pytest.mark.parametrize("wrong", [slow, other_state, other_names])
def test_what_cannot_be_a_validator_is_refused_where_it_is_defined(wrong: Any) -> None:
    _, _, _, add = shopping()
    with pytest.raises(DefinitionError, match="validator"):
        add.validator(wrong)


async def test_an_update_and_a_query_are_asked_with_the_handle_of_a_run() -> None:
    _, _, told, add = shopping()
    run: Any = "0-run"
    for asking in (told.ask(run), add.ask(run, "cup")):
        with pytest.raises(DefinitionError, match="asked with the handle of a run, not with str"):
            await asking


async def test_a_version_that_was_sent_elsewhere_can_be_asked_there(app: App) -> None:
    """As a supervisor sends what its workers cannot import."""
    _, version, told, add = shopping()
    await app.serve(pickle.loads(cloudpickle.dumps(version)))
    await app.serve(pickle.loads(cloudpickle.dumps(agents)))
    handle = await version.start(app.client)
    with pytest.raises(Rejected, match="no name"):
        await add.ask(handle, "")
    await add.ask(handle, "cup")
    assert await told.ask(handle) == 1
    assert await transcript.ask(await agent.start(app.client, "Where?")) is not None
