"""What all commands of `aiki` share: the store that they are about, and what they say aside."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aiki.cli_exits import Exit, Group, code_of
from aiki.cli_output import plain
from aiki.cli_settings import PATIENCE, find_store
from aiki.client import Client
from aiki.errors import AikiError, StoreUnavailable
from aiki.time_limit import time_limit

R = TypeVar("R")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aiki", message="%(prog)s %(version)s")
def command() -> None:
    """Start durable runs, list them, look into one.

    What executes them is a supervisor: python -m aiki.supervisor MODULE
    """


def on_store(work: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a command of a coroutine function that takes the store's settings first."""

    @click.option("--redis", metavar="URL", help="The Redis or Valkey that holds the runs.")
    @click.option("--data-dir", metavar="DIR", help="Of the embedded server.  [.aiki]")
    @click.option("--namespace", metavar="NAME", help="Within the store.  [default]")
    @click.option("--encryption-keys", metavar="FILE", help="What opens encrypted payloads.")
    @functools.wraps(work)
    def run(
        redis: str | None,
        data_dir: str | None,
        namespace: str | None,
        encryption_keys: str | None,
        **options: Any,
    ) -> None:
        flags = {
            "redis": redis,
            "data_dir": data_dir,
            "namespace": namespace,
            "encryption_keys": encryption_keys,
        }
        try:
            store = find_store(flags, environ=os.environ, directory=Path.cwd())
            asyncio.run(_ignoring_result(work(store, **options)))
        except AikiError as error:
            say(f"Error: {error}")
            raise SystemExit(code_of(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(Exit.INTERRUPTED) from None

    return run


async def _ignoring_result(work: Awaitable[None]) -> None:
    await work


async def in_time(client: Client, reading: Awaitable[R]) -> R:
    """Bound a reading that has no limit of its own: somebody sits before the screen."""
    try:
        async with time_limit(PATIENCE):
            return await reading
    except TimeoutError:
        where = client.partitions.address.described
        raise StoreUnavailable(f"{where} gave no answer within {PATIENCE:g} s") from None


def say(text: str) -> None:
    """Tell a person something that is no part of the output."""
    click.echo(plain(text), err=True)
