"""The examples as their readers run them: as modules, each in a process of its own."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from aiki.supervisor.exits import Exit
from tests.support.supervised import ROOT, Supervised
from tests.support.waiting import eventually

AIKI = ("-m", "aiki.cli")
DEMO = ("-m", "examples.demo")
# The demo with a part of it that fails, as `python -c` in front of its main function.
BROKEN = "import sys, examples.demo as demo; {}; sys.exit(demo.main())"


@pytest.fixture
def directory(tmp_path: Path) -> Generator[Path]:
    """Give a directory for everything, temporary files too, in which no process may be left."""
    yield tmp_path
    asyncio.run(Supervised(tmp_path).leaves_nothing())


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
    environ |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    process = start(directory, *arguments)
    output, _ = process.communicate()
    return process.returncode, output


def test_the_tutorial_processes_an_order_in_one_process(directory: Path) -> None:
    code, output = run(directory, "-m", "examples.order_processing")
    assert code == 0
    lines = output.splitlines()
    assert lines[0].startswith("Workflow started: 0-")
    assert re.match(r"Processing payment for order-.*: \$99\.99", lines[1])
    assert lines[2:4] == ["Updating inventory for item-1", "Updating inventory for item-2"]
    assert re.match(r"Sending confirmation to customer@example.com for order order-", lines[4])
    assert re.match(r"Order processed: Receipt\(success=True, order_id='order-", lines[5])


def test_the_agent_is_heard_asked_and_answered(directory: Path) -> None:
    code, output = run(directory, "-m", "examples.agent")
    assert code == 0, output
    for told in (
        "model: I need to know the weather.",
        "model (attempt 2): That sounds wet.",
        "so far: person, model, tool, model",
        "refused: 'nowhere' is not a city",
        "model (attempt 2): Then I look at Leiden.",
    ):
        assert told in output
    assert output.endswith("Done after 4 rounds: Go to Leiden: it is sunny there.\n")


async def test_a_supervisor_processes_the_orders_of_the_tutorial(directory: Path) -> None:
    order = {
        "items": [{"id": "item-1", "quantity": 2}],
        "total": 99.99,
        "email": "customer@example.com",
    }
    module = "examples.order_processing"
    with Supervised(directory, module, "--workers", "1") as found:
        await found.serves()
        assert "aiki serves order-processing 1.0.0: 1 worker of 200 slots" in found.output()
        sent = ("--input", json.dumps({"order": order}), "--wait")
        code, told = await asyncio.to_thread(
            run, directory, *AIKI, "start", "order-processing", *sent
        )
        assert code == 0, told
        receipt = json.loads(told[told.index("{") :])
        assert receipt["success"]
        assert f"Processing payment for {receipt['order_id']}: $99.99" in found.output()
        found.send(signal.SIGTERM)
        assert await found.ends() == Exit.ENDED


def test_the_demo_kills_a_worker_and_shows_that_nothing_is_lost(directory: Path) -> None:
    code, output = run(directory, *DEMO)
    assert code == 0, output
    told = output.splitlines()
    killed = next(n for n, line in enumerate(told) if " kill -9 " in line)
    took_over = next(n for n, line in enumerate(told) if "again, since it had not ended" in line)
    assert killed < took_over
    assert "was killed by SIGKILL" in output
    assert sum(line.startswith("  order ") and "pay-" in line for line in told) == 3
    table = told[told.index("How often each step was executed") + 2 :][:4]
    counts = [[int(count) for count in row.split()[1:]] for row in table]
    assert counts[0] == [1, 1, 1]
    assert [max(row) for row in counts].count(2) == 1
    assert sum(map(sum, counts)) <= 12 + 3
    assert told[-1].endswith("left no process behind.")
    assert list(directory.iterdir()) == []


def test_the_demo_says_why_when_its_supervisor_does_not_boot(directory: Path) -> None:
    code, output = run(directory, "-c", BROKEN.format("demo.MODULE = 'examples.nothing'"))
    assert code == 1
    assert "the supervisor ended with exit code 3" in output
    assert "No module named 'examples.nothing'" in output
    assert list(directory.iterdir()) == []


def test_the_demo_fails_when_a_recorded_step_is_executed_again(directory: Path) -> None:
    forgetful = "demo.Story.unrecorded = lambda self, pid: set()"
    code, output = run(directory, "-c", BROKEN.format(forgetful))
    assert code == 1
    assert "It went wrong: a step that was recorded has been executed again" in output


def test_the_demo_gives_up_when_it_takes_too_long(directory: Path) -> None:
    code, output = run(directory, "-c", BROKEN.format("demo.LIMIT = 0.1"))
    assert code == 1
    assert "It took more than 0.1 s. The supervisor said:" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_ends_its_supervisor_when_it_is_interrupted(
    directory: Path, number: signal.Signals
) -> None:
    demo = start(directory, *DEMO)
    asyncio.run(eventually(lambda: list(directory.glob("aiki-demo-*/ledger")), 30, "a step"))
    demo.send_signal(number)
    output, _ = demo.communicate()
    assert demo.returncode == 130
    assert output.endswith("It was interrupted.\n")
    assert list(directory.iterdir()) == []
