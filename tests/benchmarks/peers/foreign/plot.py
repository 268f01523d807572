"""Draw the figures, in an environment with matplotlib: `python -m …plot peers.json peers.png`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

OURS, DURABLE, QUEUE = "#c0392b", "#34699a", "#9aa5b1"


def main() -> None:
    """Draw bars: what is durable, and beside it the queues."""
    source, target = map(Path, sys.argv[1:])
    result = json.loads(source.read_text())
    rows = [each for each in result["rows"] if "rate" in each][::-1]
    figure, (rate, latency, recovery) = plt.subplots(
        1, 3, figsize=(13, 0.42 * len(rows) + 1.6), sharey=True, layout="constrained"
    )
    _bars(rate, rows, [each["steps"] for each in rows], "durable steps/s, or jobs/s")
    _bars(latency, rows, [each["p50"] for each in rows], "one run alone: p50, ms")
    found = [each["recovery"] for each in rows]
    _bars(
        recovery, rows,
        [None if each is None else each["seconds"] or each["patience"] for each in found],
        "killed worker to last run, s",
        [each is not None and each["seconds"] is None for each in found],
    )  # fmt: skip
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in (OURS, DURABLE, QUEUE)]
    names = ("aiki", "durable steps", "queue without durable steps")
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(target, dpi=110)


def _bars(
    axes: Axes,
    rows: list[dict[str, Any]],
    values: list[float | None],
    title: str,
    open_ended: Sequence[bool] = (),
) -> None:
    colors = [OURS if each["name"].startswith("aiki") else DURABLE if each["durable"] else QUEUE
              for each in rows]  # fmt: skip
    axes.barh([each["name"] for each in rows], [each or 0 for each in values], color=colors)
    axes.set_title(title, fontsize=10)
    known = [each for each in values if each] or [1.0]
    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(min(known) / 1.2)), max(known) * 5)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    for place, value in enumerate(values):
        if value:
            more = "> " if open_ended and open_ended[place] else ""
            axes.text(value, place, f" {more}{value:,.{0 if value >= 10 else 1}f}", va="center",
                      fontsize=8)  # fmt: skip


if __name__ == "__main__":
    main()
