"""Real supervisors that are reloaded, resized, asked for reports, and used from Python."""

import json
import re
import signal
from pathlib import Path

import psutil

from aiki.supervisor.exits import Exit
from tests.support.shop import SHOP, completes, gone, serving, started, whose
from tests.support.supervised import Supervised, start
from tests.support.waiting import eventually


async def test_a_reload_serves_new_code_without_losing_a_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a")
        old = {worker.pid for worker in found.workers()}
        found.write("shop", SHOP.replace('workflow("threaded")', 'workflow("renamed")'))
        found.send(signal.SIGHUP)
        found.release("a")
        renamed = await started(found, client, "b", "renamed")
        assert not old & set(whose(found, "start b"))
        await completes(found, renamed, "b")
        await completes(found, handle, "a")
        await eventually(lambda: not old & {w.pid for w in found.workers()}, 60.0, "the old ends")
        await found.has_workers(2)


async def test_a_reload_of_broken_code_leaves_the_old_workers_serving(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        old = {worker.pid for worker in found.workers()}
        found.write("shop", "import nowhere")
        found.send(signal.SIGHUP)
        await found.says("the reload failed; the old workers serve on")
        assert found.output().count("Traceback") == 1
        assert {worker.pid for worker in found.workers()} == old
        await completes(found, await started(found, client, "a"), "a")
        found.write("shop", SHOP)
        found.send(signal.SIGHUP)
        await eventually(lambda: not old & {w.pid for w in found.workers()}, 60.0, "the new ones")


async def test_signals_add_and_take_away_a_worker(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        found.send(signal.SIGTTIN)
        await found.has_workers(3)
        await found.says(r"-3 \(pid \d+\) is ready")
        found.send(signal.SIGTTOU)
        await found.has_workers(2)
        found.send(signal.SIGTTOU)
        await found.has_workers(1)
        found.send(signal.SIGTTOU)
        await found.says("the last worker stays")
        await completes(found, await started(found, client, "a"), "a")


async def test_reloads_leave_no_descriptor_and_no_process_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, _):
        supervisor = psutil.Process(found.pid)

        def count() -> tuple[int, int]:
            return supervisor.num_fds(), len(supervisor.children())

        before = count()
        for _ in range(3):
            old = found.workers()
            found.send(signal.SIGHUP)
            await gone(old)
            await found.has_workers(2)
        await eventually(lambda: count() == before, what="as many as before")


async def test_a_report_tells_workers_runs_what_they_wait_for_and_stacks(tmp_path: Path) -> None:
    async with serving(tmp_path) as (found, client):
        handle = await started(found, client, "a", "threaded")
        found.send(signal.SIGUSR1)
        await found.says(r"(?s)report: 2 of 2 workers serve.*in gated_in_thread")
        report = found.output().partition("report: ")[2]
        assert report.count("of 200 slots in use") == 2
        assert f"run {handle.id} (threaded 1.0.0): gated-in-thread" in report
        assert "in gated_in_thread" in report
        assert len(re.findall(r"Current thread|Thread 0x", report)) > 2


async def test_logs_as_json_are_one_object_a_line(tmp_path: Path) -> None:
    async with serving(tmp_path, "--log-format", "json") as (found, client):
        await completes(found, await started(found, client, "a"), "a")
        lines = [line for line in found.output().splitlines() if not line.startswith("aiki serves")]
        assert all(json.loads(line)["message"] for line in lines)


SCRIPT = (
    SHOP
    + """
from aiki.supervisor import Supervisor

def suffixed(suffix):
    inner = workflow("inner")

    @inner.v("1.0.0")
    async def inner_v1(run: Run, name: str) -> str:
        return await quick.start(run, name + suffix)

    return inner

if __name__ == "__main__":
    Supervisor(workflows=[shop, suffixed("!")], workers=2).run()
    print("and on it goes")
"""
)


async def test_a_script_serves_workflows_of_its_main_module_and_of_closures(tmp_path: Path) -> None:
    found = Supervised(tmp_path, command=("script.py",))
    found.write("script", SCRIPT)
    with found:
        await found.serves()
        async with found.client() as client:
            inner = await start(client, "inner", name="hello")
            assert await inner.wait_for_completion(timeout=60) == "hello!"
            await completes(found, await started(found, client, "a"), "a")
        found.send(signal.SIGTERM)
        assert await found.ends() == 0
        assert "and on it goes" in found.output()


async def test_a_script_without_a_guard_gets_one_clear_error(tmp_path: Path) -> None:
    found = Supervised(tmp_path, command=("script.py",))
    found.write("script", SCRIPT.replace('if __name__ == "__main__":', "if True:"))
    with found:
        assert await found.ends() == Exit.BOOT
        assert found.output().count('if __name__ == "__main__":') == 1
        assert "Traceback" not in found.output()
        await found.leaves_nothing()


async def test_a_closure_that_cannot_be_sent_is_refused_with_what_it_captured(
    tmp_path: Path,
) -> None:
    found = Supervised(tmp_path, command=("script.py",))
    found.write(
        "script",
        SCRIPT.replace("name + suffix", "name + str(lock)").replace(
            "def suffixed(suffix):",
            "import threading\nlock = threading.Lock()\ndef suffixed(suffix):",
        ),
    )
    with found:
        assert await found.ends() == 1
        assert "DefinitionError: workflow inner 1.0.0" in found.output()
        assert "inner_v1 captures lock, a _thread.lock" in found.output()
