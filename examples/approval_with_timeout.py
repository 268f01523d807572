"""An approval: somebody has to decide, and where nobody does in time, somebody else is asked.

The run makes an awakeable, whose token goes out by mail. Whoever has the token decides: here that
is this program, elsewhere a web page behind a link.

In one process, with a worker of its own: `python -m examples.approval_with_timeout`.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import aiki
from aiki import Run, task, workflow


@dataclass(frozen=True)
class Expense:
    """What somebody wants to have paid."""

    what: str
    amount: float


@dataclass(frozen=True)
class Decision:
    """What was decided."""

    approved: bool
    by: str


INBOX: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
"""Stands for the mailboxes of those who decide: who is asked, and the token."""


@task
async def ask(who: str, expense: Expense, token: str) -> None:
    """Send a mail whose link carries the token."""
    print(f"  to {who}: may we pay {expense.amount:.2f} for {expense.what}?")
    await INBOX.put((who, token))


@task
async def pay(expense: Expense) -> None:
    """Pay it."""
    print(f"  paid {expense.amount:.2f} for {expense.what}")


expenses = workflow("expenses")


@expenses.v("1.0.0")
async def expense_v1(run: Run, expense: Expense, asked: list[str], patience: timedelta) -> str:
    """Ask one after the other until somebody decides, and pay what is approved."""
    for who in asked:
        decision = aiki.awakeable(run, "decision", Decision)
        await ask.start(run, who, expense, decision.token)
        decided = await decision.wait(timeout=patience)
        if decided is aiki.TIMEOUT:
            continue  # a decision by this token comes too late from now on
        if decided.approved:
            await pay.start(run, expense)
        return f"{'approved' if decided.approved else 'refused'} by {decided.by}"
    return "nobody has decided"


async def main() -> None:
    """Ask two, of whom the first one is on holiday."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(expenses)
        async with worker:
            handle = await expense_v1.start(
                client, Expense("a teapot", 19.5), ["Ada", "Bob"], timedelta(seconds=1.5)
            )
            await INBOX.get()  # Ada's: nobody reads it
            who, token = await INBOX.get()
            await aiki.resolve(client, token, Decision(approved=True, by=who))
            print("Expense:", await handle.wait_for_completion())


if __name__ == "__main__":
    asyncio.run(main())
