"""The command `aiki`: start runs, list them, look into one, look whether all is well."""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from aiki.call import Call
from aiki.cli_command import command, in_time, on_store, say
from aiki.cli_exits import Exit
from aiki.cli_options import past, payload, start_options
from aiki.cli_output import (
    audit_object,
    audit_report,
    counts_table,
    full_run_object,
    run_details,
    run_object,
    runs_table,
)
from aiki.cli_security import acl, new_key
from aiki.cli_settings import PATIENCE, StoreSettings
from aiki.client import Client
from aiki.codec import Codec
from aiki.description import RecordedStep, why
from aiki.errors import DataError, NotFound
from aiki.handle import Handle
from aiki.names import checked_key, checked_name, checked_version
from aiki.states import Status
from aiki.store.catalog import Offer
from aiki.store.keys import partition_of
from aiki.store.rights import Role

__all__ = ["Exit", "command", "main"]

R = TypeVar("R")

# Between two looks at a run that is waited for: that it ended is told, that it is stuck is not.
_LOOK = 1.0


@command.command()
@click.argument("workflow")
@click.option(
    "--input",
    "given",
    metavar="JSON",
    default="{}",
    help="The handler's arguments: an object with each by its name. A - reads it from stdin.",
)
@click.option("--version", metavar="X.Y.Z", help="The same as NAME/X.Y.Z.")
@click.option("--pool", metavar="NAME", default="default", help="Of workers.  [default]")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Start once: the same key with the same input gives the run that there is.",
)
@click.option("--delay", metavar="TIME", help="Start it so much later: 90s, 5m, 2h, 7d.")
@click.option("--start-at", metavar="TIME", help="Start it then: 2030-01-31T09:00+01:00.")
@click.option("--start-by", metavar="TIME", help="Cancel it if not begun so soon, or by then.")
@click.option("--finish-by", metavar="TIME", help="Cancel it if not over so soon, or by then.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="To find it by; may be repeated.")
@click.option("--memo", metavar="JSON", help="An object to be shown with the run.")
@click.option("--wait", is_flag=True, help="Wait for the end of the run and print its result.")
@on_store
async def start(
    store: StoreSettings,
    *,
    workflow: str,
    given: str,
    version: str | None,
    pool: str,
    idempotency_key: str | None,
    wait: bool,
    **more: Any,
) -> None:
    """Start a run of WORKFLOW, which is NAME or NAME/X.Y.Z.

    Without a version it is the newest one that is served. What goes to stdout is the run's id, or
    with --wait its result as JSON. The worker checks the input: a run whose input does not fit
    its handler is stalled, and says where.

    \b
      aiki start order-processing --input '{"order": {"items": …}}' --wait
    """  # noqa: D301  (the backspace is meant: it keeps click from wrapping lines)
    name, slash, named = workflow.partition("/")
    checked_name(name, "WORKFLOW")
    if slash and version is not None:
        raise click.UsageError(f"{workflow} and --version {version}: say the version once")
    wanted = named if slash else version
    if wanted is not None:
        checked_version(wanted, name)
    options = start_options(
        pool=checked_name(pool, "--pool"),
        idempotency_key=None if idempotency_key is None else checked_key(idempotency_key),
        **more,
    )
    data = payload(given)
    async with store.client(create=wanted is not None) as client:
        catalog = client.partitions.overview
        offers = await in_time(client, catalog.offers(name))
        if wanted is None:
            wanted = _newest(offers, pool) or _refuse_unknown(
                name, await in_time(client, catalog.workflows())
            )
        result = Codec(object, f"the result of {name} {wanted}")
        call: Call[object] = Call(name, wanted, data, result, options)
        handle = await client.start_call(call)
        say(f"started {name} {wanted}" + (f" as {handle.id}" if wait else ""))
        if wait:
            _print_json(await _end_of(client, handle))
            return
        click.echo(handle.id)
        if options.at:
            runs = client.partitions.of(handle.id).runs
            say(why(await runs.snapshot(handle.id, timeout=PATIENCE)))
        if not any((o.version, o.pool) == (wanted, pool) and o.is_served for o in offers):
            say(f"no worker serves {name} {wanted} in pool {pool!r} now; the run waits for one")


@command.command()
@click.option(
    "--status",
    metavar="STATUS",
    type=click.Choice([status.value for status in Status]),
    help=f"Only runs that are one of: {', '.join(Status)}.",
)
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--tag", metavar="TAG", help="Only runs that have this tag.")
@click.option("--since", metavar="TIME", help="Only runs that changed since then, or so recently.")
@click.option(
    "--limit", metavar="N", type=click.IntRange(1, 1000), default=20, help="At most so many.  [20]"
)
@click.option("--count", is_flag=True, help="Count all runs by workflow and status.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@on_store
async def runs(
    store: StoreSettings,
    *,
    status: str | None,
    workflow: str | None,
    tag: str | None,
    since: str | None,
    limit: int,
    count: bool,
    as_json: bool,
) -> None:
    """List runs, those that changed last first; with --tag, those that were started last.

    \b
      aiki runs --tag customer:7 --since 24h
    """  # noqa: D301  (the backspace is meant: it keeps click from wrapping lines)
    if count and (status is not None or tag is not None or since is not None):
        raise click.UsageError("--count counts all runs, or with --workflow those of one")
    only = None if status is None else Status(status)
    async with store.client(create=False, role=Role.READER) as client:
        if count:
            counts = await in_time(client, client.count_runs(workflow=workflow))
            _print_json(counts) if as_json else _print(counts_table(counts, width=_width()))
            return
        listing = client.runs(
            status=only, workflow=workflow, tag=tag, since=None if since is None else past(since)
        )
        found = await in_time(client, _first(listing, limit))
    if as_json:
        _print_json([run_object(run) for run in found])
    elif found:
        _print(runs_table(found, now=datetime.now(UTC), width=_width()))
        if len(found) == limit:
            say(f"these are the last {limit}; --limit shows more")
    else:
        say("no runs" if (status, workflow, tag, since) == (None,) * 4 else "no such runs")


async def _first(listing: AsyncIterator[R], limit: int) -> list[R]:
    found: list[R] = []
    async for each in listing:
        found.append(each)
        if len(found) == limit:
            break
    return found


@command.command()
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with everything.")
@on_store
async def show(settings: StoreSettings, *, run_id: str, as_json: bool) -> None:
    """Show where a run is, what it waits for, and its recorded steps.

    RUN is the run's id, as `aiki start` and `aiki runs` give it.
    """
    if partition_of(run_id) is None:
        raise NotFound(f"{run_id!r} is not the id of a run; `aiki runs` lists them")
    async with settings.client(create=False, role=Role.READER) as client:
        store = client.partitions.of(run_id)
        run = await store.runs.snapshot(run_id, timeout=PATIENCE)
        steps = await _steps(client, run_id)
        workers = await in_time(client, store.workers.list())
    label = next((worker.label for worker in workers if worker.incarnation == run.owner), "")
    if as_json:
        _print_json(full_run_object(run, steps, worker=label))
    else:
        now, width = datetime.now(UTC), _width()
        _print(run_details(run, steps, worker=label, now=now, width=width))


@command.command()
@click.option("--repair", is_flag=True, help="Mend from the records of the runs what can be.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@on_store
async def audit(store: StoreSettings, *, repair: bool, as_json: bool) -> None:
    """Look at all that is stored for what is not as it should be.

    Workers may go on meanwhile. It should find nothing: housekeeping looks slowly for the same,
    and mends it. What no record tells how to mend is told and left as it is.
    """
    async with store.client(create=False, role=Role.SUPERVISOR) as client:
        findings = await client.partitions.overview.audit(mend=repair)
    _print_json(audit_object(findings)) if as_json else _print(audit_report(findings))
    if findings.left:
        raise click.exceptions.Exit(Exit.UNSUCCESSFUL)


async def _steps(client: Client, run_id: str) -> list[RecordedStep]:
    """Read a run's journal; where it is damaged, say so, and let the rest be seen."""
    try:
        return await client.handle(run_id).journal()
    except (DataError, ValueError) as error:
        say(f"the journal of run {run_id} cannot be read: {error}")
        return []


def _newest(offers: Sequence[Offer], pool: str) -> str | None:
    """Choose a version: one that is served in the pool, or served at all, or ever was."""
    if not offers:
        return None
    best = max(
        offers,
        key=lambda offer: (
            offer.is_served and offer.pool == pool,
            offer.is_served,
            [int(part) for part in offer.version.split(".")],
        ),
    )
    return best.version


def _refuse_unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise NotFound(
        f"nobody has ever served a workflow {name!r} here{hint or '.'} To start it before it is "
        f"served, say which version: {name}/1.0.0"
    )


async def _end_of(client: Client, handle: Handle[object]) -> object:
    """Wait for a run's result, and say what it waits for meanwhile."""
    ending = asyncio.create_task(handle.wait_for_completion())
    told = ""
    try:
        while not ending.done():
            await asyncio.wait([ending], timeout=_LOOK)
            if ending.done():
                break
            runs = client.partitions.of(handle.id).runs
            run = await runs.snapshot(handle.id, timeout=PATIENCE)
            if run.status is Status.STALLED:
                say(f"run {handle.id} is stalled: {why(run)}")
                raise click.exceptions.Exit(Exit.UNSUCCESSFUL)
            if why(run) not in {"", told}:
                told = why(run)
                say(f"{run.status}: {told}")
        return ending.result()
    except asyncio.CancelledError:
        say(f"the run goes on; look at it with: aiki show {handle.id}")
        raise
    finally:
        ending.cancel()


def _print(text: str) -> None:
    # click itself leaves colours out where stdout is no terminal.
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    click.echo(text, color=None if has_colours else False)


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


command.add_command(acl)
command.add_command(new_key)


def main() -> None:
    """Run the command."""
    command(prog_name="aiki")


if __name__ == "__main__":
    main()
