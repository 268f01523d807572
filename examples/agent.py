"""An agent: a model thinks aloud, calls tools, and is steered by a person while it goes on.

Under a supervisor: `python -m aiki.supervisor examples.agent`.
In one process, with a client and a worker of its own: `python -m examples.agent`.

The model is a toy that needs no network. What is durable is the loop: an answer of the model that
is recorded is not paid for twice, and words are streamed while it speaks.
"""

import asyncio
from dataclasses import dataclass, field

import aiki
from aiki import Run, exponential, task, workflow


@dataclass(frozen=True)
class Turn:
    """What one of the participants has said."""

    who: str
    text: str


@dataclass(frozen=True)
class Reply:
    """What a model answers: words, and perhaps a tool to be called."""

    text: str
    tool: str | None = None
    argument: str = ""


@dataclass
class Conversation:
    """What can be seen and changed of a run."""

    turns: list[Turn] = field(default_factory=list[Turn])
    hint: str = ""


words = aiki.topic("words", str)
questions = aiki.topic("questions", str)


@task(retry=exponential(max_attempts=5, base_delay=0.2))
async def think(turns: list[Turn]) -> Reply:
    """Ask the model, and pass its words on as they come."""
    step = aiki.current_step()
    known = [turn for turn in turns if turn.who == "tool"]
    hints = [turn.text for turn in turns if turn.who == "person"][1:]
    if not known:
        reply = Reply("I need to know the weather.", "weather", "Delft")
    elif not hints:
        reply = Reply("That sounds wet. Shall I look elsewhere?", "ask")
    elif len(known) == 1:
        reply = Reply(f"Then I look at {hints[-1]}.", "weather", hints[-1])
    else:
        reply = Reply(f"Go to {hints[-1]}: it is {known[-1].text} there.")
    for word in reply.text.split():
        step.publish(words, word)
        await asyncio.sleep(0.01)  # a model takes its time
    if len(known) == 1 and step.attempt == 1:
        raise ConnectionError("the model went away in the middle")
    return reply


@task
def weather(city: str) -> str:
    """Look up the weather; a tool like any other."""
    return {"Delft": "raining", "Leiden": "sunny"}.get(city, "unknown")


agents = workflow("agent")


@agents.v("1.0.0")
async def agent(run: Run, wish: str) -> str:
    """Think and call tools in turn, until the model has nothing left to ask."""
    talk = run.state(Conversation)
    talk.turns.append(Turn("person", wish))
    for number in range(10):
        run.progress(number)
        reply = await think.start(run, talk.turns)
        talk.turns.append(Turn("model", reply.text))
        if reply.tool is None:
            return reply.text
        if reply.tool == "weather":
            talk.turns.append(Turn("tool", await weather.start(run, reply.argument)))
            continue
        run.publish(questions, reply.text)
        if not await run.until("a hint", lambda: talk.hint, timeout=3600):
            return "Nobody answers."
        talk.turns.append(Turn("person", talk.hint))
        talk.hint = ""
    return "I give up."


@agent.query
def transcript(talk: Conversation) -> list[Turn]:
    """Tell what was said so far."""
    return talk.turns


@agent.update
async def suggest(_: Run, talk: Conversation, city: str) -> int:
    """Answer the model's question."""
    talk.hint = city
    return len(talk.turns)


@suggest.validator
def check_city(_: Conversation, city: str) -> None:
    """Let nothing through that is no city."""
    if not city.istitle():
        raise ValueError(f"{city!r} is not a city")


async def listen(handle: aiki.Handle[str]) -> None:
    """Print the model's words as they come, and begin a line where it begins anew."""
    async for chunk in handle.stream(words):
        if chunk.number == 0:
            again = f" (attempt {chunk.attempt})" if chunk.attempt > 1 else ""
            print(f"\nmodel{again}:", end="")
        print(f" {chunk.data}", end="", flush=True)
    print()


async def main() -> None:
    """Start a worker and a run, listen to it, and answer its question."""
    async with aiki.client() as client:
        worker = aiki.worker(client)
        worker.workflow_registry.add(agents)
        async with worker:
            handle = await agent.start(client, "Where shall I go?")
            listening = asyncio.create_task(listen(handle))
            async for _ in handle.stream(questions):
                said = [turn.who for turn in await transcript.ask(handle)]
                print(f"\nso far: {', '.join(said)}", end="")
                try:
                    await suggest.ask(handle, "nowhere")
                except aiki.Rejected as refused:
                    print(f"\nrefused: {refused}", end="")
                await suggest.ask(handle, "Leiden")
            result = await handle.wait_for_completion()
            await listening
            progress = await handle.progress()
            assert progress is not None
            print(f"Done after {progress.done + 1:g} rounds: {result}")


if __name__ == "__main__":
    asyncio.run(main())
