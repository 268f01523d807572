"""A saga: a trip is booked piece by piece, and what was booked is cancelled where one piece fails.

Under a supervisor: `python -m aiki.supervisor examples.saga_with_compensation`.
In one process, with a client and a worker of its own: `python -m examples.saga_with_compensation`.
"""

import asyncio
from dataclasses import dataclass

import aiki
from aiki import Run, exponential, task, workflow


@dataclass(frozen=True)
class Trip:
    """What a customer wants."""

    city: str
    with_car: bool


@task
async def book_flight(city: str) -> str:
    """Book a flight; a real airline gets `aiki.current_step().key`, and books once."""
    print(f"Booking a flight to {city}")
    return f"flight-to-{city}"


@task
async def book_hotel(city: str) -> str:
    """Book a hotel."""
    print(f"Booking a hotel in {city}")
    return f"hotel-in-{city}"


@task
async def rent_car(city: str) -> str:
    """Rent a car, where there is any."""
    print(f"Renting a car in {city}")
    raise LookupError(f"There are no cars in {city}")


@task(retry=exponential(max_attempts=5, base_delay=0.1))
async def cancel(what: str, city: str) -> None:
    """Cancel a booking, if there is one: it may have failed, or never have been made."""
    print(f"Cancelling the {what} in {city}")


trips = workflow("trips")


@trips.v("1.0.0")
async def trips_v1(run: Run, trip: Trip) -> list[str]:
    """Book a trip; what cancels each booking is registered before the booking is made."""
    run.compensate(cancel, "flight", trip.city)
    booked = [await book_flight.start(run, trip.city)]
    run.compensate(cancel, "hotel", trip.city)
    booked.append(await book_hotel.start(run, trip.city))
    if trip.with_car:
        run.compensate(cancel, "car", trip.city)
        booked.append(await rent_car.start(run, trip.city))
    return booked


async def main() -> None:
    """Book a trip that works out and one that does not."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(trips)
        async with worker:
            lisbon = await trips_v1.start(client, Trip("Lisbon", with_car=False))
            print("Booked:", ", ".join(await lisbon.wait_for_completion()))

            venice = await trips_v1.start(client, Trip("Venice", with_car=True))
            try:
                await venice.wait_for_completion()
            except aiki.RunFailed as failed:
                print("Not booked:", failed.failure.message)


if __name__ == "__main__":
    asyncio.run(main())
