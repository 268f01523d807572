"""A trial: an account is used for a while for free, and is closed unless its customer pays.

The run waits for the payment for as long as the trial lasts. It occupies no worker meanwhile, and
what ends it is either the event or its time-out, never both.

In one process, with a worker of its own: `python -m examples.trial_with_payment_event`.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import aiki
from aiki import Run, task, workflow


@dataclass(frozen=True)
class Payment:
    """What the payment provider tells, through whatever receives its calls."""

    reference: str
    amount: float


paid = aiki.event("paid", Payment)


@task
async def send_mail(customer: str, text: str) -> None:
    """Tell the customer."""
    print(f"  to {customer}: {text}")


@task
async def close_account(customer: str) -> None:
    """Close what was not paid for."""
    print(f"  {customer}'s account is closed")


trials = workflow("trials")


@trials.v("1.0.0")
async def trial_v1(run: Run, customer: str, lasts: timedelta) -> str:
    """Turn a trial into a subscription, or end it."""
    await send_mail.start(run, customer, f"Welcome! Your trial lasts {lasts}.")
    payment = await paid.wait(run, timeout=lasts)
    if payment is aiki.TIMEOUT:
        await close_account.start(run, customer)
        return "closed"
    await send_mail.start(run, customer, f"Thank you for ${payment.amount:.2f}.")
    return f"subscribed by {payment.reference}"


async def main() -> None:
    """Let one customer pay, and another one not."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(trials)
        async with worker:
            ada = await trial_v1.start(client, "Ada", timedelta(days=30))
            bob = await trial_v1.start(client, "Bob", timedelta(seconds=1.5))

            # Sent twice, with one key: the run gets it once.
            for _ in range(2):
                await paid.send(ada, Payment("pay-17", 9.0), idempotency_key="pay-17")

            print("Ada:", await ada.wait_for_completion())
            print("Bob:", await bob.wait_for_completion())


if __name__ == "__main__":
    asyncio.run(main())
