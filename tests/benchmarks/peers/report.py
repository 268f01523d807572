"""What was found, as rows; and the page that shows them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.figures import percentile, shown
from tests.benchmarks.peers.catalogue import Entry
from tests.benchmarks.speed import REFERENCE

Found = Mapping[str, Any]


def row(entry: Entry, speed: Found | None, recovery: Found | None, why_not: str) -> dict[str, Any]:
    """Bring together what is known of one peer; all that a table or a plot needs."""
    made: dict[str, Any] = {
        "name": entry.name,
        "durable": entry.durable,
        "durability": entry.durability,
        "settings": entry.settings,
        "after_kill": entry.after_kill,
        "skipped": why_not,
        "recovery": recovery,
    }
    if speed is not None:
        rounds: Sequence[Found] = speed["rounds"]
        rates = [each["runs"] / each["seconds"] for each in rounds]
        alone: Sequence[float] = speed["alone"]
        made |= {
            "versions": speed["versions"],
            "runs": rounds[0]["runs"],
            "rates": rates,
            "rate": statistics.median(rates),
            "reference_rate": statistics.median(
                rate * each["loop"] / REFERENCE for rate, each in zip(rates, rounds, strict=True)
            ),
            "steps": entry.steps * statistics.median(rates),
            "p50": percentile(alone, 0.5),
            "p99": percentile(alone, 0.99),
            "reference_p50": percentile(alone, 0.5) * REFERENCE / speed["alone_loop"],
            "alone": len(alone),
            "cpu_ms": statistics.median(
                sum(each["cpu"].values()) / each["runs"] * 1e3 for each in rounds
            ),
            "mebibytes": speed["mebibytes"],
            "measured": speed,
        }
    return made


def page(rows: Sequence[Mapping[str, Any]], head: str) -> str:
    """Write the page: the figures, how soon work goes on after a kill, and the settings."""
    measured = [each for each in rows if "rate" in each]
    parts = [
        "# Beside the peers\n",
        "<!-- Written by `make bench-peers`; see docs/benchmarks.md. -->\n",
        head,
        "![throughput, latency and recovery](peers.png)\n",
        "## Speed and cost\n",
        _table(
            ("", "runs/s: min", "median", "max", "at reference speed", "steps or jobs/s",
             "p50 ms", "p99 ms", "runs alone", "CPU ms/run", "MiB: workers", "servers", "client"),
            [
                (each["name"], shown(min(each["rates"])), shown(each["rate"]),
                 shown(max(each["rates"])), shown(each["reference_rate"]), shown(each["steps"]),
                 shown(each["p50"]), shown(each["p99"]), str(each["alone"]),
                 shown(each["cpu_ms"]),
                 *(shown(each["mebibytes"][role]) for role in ("workers", "servers", "client")))
                for each in measured
            ],
        ),
        "## After a killed worker\n",
        _table(
            ("", "kill to last run", "runs that ended", "steps ended twice", "who goes on, when"),
            [_recovery_row(each) for each in rows if each["recovery"]],
        ),
        "## Versions and settings\n",
        _table(
            ("", "versions", "what survives a power cut", "settings (defaults in brackets)"),
            [(each["name"], each["versions"], each["durability"], each["settings"])
             for each in measured],
        ),
    ]  # fmt: skip
    skipped = [f"- {each['name']}: {each['skipped']}" for each in rows if each["skipped"]]
    if skipped:
        parts += ["## Not measured\n", "\n".join(skipped) + "\n"]
    return "\n".join(parts)


def _recovery_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    found = each["recovery"]
    took = found["seconds"]
    return (
        each["name"],
        f"> {shown(found['patience'])} s" if took is None else f"{shown(took)} s",
        f"{found['ended']} of {found['runs']}",
        str(found["executed_twice"]),
        each["after_kill"],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
