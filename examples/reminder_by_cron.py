"""Reminders by schedule: every morning by cron, and every second, so that something is to be seen.

Under a supervisor: `python -m aiki.supervisor examples.reminder_by_cron`; then any client may
activate the schedules, and each deployment may do it again.
In one process, with a client and a worker of its own: `python -m examples.reminder_by_cron`.
"""

import asyncio
from datetime import datetime, timedelta

import aiki
from aiki import Run, task, workflow


@task
async def remind(whom: str, of: str) -> None:
    """Tell somebody; a real one would send a message."""
    print(f"Reminding {whom}: {of}")


reminder = workflow("reminder")


@reminder.v("1.0.0")
async def reminder_v1(run: Run, whom: str, of: str) -> None:
    """Remind somebody once; the schedule does the rest."""
    await remind.start(run, whom, of)


# On working days at nine on the clock, summer and winter. After an outage of up to two hours it is
# made up for; a longer one makes the reminder pointless.
every_morning = aiki.schedule(
    "stand-up",
    reminder_v1.bind("the team", of="stand-up in ten minutes"),
    cron="0 9 * * MON-FRI",
    timezone="Europe/Amsterdam",
    catch_up_window=timedelta(hours=2),
)
every_second = aiki.schedule(
    "stretch", reminder_v1.bind("you", of="stretch"), every=1, overlap="buffer_one"
)


def shown(times: list[datetime]) -> str:
    """Write the first two of some times as people do."""
    return ", ".join(f"{time:%a %d %b %H:%M %Z}" for time in times[:2])


async def main() -> None:
    """Activate both schedules, see some reminders, fill in for a week in the past, and leave."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(reminder)
        async with worker:  # it fires schedules, as a supervisor does
            morning = await every_morning.activate(client)
            print("Next stand-ups:", shown((await morning.describe()).next_times))

            stretch = await every_second.activate(client)
            await every_second.activate(client)  # again: changes nothing
            await asyncio.sleep(3.5)  # three of its times pass
            await stretch.pause("that is enough")
            status = await stretch.describe()
            for occurrence in status.recent:
                await client.handle(occurrence.run_id).wait_for_completion()
            print(f"Paused after {status.started} reminders: {status.note}")

            extra = await morning.trigger()
            await client.handle(extra.run_id).wait_for_completion()

            monday = datetime.fromisoformat("2025-03-24T00:00+01:00")
            week = await morning.backfill(monday, monday + timedelta(days=7), overlap="allow_all")
            for occurrence in week:
                await client.handle(occurrence.run_id).wait_for_completion()
            print("Filled in for", len(week), "mornings")

            for schedule in (morning, stretch):
                await schedule.delete()


if __name__ == "__main__":
    asyncio.run(main())
