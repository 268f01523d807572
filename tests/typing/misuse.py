"""What the type checkers must report. Where one of them does not, it reports the line's comment."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import aiki
from aiki import Client, Registry, Run, WorkflowVersion, task, topic, workflow


@task
def check(total: float) -> bool:
    return total > 0


orders = workflow("orders")


@orders.v("1.0.0")
async def orders_v1(run: Run, total: float) -> bool:
    return await check.start(run, total)


keyed = orders_v1.with_options(idempotency_key="k")


async def a_task_wants_a_run_and_its_arguments(run: Run, client: Client) -> str:
    await check.start(client, 1.0)  # type: ignore[arg-type]
    await check.start(1.0)  # type: ignore[arg-type, call-arg]
    await check.start(run)  # type: ignore[call-arg]
    await check.start(run, "much")  # type: ignore[arg-type]
    await check.start(run, 1.0, total=2.0)  # type: ignore[misc]
    await check.start(run, amount=1.0)  # type: ignore[call-arg]
    check.start(run, 1.0)  # type: ignore[unused-coroutine]
    return await check.start(run, 1.0)  # type: ignore[return-value]


async def a_compensation_wants_the_arguments_of_its_task(run: Run) -> None:
    run.compensate(check)  # type: ignore[call-arg]
    run.compensate(check, "much")  # type: ignore[arg-type]
    run.compensate(check, 1.0, 2.0)  # type: ignore[call-arg]
    run.compensate(orders_v1, 1.0)  # type: ignore[arg-type]
    await run.continue_as_new(1.0)


async def a_workflow_wants_a_client_and_its_arguments(run: Run, client: Client) -> str:
    await orders_v1.start(run, 1.0)  # type: ignore[arg-type]
    await orders_v1.start(client)  # type: ignore[call-arg]
    await keyed.start(client, "much")  # type: ignore[arg-type]
    orders_v1.bind("much")  # type: ignore[arg-type]
    orders_v1.start(client, 1.0)  # type: ignore[unused-coroutine]
    handle = await orders_v1.start(client, 1.0)
    return await handle.wait_for_completion()  # type: ignore[return-value]


class Basket:
    items: tuple[str, ...] = ()


@orders_v1.query
def count(state: Basket, least: int) -> int:
    return max(least, len(state.items))


@orders_v1.update
async def add(run: Run, state: Basket, item: str) -> int:
    await check.start(run, 1.0)
    state.items += (item,)
    return len(state.items)


@orders_v1.update  # type: ignore[arg-type]
def plain_update(run: Run, state: Basket) -> None: ...


@orders_v1.update  # type: ignore[arg-type]
async def update_without_run(state: Basket, item: str) -> None: ...


@add.validator  # type: ignore[arg-type]
def check_another(state: Basket, item: int) -> None: ...


async def what_is_asked_has_types(run: Run, client: Client) -> str:
    handle = client.handle("id")
    await count.ask(handle)  # type: ignore[call-arg]
    await count.ask(handle, "one")  # type: ignore[arg-type]
    await count.ask(client, 1)  # type: ignore[arg-type]
    await add.ask(run, "cup")  # type: ignore[arg-type]
    await add.ask(handle, "cup", id="id")  # type: ignore[call-arg]
    add.with_options(id=7)  # type: ignore[arg-type]
    count.with_options(id="id")  # type: ignore[call-arg]
    return await add.ask(handle, "cup")  # type: ignore[return-value]


words = topic("words", str)


async def a_topic_has_chunks_of_its_type(run: Run, client: Client) -> None:
    run.publish(words, 1)  # type: ignore[misc]
    run.publish("words", "a word")  # type: ignore[arg-type]
    run.progress("half")  # type: ignore[arg-type]
    async for chunk in client.handle("id").stream(words):
        chunk.data + 1  # type: ignore[operator]


async def children_want_a_run_and_their_arguments(run: Run, client: Client) -> str:
    await orders_v1.start_as_child(client, 1.0)  # type: ignore[arg-type]
    await orders_v1.start_as_child(run)  # type: ignore[call-arg]
    await orders_v1.start_as_child(run, "much")  # type: ignore[arg-type]
    orders_v1.start_as_child(run, 1.0)  # type: ignore[unused-coroutine]
    orders_v1.with_options(on_parent_close="stay")  # type: ignore[call-overload]
    await run.map(orders_v1, ["much"])  # type: ignore[misc]
    await run.map(check, [1.0])  # type: ignore[call-overload]
    await run.map(orders_v1, [1.0], on_error="ignore")  # type: ignore[call-overload]
    await run.map(orders_v1, [1.0], max_parallel="all")  # type: ignore[call-overload]
    child = await orders_v1.start_as_child(run, 1.0)
    return await child.wait_for_completion()  # type: ignore[return-value]


def options_about_one_run_are_no_definition(registry: Registry) -> WorkflowVersion[[float], bool]:
    registry.add(keyed)  # type: ignore[arg-type]
    registry.add(orders_v1.with_options(on_conflict="error"))  # type: ignore[arg-type]
    registry.add(orders_v1.with_options(delay=5))  # type: ignore[arg-type]
    registry.add(check)  # type: ignore[arg-type]
    return keyed  # type: ignore[return-value]


def a_schedule_starts_a_version_without_options_about_one_run() -> None:
    aiki.schedule("daily", keyed.bind(1.0), cron="0 9 * * *")  # type: ignore[arg-type]
    delayed = orders_v1.with_options(delay=5)
    aiki.schedule("daily", delayed.bind(1.0), cron="0 9 * * *")  # type: ignore[arg-type]
    aiki.schedule("daily", orders_v1, cron="0 9 * * *")  # type: ignore[arg-type]
    aiki.schedule("daily", orders_v1.bind(1.0), overlap="never")  # type: ignore[arg-type]
    aiki.schedule("daily", orders_v1.bind(1.0), cron=5)  # type: ignore[arg-type]
    aiki.schedule("daily", orders_v1.bind("much"), every=5)  # type: ignore[arg-type]


def options_have_names_and_types() -> None:
    check.with_options(retry=3)  # type: ignore[arg-type]
    check.with_options(timeout="long")  # type: ignore[arg-type]
    check.with_options(idempotency_key="k")  # type: ignore[call-arg]
    orders_v1.with_options(on_conflict="ignore")  # type: ignore[call-overload]
    orders_v1.with_options(retry=3)  # type: ignore[call-overload]
    orders.v("5.0.0", retry=3)  # type: ignore[call-overload]
    orders_v1.with_options(delay="soon")  # type: ignore[call-overload]
    orders_v1.with_options(start_at=5)  # type: ignore[call-overload]
    orders_v1.with_options(memo=["red"])  # type: ignore[call-overload]
    task(name="check", retry=3)  # type: ignore[call-overload]
    task("check")  # type: ignore[call-overload]


@orders.v("1.0.1")  # type: ignore[arg-type]
def plain(run: Run) -> None: ...


@orders.v("1.0.2")  # type: ignore[arg-type]
async def without_run(total: float) -> None: ...


@orders.v("1.0.3")  # type: ignore[arg-type]
async def without_parameters() -> None: ...


orders.v("1.0.4", exec=check)  # type: ignore[arg-type]


async def returns() -> int:
    return 1


def hooks_have_types() -> None:
    aiki.lifespan(returns)  # type: ignore[arg-type]
    workflow("orders", lifespan=check)  # type: ignore[arg-type]
    workflow("orders", context=returns)  # type: ignore[arg-type]
    workflow("orders", middleware=check)  # type: ignore[arg-type]
    orders.v("1.0.5", on_failure=check)  # type: ignore[arg-type]


def codecs_have_types() -> None:
    aiki.client(codec="2030-01")  # type: ignore[arg-type]
    aiki.Encrypted({"2030-01": "a text"})  # type: ignore[dict-item]
    aiki.Encrypted([b"a key"])  # type: ignore[arg-type]
    aiki.Compressed(1024)  # type: ignore[call-arg]
