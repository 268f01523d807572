"""What every test gets: a seed that is told when it fails, and hypothesis on shared machines."""

import os
import random
import signal

import hypothesis
import pytest

pytest_plugins = ["tests.support.topology", "tests.support.app", "tests.support.store"]

# What decides whether a change may be merged draws the same random numbers each time, so that it
# judges the change. `make faults` and `make soak` look for what other numbers find.
SEED = "AIKI_TEST_SEED"
ANY = "any"


def pytest_configure() -> None:
    """Choose the seed once; the processes of xdist inherit it."""
    if os.environ.setdefault(SEED, "1") == ANY:
        os.environ[SEED] = str(random.SystemRandom().randrange(2**32))
    hypothesis.settings.register_profile(
        "aiki",
        derandomize=os.environ[SEED] == "1",
        # No deadline, and no opinion on how fast data is drawn: the machines that run this are
        # shared, and the watchdog ends what hangs.
        deadline=None,
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("aiki")
    # A shell that starts us in the background has it ignored, which every child would inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"seed: {SEED}={os.environ[SEED]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to repeat a failure, also where -q has hidden the header."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"The same random numbers again: {SEED}={os.environ[SEED]}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed and the test's name alone, whatever ran before."""
    return random.Random(f"{os.environ[SEED]}:{request.node.nodeid}")
