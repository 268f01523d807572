"""Versions: code changes while runs are under way.

Two ways are shown. A run stays with its version, so an old version and a new one stand side by
side until the runs of the old one are over. A small change within a version stands behind
`run.patched`, which tells runs that have passed that place before from those that have not.

In one process, with a worker of its own: `python -m examples.versioning`.
"""

import asyncio

import aiki
from aiki import Run, task, workflow

delivered = aiki.event("delivered")


@task
async def pack(order: str) -> str:
    """Put it into a box."""
    return f"a box with {order}"


@task
async def wrap(order: str) -> str:
    """Put it into paper, since version 2.0.0."""
    return f"a gift with {order}"


@task
async def ask_for_review(order: str) -> None:
    """Ask how it was; this was added to version 1.0.0 while runs of it were under way."""
    print(f"  how was {order}?")


shipping = workflow("shipping")


@shipping.v("1.0.0")
async def shipping_v1(run: Run, order: str) -> str:
    """Pack, wait, and, which was added later, ask."""
    parcel = await pack.start(run, order)
    await delivered.wait(run)
    if run.patched("ask for a review"):
        await ask_for_review.start(run, order)
    return f"{parcel}, by version 1"


@shipping.v("2.0.0")
async def shipping_v2(run: Run, order: str) -> str:
    """Wrap instead of packing: too much is different for a patch."""
    parcel = await wrap.start(run, order)
    await delivered.wait(run)
    await ask_for_review.start(run, order)
    return f"{parcel}, by version 2"


async def main() -> None:
    """Have runs of both versions side by side."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(shipping)  # serves all of its versions
        async with worker:
            old = await shipping_v1.start(client, "a cup")
            new = await shipping_v2.start(client, "a teapot")
            for handle in (old, new):
                await delivered.send(handle, None)
                print("Shipped:", await handle.wait_for_completion())


if __name__ == "__main__":
    asyncio.run(main())
