"""What may be defined, what is refused and in which words, and how definitions are told apart."""

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiki.client import Client
from aiki.current_step import CurrentStep
from aiki.errors import AikiError, DataError, DefinitionError
from aiki.retry import fixed, never
from aiki.run import Run
from aiki.step import call
from aiki.task import task
from aiki.threads import LentThreads, Threads
from aiki.workflow import Start, WorkflowVersion, workflow

HERE = Path(__file__).name


@dataclass(frozen=True)
class Item:
    id: str
    quantity: int


def plain(number: int) -> int:
    return number


@task
def count_items(items: list[Item], factor: int = 1) -> int:
    return factor * sum(item.quantity for item in items)


@task(retry=fixed(max_attempts=2, delay=0), timeout=30)
async def reserve(item: Item) -> str:
    """Put an item aside."""
    await asyncio.sleep(0)
    return item.id


stock = workflow("stock")


@stock.v("1.0.0")
async def stock_v1(run: Run, items: list[Item], *, urgent: bool = False) -> int:
    return await count_items.start(run, items, 2 if urgent else 1)


# Functions


class Service:
    def method(self) -> None: ...

    def __call__(self) -> None: ...


NOT_FUNCTIONS = [
    pytest.param(Service, "the class Service", id="class"),
    pytest.param(Service(), "Service", id="callable object"),
    pytest.param(Service().method, "method", id="method"),
    pytest.param(functools.partial(print, 1), "partial", id="partial"),
    pytest.param(print, "builtin_function_or_method", id="builtin"),
    pytest.param(staticmethod(print), "staticmethod", id="staticmethod"),
    pytest.param(count_items, "Task", id="task"),
    pytest.param(7, "int", id="int"),
]


@pytest.mark.parametrize(("value", "kind"), NOT_FUNCTIONS)
def test_only_a_function_can_be_a_definition(value: Any, kind: str) -> None:
    with pytest.raises(DefinitionError, match=f"^a task is a function, not {kind}; "):
        task(value)
    with pytest.raises(DefinitionError, match=f"^a workflow handler is a function, not {kind}; "):
        workflow("orders").v("1.0.0", exec=value)


def test_a_name_in_the_place_of_a_function_is_told_where_it_belongs() -> None:
    with pytest.raises(DefinitionError, match=r"task\(name='send-email'\)"):
        task("send-email")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def _generate_slowly(_: Run) -> AsyncIterator[int]:
    yield 1


def _generate(_: Run) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [_generate, _generate_slowly])
def test_a_generator_is_refused(fn: Any) -> None:
    with pytest.raises(DefinitionError, match=f"cannot be the generator {fn.__name__} .*{HERE}:"):
        task(fn)
    with pytest.raises(DefinitionError, match=f"cannot be the generator {fn.__name__} .*{HERE}:"):
        workflow("orders").v("1.0.0")(fn)


# Handlers


def _plain(run: Run) -> None: ...


async def _nothing() -> None: ...


async def _only_arguments(*args: Run) -> None: ...


async def _only_by_name(*, run: Run) -> None: ...


async def _no_run(order: Item) -> None: ...


async def _unannotated_run(run) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def _unannotated(run: Run, order) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def _unknown(run: Run, order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def _unreadable(run: Run, service: Service) -> None: ...


async def _unreadable_result(_: Run) -> Service:
    return Service()


async def _any_arguments(run: Run, *items: Item) -> None: ...


HANDLERS: list[tuple[Callable[..., Any], str]] = [
    (_plain, r"is a plain def; make it `async def _plain\(run: Run, …\)`"),
    (_nothing, "no parameter for the run; begin with `run: Run`"),
    (_only_arguments, "no parameter for the run; begin with `run: Run`"),
    (_only_by_name, "no parameter for the run; begin with `run: Run`"),
    (_no_run, "first parameter is given the run, but is written as `order: .*Item`"),
    (_unannotated_run, "first parameter is given the run, but is written as `run`"),
    (_unannotated, "'order' has no annotation"),
    (_unknown, "'order'.*Nowhere.*cannot be resolved"),
    (_unreadable, "'service'.*Service"),
    (_unreadable_result, "result.*Service"),
    (_any_arguments, r"\*items.* take a list"),
]


@pytest.mark.parametrize(("handler", "reason"), HANDLERS)
def test_a_handler_that_cannot_work_is_refused_with_its_place(
    handler: Callable[..., Any], reason: str
) -> None:
    line = inspect.getsourcelines(handler)[1]
    with pytest.raises(DefinitionError, match=reason) as caught:
        workflow("orders").v("1.0.0", exec=handler)
    assert f"{HERE}:{line}" in str(caught.value)


def test_a_task_whose_arguments_could_not_be_stored_is_refused_with_its_place() -> None:
    functions: list[Callable[..., Any]] = [
        _unannotated, _unknown, _unreadable, _unreadable_result, _any_arguments
    ]  # fmt: skip
    for fn in functions:
        line = inspect.getsourcelines(fn)[1]
        with pytest.raises(DefinitionError, match=f"{HERE}:{line}"):
            task(fn)


def test_a_refused_version_is_not_part_of_the_workflow() -> None:
    orders = workflow("orders")
    with pytest.raises(DefinitionError):
        orders.v("1.0.0", exec=_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert orders.versions == []


# The two forms, direct calls, and copies


async def test_called_directly_a_definition_is_the_plain_function() -> None:
    item = Item("screw", 3)
    assert count_items([item], factor=2) == 6
    assert await reserve(item) == "screw"

    orders = workflow("orders")

    @orders.v("1.0.0")
    async def orders_v1(run: Run, item: Item) -> str:
        assert run is not None
        return await reserve(item)

    run: Any = object()
    assert await orders_v1(run, item) == "screw"


def test_a_definition_shows_its_function() -> None:
    assert inspect.getdoc(reserve) == "Put an item aside."
    assert str(inspect.signature(reserve)).startswith("(item: ")
    assert repr(reserve).startswith("<task reserve (")
    assert repr(stock_v1).startswith("<WorkflowVersion of workflow stock 1.0.0 (")
    assert repr(stock) == "<workflow stock: 1.0.0>"


def test_the_long_form_defines_the_same() -> None:
    def send(to: str) -> bool:
        return bool(to)

    async def handler(run: Run, to: str) -> bool:
        return await sending.start(run, to)

    sending = task(name="send-email", exec=send, retry=fixed(max_attempts=3, delay=1), once=True)
    assert (sending.name, sending("you")) == ("send-email", True)
    mailing = workflow(name="mailing")
    mailing_v1 = mailing.v("1.0.0", exec=handler)
    assert mailing.versions == [mailing_v1]
    assert (mailing_v1.name, mailing_v1.version, mailing_v1.pool) == ("mailing", "1.0.0", "default")


def test_a_task_is_made_of_one_function() -> None:
    with pytest.raises(DefinitionError, match="one function"):
        task(plain, exec=plain)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"retry": 3}, DefinitionError, r"retry is a policy, such as fixed\(.*not int"),
        ({"retry": None}, DefinitionError, "retry is a policy"),
        ({"once": 1}, DefinitionError, "once is True or False"),
        ({"timeout": 0}, DataError, "a timeout of 0 would fail every attempt"),
        ({"timeout": timedelta(0)}, DataError, "a timeout of 0"),
        ({"timeout": -1}, DataError, "timeout must be between"),
        ({"timeout": math.nan}, DataError, "timeout must be between"),
        ({"timeout": math.inf}, DataError, "timeout must be between"),
        ({"timeout": True}, DataError, "timeout must be seconds"),
        ({"timeout": "3"}, DataError, "timeout must be seconds"),
        ({"timeout": timedelta(days=3654)}, DataError, "timeout must be between"),
        ({"schedule_to_close": 0}, DataError, "a schedule_to_close of 0 would fail"),
        ({"schedule_to_close": math.nan}, DataError, "schedule_to_close must be between"),
        ({"heartbeat_timeout": -1}, DataError, "heartbeat_timeout must be between"),
        ({"heartbeat_timeout": "3"}, DataError, "heartbeat_timeout must be seconds"),
    ],
)
def test_bad_options_of_a_task_are_refused_with_its_place(
    options: dict[str, Any], error: type[AikiError], reason: str
) -> None:
    reason = rf"^task count-items \(.*{HERE}:\d+\): {reason}"
    with pytest.raises(error, match=reason):
        task(name="count-items", **options)(plain)
    with pytest.raises(error, match=reason):
        count_items.with_options(**options)


def test_options_make_a_copy_and_keep_what_was_not_given() -> None:
    watched = reserve.with_options(schedule_to_close=60, heartbeat_timeout=timedelta(seconds=5))
    assert (watched._spec.schedule_to_close, watched._spec.heartbeat_timeout) == (60, 5)
    patient = reserve.with_options(timeout=timedelta(minutes=5), once=True)
    endless = patient.with_options(timeout=None, retry=never())
    found = [
        (some._spec.retry, some._spec.timeout, some._spec.once)
        for some in (reserve, patient, endless)
    ]
    assert found == [
        (fixed(max_attempts=2, delay=0), 30, False),
        (fixed(max_attempts=2, delay=0), 300, True),
        (never(), None, True),
    ]
    assert {some._spec.identity for some in (reserve, patient, endless)} == {(__name__, "reserve")}


# Starting


@pytest.mark.parametrize("given", [None, [Item("a", 1)], Client(redis="redis://localhost")])
async def test_a_task_is_not_started_without_a_run(given: Any) -> None:
    with pytest.raises(DefinitionError, match=f"with {type(given).__name__} in place of a run"):
        await count_items.start(given, [])


async def test_a_task_started_inside_a_task_is_told_that_a_task_is_one_step() -> None:
    @task
    async def outer() -> int:
        inside: Any = None
        return await count_items.start(inside, [])

    loop = asyncio.get_running_loop()
    run: Any = SimpleNamespace(run_id="r", scope="r", loop=loop, is_draining=bool)
    about = CurrentStep(run, "outer#0", "outer", 1, begun=0, failure=b"", details=b"")
    threads = LentThreads(Threads(1, "test"), lambda: True)
    with pytest.raises(DefinitionError, match="a task is one step, so start it from the workflow"):
        await call(outer._spec, about, (), {}, threads)


@pytest.mark.parametrize("given", [None, "redis://localhost", stock])
async def test_a_workflow_is_not_started_without_a_client(given: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the client that aiki\.client\(\) gives"):
        await stock_v1.start(given, [])


def test_a_start_carries_its_input_in_canonical_form() -> None:
    bound = stock_v1.with_options(idempotency_key="k").bind([Item("screw", 3)])
    assert (bound.workflow, bound.version) == ("stock", "1.0.0")
    assert bound.payload == b'{"items":[{"id":"screw","quantity":3}],"urgent":false}'
    assert bound.options.idempotency_key == "k"


def test_input_that_its_annotations_do_not_describe_is_refused_at_the_caller() -> None:
    wrong: Any = [Item("screw", 3), {"id": "nail", "quantity": "many"}]
    with pytest.raises(DataError) as caught:
        stock_v1.bind(wrong)
    assert caught.value.path == "$.items[1].quantity"
    with pytest.raises(DataError, match="items"):
        stock_v1.bind()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_options_about_one_run_make_a_start_that_is_no_definition() -> None:
    elsewhere = stock_v1.with_options(pool="gpu")
    assert isinstance(elsewhere, WorkflowVersion)
    assert (elsewhere.pool, stock_v1.pool) == ("gpu", "default")

    keyed = elsewhere.with_options(idempotency_key="order-123")
    existing = keyed.with_options(on_conflict="return_existing")
    assert type(keyed) is type(existing) is Start
    assert existing.options.pool == "gpu"
    assert existing.options.idempotency_key == "order-123"
    assert existing.with_options(idempotency_key=None).options.idempotency_key is None
    assert keyed.options.on_conflict == "error"


@pytest.mark.parametrize("policy", ["", "ignore", None, 1])
def test_a_bad_conflict_policy_is_refused(policy: Any) -> None:
    with pytest.raises(DataError, match='on_conflict is "error" or "return_existing"'):
        stock_v1.with_options(on_conflict=policy)
