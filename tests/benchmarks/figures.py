"""What was measured, beside its bar: as a table for people, and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.benchmarks.speed import REFERENCE


class Scale(Enum):
    """What the speed of the machine does to a figure."""

    RATE = auto()
    """Twice the speed gives twice the figure."""
    TIME = auto()
    """Twice the speed gives half the figure."""
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach, or to stay under."""

    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {shown(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: a value per round. The median is held against the bar."""

    name: str
    unit: str
    values: Sequence[float]
    scale: Scale = Scale.NONE
    loops: Sequence[float] = ()
    """Seconds that the fixed loop took, beside each value."""
    bar: Bar | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def at_reference_speed(self) -> list[float]:
        """Give the values as they would be where the loop takes its reference time."""
        if self.scale is Scale.NONE:
            return []
        slowness = [loop / REFERENCE for loop in self.loops]
        pairs = zip(self.values, slowness, strict=True)
        if self.scale is Scale.RATE:
            return [value * slow for value, slow in pairs]
        return [value / slow for value, slow in pairs]

    def is_met(self) -> bool | None:
        """Tell whether the bar is met; None where there is none."""
        return None if self.bar is None else self.bar.is_met(self.median)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "unit": self.unit,
            "values": list(self.values),
            "median": self.median,
            "at_reference_speed": self.at_reference_speed(),
            "loop_seconds": list(self.loops),
            "bar": None if self.bar is None else str(self.bar),
            "met": self.is_met(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What one measurement found."""

    figures: list[Figure]
    details: dict[str, object] = field(default_factory=dict[str, object])
    """What does not fit into a table; JSON."""
    remarks: list[str] = field(default_factory=list[str])
    """Lines to be printed above the table."""


def shown(value: float) -> str:
    """Write a number with three digits that count, and no more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


_HEAD = ("measurement", "unit", "min", "median", "max", "bar", "met", "at reference speed")


def table(figures: Sequence[Figure]) -> str:
    """Lay the figures out in columns; the text is Markdown as well."""
    rows = [_HEAD, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    values, relative, met = figure.values, figure.at_reference_speed(), figure.is_met()
    return (
        figure.name,
        figure.unit,
        shown(min(values)) if len(values) > 1 else "",
        shown(figure.median),
        shown(max(values)) if len(values) > 1 else "",
        "" if figure.bar is None else str(figure.bar),
        "" if met is None else "yes" if met else "NO",
        shown(statistics.median(relative)) if relative else "",
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
