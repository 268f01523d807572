"""Draw how cost grows, where matplotlib is: `python -m …plot_growth growth.json growth.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

RATE, TIME = "#34699a", "#c0392b"


def main() -> None:
    """Draw a column for each thing that grows: throughput above, latency below."""
    source, target = map(Path, sys.argv[1:])
    points = json.loads(source.read_text())["points"]
    curves = list(dict.fromkeys(each["curve"] for each in points))
    figure, grid = plt.subplots(
        2, len(curves), figsize=(2.6 * len(curves), 4.6), squeeze=False, layout="constrained"
    )
    for column, curve in enumerate(curves):
        own = [each for each in points if each["curve"] == curve]
        sizes = [each["size"] for each in own]
        for axes, field, color in (
            (grid[0][column], "reference_rate", RATE),
            (grid[1][column], "reference_p50", TIME),
        ):
            axes.plot(sizes, [each[field] for each in own], marker="o", color=color)
            axes.set_xscale("symlog" if 0 in sizes else "log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            if sizes[-1] < 10 * sizes[0]:  # or hardly one power of ten would be named
                axes.set_xticks(sizes, [str(size) for size in sizes])
            if curve in ("steps per run", "bytes per payload"):
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        grid[0][column].set_title(curve, fontsize=9)
    grid[0][0].set_ylabel("runs/s, at reference speed", fontsize=8)
    grid[1][0].set_ylabel("one run alone: p50, ms", fontsize=8)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
