"""Orders are processed, a worker is killed in the middle of one, and nothing is lost.

`make demo`, or `python -m examples.demo`: it starts a supervisor of its own, on a store of its
own in a temporary directory, and leaves neither behind. It ends with 0 if all went as it should.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

import aiki
from aiki import Handle
from examples.demo_orders import LEDGER, STEP, order_workflow_v1
from examples.order_processing import Item, Order, Receipt

ROOT = Path(__file__).resolve().parent.parent
MODULE = "examples.demo_orders"
LOG = Path("log")  # of the supervisor
STEPS = ("validate-order", "process-payment", "update-inventory", "send-confirmation")
ORDERS = (
    Order([Item("teapot", 1), Item("cup", 4)], 99.99, "ada@example.com"),
    Order([Item("kettle", 1)], 45.50, "grace@example.com"),
    Order([Item("spoon", 12)], 18.00, "edsger@example.com"),
)
VICTIM = 1  # whose worker is killed: the second order

LIMIT = 60.0  # seconds for everything; it takes about five
GOODBYE = 15.0  # for a supervisor to drain
LINGER = 5.0  # for a process to notice that its parent has ended
# A step that ended so shortly before the kill may not be recorded yet.
COMMIT = 0.1


class WentWrongError(Exception):
    """The demo cannot show what it should; the message says why."""


@dataclass(frozen=True)
class Execution:
    """One execution of a step, as the ledger tells it; times are those of the demo's clock."""

    run_id: str
    step: str
    pid: int
    seen: float


def say(text: str = "", *, bold: bool = False, colour: str | None = None) -> None:
    """Print a line at once, coloured where that is wanted."""
    styled = click.style(text, bold=bold, fg=colour)
    click.echo(styled, color=False if os.environ.get("NO_COLOR") else None)


class Story:
    """Reads what the steps and the supervisor write, tells it live, and remembers it."""

    def __init__(self, directory: Path, names: dict[str, str]) -> None:
        self._names = names
        self._zero = time.monotonic()
        self._files = {directory / name: 0 for name in (LOG, LEDGER)}
        self._workers: dict[int, str] = {}
        self.begun: list[Execution] = []
        self.ended: list[Execution] = []
        self.interrupted: set[tuple[str, str]] = set()
        """The steps, by run and name, that were not recorded when the worker was killed."""

    def tell(self, text: str, colour: str | None = None) -> None:
        """Print a line with the time."""
        say(f"  {time.monotonic() - self._zero:4.1f} s  {text}", colour=colour)

    def look(self) -> None:
        """Read what is new."""
        for path, position in self._files.items():
            if path.exists():
                new = path.read_bytes()[position:].rpartition(b"\n")[0]
                self._files[path] += len(new) + bool(new)
                for line in new.decode(errors="replace").splitlines():
                    (self._hear_step if path.name == LEDGER.name else self._hear_supervisor)(line)

    @asynccontextmanager
    async def told_live(self) -> AsyncGenerator[None]:
        """Keep looking in the background."""

        async def keep_looking() -> None:
            while True:
                self.look()
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(keep_looking())
        try:
            yield
        finally:
            looking.cancel()
        self.look()

    async def beginning(self, run_id: str, step: str) -> Execution:
        """Wait until a step is executed."""
        while True:
            for execution in self.begun:
                if (execution.run_id, execution.step) == (run_id, step):
                    return execution
            await asyncio.sleep(0.01)

    def unrecorded(self, pid: int) -> set[tuple[str, str]]:
        """Name the steps that a process has begun and whose end cannot be in the store yet."""
        recorded = time.monotonic() - COMMIT
        ended = {(each.run_id, each.step) for each in self.ended if each.seen < recorded}
        return {(each.run_id, each.step) for each in self.begun if each.pid == pid} - ended

    def _hear_step(self, line: str) -> None:
        run_id, step, what, pid = line.split()
        execution = Execution(run_id, step, int(pid), time.monotonic())
        if what == "ends":
            self.ended.append(execution)
            return
        self.begun.append(execution)
        is_again = (run_id, step) in self.interrupted
        self.tell(
            f"{self._names[run_id]}  {step:<17}  worker {self._workers.get(int(pid), f'pid {pid}')}"
            + ("  again, since it had not ended" if is_again else ""),
            colour="yellow" if is_again else None,
        )

    def _hear_supervisor(self, line: str) -> None:
        said = re.search(r" aiki\.supervisor\.\w+: (.*)", line)
        if said is None:
            return
        ready = re.fullmatch(r"worker (\S+) \(pid (\d+)\) is ready", said[1])
        if ready is not None:
            self._workers[int(ready[2])] = ready[1]
        if self.interrupted:
            self.tell(f"supervisor: {said[1]}", colour="cyan")


@contextmanager
def supervised(directory: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a supervisor in a directory, and let no process of it outlive this block."""
    command = [sys.executable, "-m", "aiki.supervisor", MODULE, "--workers", "2"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
    environ["PYTHONPATH"] = str(ROOT)
    say("$ python " + " ".join(command[1:]), bold=True)
    with (directory / LOG).open("wb") as log:
        # In a session of its own: Ctrl-C is for the demo, which then ends it in good order.
        process = subprocess.Popen(  # noqa: S603  (our own command)
            command,
            cwd=directory,
            env=environ,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.terminate()
            process.wait(GOODBYE)
        for left in left_behind(directory):
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()


def left_behind(directory: Path) -> list[psutil.Process]:
    """Find what runs in a directory: supervisor, workers and server all stand in it."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if not is_dead and Path(process.cwd()).is_relative_to(directory):
                found.append(process)
    return found


async def announcement(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Wait for the line with which a supervisor says that it serves."""
    while True:
        has_ended = process.poll() is not None
        log = (directory / LOG).read_text(errors="replace")
        for line in log.splitlines():
            if line.startswith("aiki serves "):
                return line
        if has_ended:
            raise WentWrongError(
                f"the supervisor ended with exit code {process.returncode}:\n{log}"
            )
        await asyncio.sleep(0.02)


async def kill_worker(story: Story, victim: Handle[Receipt], supervisor: int) -> None:
    """Kill the process that executes a run, in the middle of a step that is not the first."""
    for step in STEPS[1:]:
        execution = await story.beginning(victim.id, step)
        await asyncio.sleep(STEP / 2)
        story.look()
        in_progress = story.unrecorded(execution.pid)
        if any(each.step == step and each.run_id == victim.id for each in story.ended):
            continue  # this process was late, and the step is over; take the next one
        if psutil.Process(execution.pid).ppid() != supervisor:
            raise WentWrongError(f"process {execution.pid} is no worker of this supervisor")
        story.interrupted = in_progress
        story.tell(f"kill -9 {execution.pid}, in the middle of {step} of order 2", "red")
        os.kill(execution.pid, signal.SIGKILL)
        return
    raise WentWrongError("the order was processed before its worker could be killed")


async def process_orders(directory: Path, supervisor: int) -> None:
    """Start the orders, kill a worker, and show what has become of them."""
    async with aiki.client(data_dir=directory / ".aiki") as client:
        handles = [await order_workflow_v1.start(client, order) for order in ORDERS]
        names = {handle.id: f"order {number}" for number, handle in enumerate(handles, 1)}
        story = Story(directory, names)
        say()
        for handle in handles:
            story.tell(f"{names[handle.id]}  started as run {handle.id}")
        async with story.told_live():
            await kill_worker(story, handles[VICTIM], supervisor)
            receipts = await asyncio.gather(*(each.wait_for_completion() for each in handles))
        say("\nThe receipts", bold=True)
        for handle, receipt in zip(handles, receipts, strict=True):
            say(f"  {names[handle.id]}  {receipt.order_id[:14]}…  {receipt.payment_id[:12]}…")
        await show_journal(handles[VICTIM])
        count_executions(story, names, handles[VICTIM])


async def show_journal(handle: Handle[Receipt]) -> None:
    """Print what is recorded of a run."""
    say(f"\nWhat is recorded of order {VICTIM + 1}", bold=True)
    for step in await handle.journal():
        attempts = "1 attempt" if step.attempts == 1 else f"{step.attempts} attempts"
        say(f"  {step.task:<17}  {step.outcome}  {attempts}  worker {step.worker}")


def count_executions(story: Story, names: dict[str, str], victim: Handle[Receipt]) -> None:
    """Print how often each step was executed, and check that it is as often as it may be."""
    say("\nHow often each step was executed", bold=True)
    say(" " * 19 + "".join(f"{name:>10}" for name in names.values()))
    executed = [(execution.run_id, execution.step) for execution in story.begun]
    for step in STEPS:
        counts = [executed.count((run_id, step)) for run_id in names]
        say(f"  {step:<17}" + "".join(f"{count:>10}" for count in counts))
    twice = {one for one in executed if executed.count(one) > 1}
    expected = len(STEPS) * len(names) + len(twice)
    if len(executed) != expected or not twice <= story.interrupted:
        raise WentWrongError("a step that was recorded has been executed again")
    if victim.id not in {run_id for run_id, _ in twice}:
        raise WentWrongError("the step that was interrupted has not been executed again")
    say("\nWhat was recorded when the worker died was not executed again.", colour="green")


async def demo(directory: Path) -> None:
    """Show everything; raise where it is not as it should be."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    say("A supervisor with two workers, on a store of its own:")
    with supervised(directory) as process:
        async with asyncio.timeout(LIMIT):
            say(await announcement(process, directory))
            await process_orders(directory, process.pid)
        process.terminate()
        code = await asyncio.to_thread(process.wait, GOODBYE)
        # The helper process of multiprocessing ends after the one that it helps.
        _, left = await asyncio.to_thread(psutil.wait_procs, left_behind(directory), LINGER)
        if code != 0 or left:
            raise WentWrongError(f"the supervisor ended with {code} and left {left} behind")
    say("The supervisor has drained and ended, and left no process behind.", colour="green")


def main() -> int:
    """Run the demo and return its exit code."""
    # Resolved, since processes are found by where they stand.
    directory = Path(tempfile.mkdtemp(prefix="aiki-demo-")).resolve()
    try:
        asyncio.run(demo(directory))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("It was interrupted.", colour="red")
        return 130
    except TimeoutError:
        log = (directory / LOG).read_text(errors="replace")
        say(f"It took more than {LIMIT:g} s. The supervisor said:\n{log}", colour="red")
        return 1
    except (WentWrongError, aiki.AikiError, subprocess.TimeoutExpired) as error:
        say(f"It went wrong: {error}", colour="red")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
