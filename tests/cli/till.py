"""A workflow to start from the command line, and what its tests do again and again."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner, Result

import aiki
from aiki.cli import Exit, command
from tests.support.waiting import eventually

RUN_ID = re.compile(r"0-[0-9a-z]{26}")


@dataclass(frozen=True)
class Sum:
    amount: float
    currency: str = "EUR"


@aiki.task
async def check(total: Sum) -> bool:
    if total.amount < 0:
        raise ValueError(f"{total.amount} {total.currency} is no price")
    return True


@aiki.task(retry=aiki.fixed(max_attempts=2, delay=60))
async def charge(total: Sum) -> str:
    if total.currency == "XXX":
        raise ConnectionError("the provider is away")
    return f"paid {total.amount} {total.currency}"


shop = aiki.workflow("shop")


@shop.v("1.2.0")
async def shop_old(run: aiki.Run, total: Sum) -> str:
    await check.start(run, total)
    return await charge.start(run, total)


@shop.v("1.10.0")
async def shop_new(run: aiki.Run, total: Sum, note: str = "") -> str:
    await check.start(run, total)
    return note + await charge.start(run, total)


async def invoke(*arguments: str, text: str | None = None) -> Result:
    """Call the command as the shell would, beside the loop of the test."""
    return await asyncio.to_thread(CliRunner().invoke, command, arguments, text)


def total(amount: float, currency: str = "EUR") -> tuple[str, str]:
    return "--input", json.dumps({"total": {"amount": amount, "currency": currency}})


async def start(*arguments: str) -> str:
    result = await invoke("start", *arguments)
    assert result.exit_code == Exit.DONE, result.output
    found = RUN_ID.fullmatch(result.stdout.strip())
    assert found is not None
    return found[0]


async def reach(client: aiki.Client, run_id: str, status: aiki.Status) -> None:
    async def is_there() -> bool:
        return (await client.handle(run_id).status()).status is status

    await eventually(is_there, what=f"{run_id} is {status}")


async def show(run_id: str, *options: str) -> dict[str, Any]:
    result = await invoke("show", run_id, "--json", *options)
    assert result.exit_code == Exit.DONE, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown
