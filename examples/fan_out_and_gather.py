"""Fan-out and gather: count the words of many books, each in a run of its own.

`run.map` starts a child for each item, so many at a time, and gives their results in order. One
child that fails is one result among others here; without `on_error="return"` it would end the map.

In one process, with a worker of its own: `python -m examples.fan_out_and_gather`.
"""

import asyncio
from collections import Counter

import aiki
from aiki import AikiError, Run, task, workflow

SHELF = {
    "Alice": "the rabbit and the queen and the cat",
    "Moby-Dick": "the whale and the sea",
    "Ulysses": "yes and yes and yes",
}


@task
async def fetch(title: str) -> str:
    """Get the text of a book."""
    if title not in SHELF:
        raise LookupError(f"there is no {title} on the shelf")
    return SHELF[title]


@task
def count_words(text: str) -> dict[str, int]:
    """Count the words of a text."""
    return Counter(text.split())


books = workflow("books")
libraries = workflow("libraries")


@books.v("1.0.0")
async def book_v1(run: Run, title: str) -> dict[str, int]:
    """Count the words of one book."""
    return await count_words.start(run, await fetch.start(run, title))


@libraries.v("1.0.0")
async def library_v1(run: Run, titles: list[str]) -> dict[str, int]:
    """Count the words of all books, ten at a time, and give the three that are most frequent."""
    total: Counter[str] = Counter()
    counted = await run.map(book_v1, titles, max_parallel=10, on_error="return")
    for title, words in zip(titles, counted, strict=True):
        if isinstance(words, AikiError):
            run.logger.warning("%s was left out: %s", title, words)
        else:
            total.update(words)
    return dict(total.most_common(3))


async def main() -> None:
    """Count a library in which one book is missing."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(libraries)
        worker.workflow_registry.add(books)
        async with worker:
            handle = await library_v1.start(client, [*SHELF, "Hamlet", *SHELF])
            print("Most frequent:", await handle.wait_for_completion())

        print("Books counted:", (await client.count_runs())["books"])


if __name__ == "__main__":
    asyncio.run(main())
