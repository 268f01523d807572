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


def test_reminders_are_sent_by_schedule(directory: Path) -> None:
    code, output = run(directory, "-m", "examples.reminder_by_cron")
    assert code == 0, output
    lines = output.splitlines()
    assert re.match(r"Next stand-ups: \w{3} \d\d \w{3} 09:00 CES?T, ", lines[0])
    reminded = lines.count("Reminding you: stretch")
    assert reminded >= 1
    assert f"Paused after {reminded} reminders: that is enough" in lines
    assert lines.count("Reminding the team: stand-up in ten minutes") == 1 + 5
    assert lines[-1] == "Filled in for 5 mornings"


def test_a_saga_cancels_what_was_booked_the_last_first(directory: Path) -> None:
    code, output = run(directory, "-m", "examples.saga_with_compensation")
    assert code == 0, output
    told = [line for line in output.splitlines() if not line.startswith(("WARNING", "run "))]
    assert told[:3] == [
        "Booking a flight to Lisbon",
        "Booking a hotel in Lisbon",
        "Booked: flight-to-Lisbon, hotel-in-Lisbon",
    ]
    assert told[5:9] == [
        "Renting a car in Venice",
        "Cancelling the car in Venice",
        "Cancelling the hotel in Venice",
        "Cancelling the flight in Venice",
    ] or told[4:8] == [
        "Booking a hotel in Venice",
        "Renting a car in Venice",
        "Cancelling the car in Venice",
        "Cancelling the hotel in Venice",
    ]
    assert "There are no cars in Venice" in told[-1]


# What each says, in this order; between these it may say more.
SAYS = {
    "trial_with_payment_event": [
        r"to Ada: Thank you for \$9\.00\.",
        r"^Ada: subscribed by pay-17$",
        r"Bob's account is closed",
        r"^Bob: closed$",
    ],
    "approval_with_timeout": [
        r"to Ada: may we pay 19\.50 for a teapot\?",
        r"to Bob: may we pay 19\.50 for a teapot\?",
        r"paid 19\.50 for a teapot",
        r"^Expense: approved by Bob$",
    ],
    "fan_out_and_gather": [
        r"Hamlet was left out",
        r"^Most frequent: \{'and': 10, 'the': 10, 'yes': 6\}$",
        r"COMPLETED.*6.*FAILED.*1",
    ],
    "long_pipeline": [
        r"extracted page 1, attempt 1",
        r"extracted page 2, attempt 2",
        r"loaded 900, attempt 1",
        r"loaded 961, attempt 2",
        r"^Rows: 12$",
    ],
    "versioning": [
        r"^Shipped: a box with a cup, by version 1$",
        r"how was a teapot\?",
        r"^Shipped: a gift with a teapot, by version 2$",
    ],
    "cancellation_cascade": [
        r"^Journey: the customer is ill$",
        *[r"^Booking: cancelled with its journey$"] * 3,
        r"^Report: report about Utrecht$",
    ],
}


@pytest.mark.parametrize("name", SAYS)
def test_an_example_ends_by_itself_and_says_what_it_shows(directory: Path, name: str) -> None:
    code, output = run(directory, "-m", f"examples.{name}")
    assert code == 0, output
    lines = iter(output.splitlines())
    for pattern in SAYS[name]:
        assert any(re.search(pattern, line) for line in lines), f"{pattern} is missing:\n{output}"


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
    assert max(counts[1]) == 2, "in the middle of which the worker was killed"
    assert max(map(max, counts)) == 2
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
    asyncio.run(eventually(lambda: list(directory.glob("aiki-demo-*/ledger")), 60, "a step"))
    demo.send_signal(number)
    output, _ = demo.communicate()
    assert demo.returncode == 130
    assert output.endswith("It was interrupted.\n")
    assert list(directory.iterdir()) == []
