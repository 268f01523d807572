"""How runs are shown: as tables for people, and as plain objects for JSON.

Values in, text out. The text is coloured; whoever prints it takes that away where it does not
belong. A width of None is that of a file or a pipe: nothing is cut or wrapped.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from aiki.description import RecordedStep, RunDescription, description, moment, why
from aiki.envelope import Sealed
from aiki.errors import DataError, Failure
from aiki.failures import failure_from_json
from aiki.records import RunSnapshot
from aiki.states import Status
from aiki.store.audit import Findings

_GAP = "  "
_INDENT = 13  # of what stands beside the longest name of a fact, `cancelled`
_NARROWEST = 12  # of a column that makes room for the others
_LINES = 24  # of one value: what would fill the screen is for --json

_COLOURS = {
    "scheduled": "yellow",
    "queued": "cyan",
    "running": "cyan",
    "awaiting_retry": "yellow",
    "retrying": "yellow",
    "paused": "yellow",
    "executing": "cyan",
    "stalled": "red",
    "failed": "red",
    "completed": "green",
    "cancelled": "magenta",
    "abandoned": "magenta",
}

# Each unit of time with the next smaller one, which is shown beside it.
_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def runs_table(runs: Sequence[RunDescription], *, now: datetime, width: int | None) -> str:
    """Show a line per run."""
    rows = [
        (
            run.id,
            f"{run.workflow} {run.version}",
            run.status.value,
            f"{duration(now - run.since)} ago",
        )
        for run in runs
    ]
    return "\n".join(_table(("RUN", "WORKFLOW", "STATUS", "SINCE"), rows, 1, width))


def run_details(
    run: RunSnapshot,
    steps: Sequence[RecordedStep],
    *,
    worker: str,
    now: datetime,
    width: int | None,
) -> str:
    """Show all that people want to know of a run; `worker` names its owner, if it has one."""
    facts = [
        ("workflow", _prose(f"{run.workflow} {run.version}", width)),
        ("child of", plain(run.parent)),
        ("fork of", plain(run.forked_from)),
        ("status", _status(run, now)),
        ("details", _prose(run.details, width)),
        ("worker", _prose(worker, width)),
        ("reason", _prose(why(run), width)),
        ("cancelled", _prose(run.cancel or "without a reason", width) if _cancelled(run) else ""),
        ("deaths", f"{run.deaths} workers ended while they executed it" if run.deaths else ""),
        ("started", _local(moment(run.created))),
        ("start by", "" if run.start_by is None else _local(moment(run.start_by))),
        ("finish by", "" if run.finish_by is None else _local(moment(run.finish_by))),
        ("tags", _prose(", ".join(run.tags), width)),
        ("memo", _value(_stored(run.memo), width) if run.memo != b"{}" else ""),
        ("took", duration(moment(run.since) - moment(run.created)) if run.status.is_final else ""),
        ("input", _value(_stored(run.input), width)),
        ("result", _value(_stored(run.result), width) if run.result is not None else ""),
    ]
    failure = _failure(run)
    if failure is not None:
        facts.append(("failure", _told(failure, width)))
    lines = [f"{click.style('Run', bold=True)} {run.id}", ""]
    for name, text in facts:
        if text:
            first, *rest = text.splitlines()
            lines.append(f"  {name:{_INDENT - 2}}{first}")
            lines += [f"{' ' * _INDENT}{line}".rstrip() for line in rest]
    lines += ["", *(_steps(steps, now, width) if steps else ["No step is recorded yet."])]
    return "\n".join(lines)


def run_object(run: RunDescription) -> dict[str, Any]:
    """Give what is listed of a run, for JSON."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in dataclasses.asdict(run).items()
    }


def counts_table(counts: Mapping[str, Mapping[Status, int]], *, width: int | None) -> str:
    """Show a line per workflow and status."""
    rows = [
        (workflow, status.value, str(number))
        for workflow, by_status in counts.items()
        for status, number in by_status.items()
    ]
    return "\n".join(_table(("WORKFLOW", "STATUS", "RUNS"), rows, 0, width))


def audit_report(findings: Findings) -> str:
    """Show what an audit has found, a line each, and how much it has looked at."""
    lines = [
        f"{plain(each.what)}  {plain(each.problem)}" + ("; mended" if each.is_mended else "")
        for each in findings.found
    ]
    left = findings.left
    told = f"{len(left)} {'thing is' if len(left) == 1 else 'things are'} wrong"
    if mendable := sum(each.can_be_mended for each in left):
        told += f"; --repair would mend {mendable}"
    if not left:
        told = "all is as it should be"
    looked_at = f"{findings.keys:,} keys, {findings.runs:,} of them runs, were looked at: {told}."
    return "\n".join([*lines, looked_at])


def audit_object(findings: Findings) -> dict[str, Any]:
    """Give what an audit has found, for JSON."""
    return {
        "keys": findings.keys,
        "runs": findings.runs,
        "findings": [dataclasses.asdict(each) for each in findings.found],
    }


def full_run_object(
    run: RunSnapshot, steps: Sequence[RecordedStep], *, worker: str
) -> dict[str, Any]:
    """Give everything there is to know of a run, for JSON."""
    failure = _failure(run)
    return run_object(description(run)) | {
        "worker": worker,
        "cancel_reason": run.cancel,
        "deaths": run.deaths,
        "quarantined": run.quarantined,
        "input": _stored(run.input),
        "result": _stored(run.result),
        "failure": None if failure is None else dataclasses.asdict(failure),
        "journal": [
            dataclasses.asdict(step)
            | {
                "result": _shown(step.result),
                "heartbeat": _shown(step.heartbeat),
                "started": step.started.isoformat(),
                "recorded": step.recorded.isoformat(),
                "due": None if step.due is None else step.due.isoformat(),
            }
            for step in steps
        ],
    }


def duration(span: timedelta) -> str:
    """Give a length of time in words, no more exact than people want it."""
    seconds = max(0.0, span.total_seconds())  # two clocks may differ
    for limit, text in ((1, f"{seconds * 1000:.0f} ms"), (10, f"{seconds:.1f} s")):
        if seconds < limit:
            return text
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in _UNITS:
        if whole >= size:
            count = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {count} {smaller_unit}" if count else "")
    return f"{whole} s"


def plain(text: str) -> str:
    """Make text harmless that others have written: a terminal obeys control characters."""
    return "".join(
        repr(character)[1:-1]
        if character not in "\n\t" and unicodedata.category(character) in {"Cc", "Cf", "Cs"}
        else character
        for character in text
    )


def _status(run: RunSnapshot, now: datetime) -> str:
    since = moment(run.since)
    word, span, at = _coloured(run.status.value), duration(now - since), _local(since)
    return f"{word} {span} ago ({at})" if run.status.is_final else f"{word} for {span} (since {at})"


def _steps(steps: Sequence[RecordedStep], now: datetime, width: int | None) -> list[str]:
    heads = ("STEP", "OUTCOME", "ATTEMPTS", "DURATION", "WORKER")
    rows = [
        (
            step.task,
            step.outcome,
            str(step.attempts or ""),
            duration(step.recorded - step.started) if step.attempts else "",
            step.worker,
        )
        for step in steps
    ]
    head, *lines = _table(heads, rows, 4, width)
    shown = [head]
    for step, line in zip(steps, lines, strict=True):
        shown.append(line)
        if step.failure is not None:
            said = plain(f"{step.failure.type}: {step.failure.message}").splitlines()[0]
            shown.append(_GAP + _cut(said, None if width is None else width - len(_GAP)))
        if step.due is not None:
            when = f"in {duration(step.due - now)}" if step.due > now else "now"
            what = "next attempt" if step.outcome == "retrying" else "due"
            shown.append(f"{_GAP}{what} {when}")
    return shown


def _table(
    heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], elastic: int, width: int | None
) -> list[str]:
    """Align columns; the one at `elastic` is cut where the lines would be too long."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    if width is not None:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        widths[elastic] = max(min(_NARROWEST, widths[elastic]), widths[elastic] - max(0, excess))

    def line(cells: Sequence[str], style: Callable[[str], str]) -> str:
        cut = [_cut(cell, size) for cell, size in zip(cells, widths, strict=True)]
        pairs = zip(cut, widths, strict=True)
        return _GAP.join(style(cell) + " " * (size - len(cell)) for cell, size in pairs).rstrip()

    return [line(heads, lambda cell: click.style(cell, bold=True))] + [
        line(row, _coloured) for row in rows
    ]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def _prose(text: str, width: int | None) -> str:
    lines = plain(text).splitlines()
    if width is not None:
        room = max(width - _INDENT, _NARROWEST)
        lines = [
            piece
            for line in lines
            for piece in textwrap.wrap(line, room, break_on_hyphens=False) or [""]
        ]
    return "\n".join(lines)


def _value(value: Any, width: int | None) -> str:
    if width is None:
        return plain(_compact(value))
    lines = plain(_laid_out(value, width - _INDENT)).splitlines()
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [f"… {len(lines) - _LINES + 1} more lines; --json shows them"]
    return "\n".join(lines)


def _laid_out(value: Any, room: int, before: int = 0) -> str:
    """Write JSON in as few lines as it takes to keep each within `room`, if it can be kept.

    `before` is how much stands before it on its first line.
    """
    text = _compact(value)
    match value:
        case _ if before + len(text) <= room:
            return text
        case {**fields}:
            parts = [(f"{_compact(name)}: ", part) for name, part in fields.items()]
        case [*items]:
            parts = [("", part) for part in items]
        case _:
            return text
    inner = [name + _laid_out(part, room - 3, len(name)) for name, part in parts]
    body = ",\n".join(inner).replace("\n", "\n  ")
    return f"{text[0]}\n  {body}\n{text[-1]}"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _told(failure: Failure, width: int | None) -> str:
    """Tell what happened and where: the innermost traceback is that of the user's code."""
    innermost = failure
    while innermost.cause is not None and innermost.cause.traceback:
        innermost = innermost.cause
    said = _prose(f"{failure.type}: {failure.message}", width)
    return f"{said}\n{plain(innermost.traceback)}".rstrip()


def _failure(run: RunSnapshot) -> Failure | None:
    if run.status is not Status.FAILED or run.failure is None:
        return None
    if sealed := Sealed.of(run.failure):
        return sealed.failure()
    try:
        return failure_from_json(run.failure)
    except DataError as error:
        return Failure("DataError", str(error), "")


def _cancelled(run: RunSnapshot) -> bool:
    return run.cancel is not None and run.status not in {Status.COMPLETED, Status.FAILED}


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Sealed) else value


def _stored(data: bytes | None) -> Any:
    if data is not None and (sealed := Sealed.of(data)):
        return str(sealed)
    try:
        return None if data is None else json.loads(data)
    except ValueError:  # damaged: this is where people look to see that
        return data.decode(errors="replace") if data else data


def _coloured(word: str) -> str:
    return click.style(word, fg=_COLOURS[word]) if word in _COLOURS else word


def _local(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")
