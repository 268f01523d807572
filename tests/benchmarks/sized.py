"""What is executed when it is measured how cost grows: steps, payloads and workflows by number."""

from __future__ import annotations

import os

from aiki import Run, task, workflow

VARIABLE = "WORKFLOWS"


@task
async def hand_on(number: int, payload: str) -> str:
    """Return what is given; the number tells the steps of a run apart."""
    return payload if number >= 0 else ""


sized = workflow("sized")


@sized.v("1.0.0")
async def sized_v1(run: Run, steps: int, payload: str) -> int:
    """Take so many steps, each of which is given a payload and returns it."""
    for number in range(steps):
        payload = await hand_on.start(run, number, payload)
    return len(payload)


async def idle(_run: Run, number: int) -> int:
    """Do nothing; there may be many workflows of it."""
    return number


others = [
    workflow(f"other-{number}").v("1.0.0")(idle)
    for number in range(int(os.environ.get(VARIABLE, "1")) - 1)
]
