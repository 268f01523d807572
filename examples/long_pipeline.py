"""A long pipeline: extract, transform, load, page by page, with a pause in between.

It would run for hours. Each page is a step whose result is recorded, so a worker that dies in the
middle costs one page and not the hours before; and the pauses occupy no worker. Within a page, a
heartbeat says how far loading is: the next attempt goes on from there.

In one process, with a worker of its own: `python -m examples.long_pipeline`.
"""

import asyncio
from datetime import timedelta

import aiki
from aiki import Run, exponential, task, workflow

PAGES = 4
TIRED_AT = 2
FULL_AT = 3


@task(retry=exponential(max_attempts=5, base_delay=0.2), timeout=30)
async def extract(page: int) -> list[int]:
    """Fetch a page; the source is tired at times, and is asked again."""
    step = aiki.current_step()
    if page == TIRED_AT and step.attempt == 1:
        raise ConnectionError("the source is tired")
    print(f"  extracted page {page}, attempt {step.attempt}")
    return list(range(page * 10, page * 10 + 3))


@task
def transform(rows: list[int]) -> list[int]:
    """Work on the rows, in a thread, since this is no async def."""
    return [row * row for row in rows]


@task(retry=exponential(max_attempts=5, base_delay=0.2), heartbeat_timeout=10)
async def load(page: int, rows: list[int]) -> int:
    """Store row after row; an attempt that fails leaves the rest to the next one."""
    step = aiki.current_step()
    done = step.heartbeat_details or 0
    for row in rows[done:]:
        if page == FULL_AT and done == 1 and step.attempt == 1:
            raise OSError("the disk is full")
        print(f"  loaded {row}, attempt {step.attempt}")
        done += 1
        step.heartbeat(done)
    return len(rows)


pipelines = workflow("pipelines")


@pipelines.v("1.0.0")
async def pipeline_v1(run: Run, pages: int, pause: timedelta) -> int:
    """Take page by page through the pipeline, and give the number of rows."""
    loaded = 0
    for page in range(pages):
        rows = await transform.start(run, await extract.start(run, page))
        loaded += await load.start(run, page, rows)
        await run.set_details(f"{page + 1} of {pages} pages")
        await run.sleep("be gentle with the source", pause)
    return loaded


async def main() -> None:
    """Run the pipeline, and look at it while it sleeps."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(pipelines)
        async with worker:
            handle = await pipeline_v1.start(client, PAGES, timedelta(seconds=1.1))
            await asyncio.sleep(1.5)
            described = await handle.describe()
            print(f"Now it is {described.status}, at {described.details}.")
            print("Rows:", await handle.wait_for_completion())


if __name__ == "__main__":
    asyncio.run(main())
