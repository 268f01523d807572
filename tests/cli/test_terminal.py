"""The command in a terminal: help, colours, widths, Ctrl-C."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import aiki
from aiki.cli import Exit
from tests.cli.till import RUN_ID, invoke, reach, start, total

AIKI = (sys.executable, "-m", "aiki.cli")


async def in_a_terminal(place: Path, *arguments: str, **env: str) -> str:
    """Return what the command writes into a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"COLUMNS": "80", "TERM": "xterm"} | env
    process = await asyncio.create_subprocess_exec(
        *AIKI, *arguments, cwd=place, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    assert await process.wait() == Exit.DONE
    output = os.read(ours, 65536).decode()
    os.close(ours)
    return output.replace("\r\n", "\n")


@pytest.mark.parametrize("arguments", [(), ("start",), ("runs",), ("show",), ("audit",)])
async def test_help_tells_every_exit_code_within_80_columns(arguments: tuple[str, ...]) -> None:
    result = await invoke(*arguments, "--help")
    assert result.exit_code == Exit.DONE
    for code in Exit:
        assert re.search(rf"^  {code.value} +\S", result.stdout, re.MULTILINE)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("worker")
async def test_colours_are_for_terminals_that_want_them(client: aiki.Client, place: Path) -> None:
    run_id = await start("shop", *total(-1))
    await reach(client, run_id, aiki.Status.FAILED)
    for arguments in (("runs",), ("show", run_id)):
        assert "\x1b[31mfailed\x1b[0m" in await in_a_terminal(place, *arguments)
        assert "\x1b" not in await in_a_terminal(place, *arguments, NO_COLOR="1")
        assert "\x1b" not in await in_a_terminal(place, *arguments, TERM="dumb")
        assert "\x1b" not in (await invoke(*arguments)).stdout


@pytest.mark.usefixtures("client")
async def test_lines_are_as_wide_as_the_terminal_and_whole_in_a_file(place: Path) -> None:
    name = "a-long-name-" * 9
    value = {"numbers": list(range(30)), "text": "x" * 40}
    run_id = await start(f"{name}/1.0.0", "--input", json.dumps(value))
    listed = await in_a_terminal(place, "runs", NO_COLOR="1")
    assert [len(line) for line in listed.splitlines()[1:]] == [80]
    shown = await in_a_terminal(place, "show", run_id, NO_COLOR="1")
    assert max(map(len, shown.splitlines())) <= 80
    assert "more lines; --json shows them" in shown
    assert name in (await invoke("runs")).stdout
    assert json.dumps(value) in (await invoke("show", run_id)).stdout


@pytest.mark.usefixtures("client")
async def test_ctrl_c_ends_the_waiting_and_not_the_run(place: Path, client: aiki.Client) -> None:
    process = await asyncio.create_subprocess_exec(
        *AIKI, "start", "shop/1.2.0", "--wait", *total(5.0), cwd=place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    run_id = RUN_ID.findall((await process.stderr.readline()).decode())[0]
    assert b"queued: waits for a worker" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, told = await process.communicate()
    assert process.returncode == Exit.INTERRUPTED
    assert told.decode() == f"the run goes on; look at it with: aiki show {run_id}\n"
    assert (await client.handle(run_id).status()).status is aiki.Status.QUEUED


async def test_input_that_is_no_text_is_refused_in_a_sentence(place: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *AIKI, "start", "shop/1.2.0", "--input", "-", cwd=place,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate(b'{"total": "\xff"}')
    assert process.returncode == Exit.USAGE
    assert told.startswith(b"Error: --input is not JSON: ")


@pytest.mark.usefixtures("client")
async def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    run_ids = [await start(f"shop/1.2.{number}") for number in range(20)]
    process = await asyncio.create_subprocess_shell(
        f"{' '.join(AIKI)} runs --json | head -c 10", cwd=place,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    shown, told = await process.communicate()
    assert (len(shown), told) == (10, b"")
    assert len(run_ids) == 20
