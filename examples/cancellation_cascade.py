"""A cancellation and its cascade: whoever cancels a journey cancels all that belongs to it.

A child ends with its parent, to any depth, unless it was started with another policy: the report
here is abandoned by its parent and goes on. Each run that is cancelled may clean up.

In one process, with a worker of its own: `python -m examples.cancellation_cascade`.
"""

import asyncio

import aiki
from aiki import Run, RunCancelled, task, workflow

confirmed = aiki.event("confirmed")


@task
async def reserve(what: str) -> None:
    """Reserve it."""
    print(f"  reserved {what}")


@task
async def give_back(what: str) -> None:
    """Give it back."""
    print(f"  gave back {what}")


@task
async def write_report(about: str) -> str:
    """Write down what has happened."""
    await asyncio.sleep(0.5)
    return f"report about {about}"


bookings = workflow("bookings")
journeys = workflow("journeys")
reports = workflow("reports")


@bookings.v("1.0.0")
async def booking_v1(run: Run, what: str) -> str:
    """Reserve something until it is confirmed; give it back if the run is cancelled."""
    await reserve.start(run, what)
    try:
        await confirmed.wait(run)
    except asyncio.CancelledError:
        await give_back.start(run, what)
        raise
    return what


@reports.v("1.0.0")
async def report_v1(run: Run, about: str) -> str:
    """Write a report."""
    return await write_report.start(run, about)


@journeys.v("1.0.0")
async def journey_v1(run: Run, to: str) -> list[str]:
    """Book all parts of a journey, each as a run of its own."""
    await report_v1.with_options(on_parent_close="abandon").start_as_child(run, to)
    parts = [f"a flight to {to}", f"a bed in {to}", f"a table in {to}"]
    return await run.map(booking_v1, parts)


async def main() -> None:
    """Cancel a journey once all of its parts are reserved."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        for each in (journeys, bookings, reports):
            worker.workflow_registry.add(each)
        async with worker:
            journey = await journey_v1.start(client, "Utrecht")
            parts = await until_reserved(client, 3)
            await journey.cancel("the customer is ill")
            try:
                await journey.wait_for_completion()
            except RunCancelled as cancelled:
                print("Journey:", cancelled.reason)
            for part in parts:
                try:
                    await client.handle(part).wait_for_completion()
                except RunCancelled:
                    print("Booking: cancelled with its journey")
            async for report in client.runs(workflow="reports"):
                print("Report:", await client.handle(report.id).wait_for_completion())


async def until_reserved(client: aiki.Client, count: int) -> list[str]:
    """Wait until so many bookings wait to be confirmed, and give their ids."""
    while True:
        waiting = client.runs(workflow="bookings", status=aiki.Status.AWAITING_EVENT)
        found = [run.id async for run in waiting]
        if len(found) == count:
            return found
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
