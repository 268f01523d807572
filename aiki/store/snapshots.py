"""Reading a run's record as a whole, for whoever looks at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiki.envelope import SEALED
from aiki.records import RunSnapshot
from aiki.states import WAITING, Status
from aiki.store.seals import END, INPUT, Seals

# As `snapshot` reads them
TEXTS = (
    "workflow", "version", "pool", "status", "created", "since", "epoch", "owner", "wake",
    "waits", "cancel", "reason", "deaths", "quarantine", "start_by", "finish_by", "tags", "memo",
    "details", "attempt", "generation", "forked_from", "cancel_at", "parent",
)  # fmt: skip
PAYLOADS = ("input", "result", "failure")


def snapshot(run_id: str, reply: list[Any]) -> RunSnapshot:
    """Read a record from the values of `TEXTS`, and of `PAYLOADS` where these were asked for."""
    # A damaged record is shown as far as it can be read: it must not hide the others in a list.
    text = [
        None if value is None else value.decode(errors="replace") for value in reply[: len(TEXTS)]
    ]
    workflow, version, pool, status, created, since, epoch, owner = text[:8]
    wake, waits, cancel, reason, deaths, quarantine = text[8:14]
    start_by, finish_by, tags, memo, details, attempt, generation = text[14:21]
    forked_from, cancel_at, parent = text[21:]
    payload, result, failure = reply[len(TEXTS) :] or (b"", None, None)
    return RunSnapshot(
        run_id,
        workflow or "",
        version or "",
        pool or "",
        Status(status or ""),
        _number(created),
        _number(since),
        _number(epoch),
        owner or "",
        _number(wake) if wake and status in _WITH_WAKE else None,
        waits.split("\n") if waits and status in WAITING else [],
        cancel,
        reason or "",
        _number(deaths),
        quarantine == "1",
        payload,
        result,
        failure,
        _number(start_by) or None,
        _number(finish_by) or None,
        tuple(tags.split("\n")) if tags else (),
        (memo or "{}").encode(),
        details or "",
        _number(attempt) or 1,
        _number(generation),
        forked_from or "",
        cancel_at or "",
        parent or "",
    )


def shown(run: RunSnapshot, seals: Seals, bound_to: str) -> RunSnapshot:
    """Open what there is to be opened; what cannot be opened here stays as it is stored."""
    if run.reason:
        run = replace(run, reason=seals.shown_reason(run.reason, run.id))
    if not any(each and each.startswith(SEALED) for each in (run.input, run.result, run.failure)):
        return run
    return replace(
        run,
        input=seals.shown(run.input, bound_to, INPUT) or b"",
        result=seals.shown(run.result, run.id, END),
        failure=seals.shown(run.failure, run.id, END),
    )


_WITH_WAKE = WAITING | {Status.SCHEDULED}


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
