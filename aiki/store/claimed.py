"""A run as its new owner receives it, read from what `claim_runs` answers."""

from __future__ import annotations

from typing import Any

from aiki.envelope import SEALED
from aiki.errors import DataError, Tampered, UnknownKey
from aiki.records import (
    ClaimedRun,
    DamagedRun,
    News,
    Ownership,
    ReadyEntry,
    parse_journal,
    parse_mailbox,
    parse_streams,
)
from aiki.store.seals import Seals


def claimed_run(
    entry: ReadyEntry, token: str, incarnation: str, answer: Any, seals: Seals
) -> ClaimedRun | DamagedRun:
    """Give the run that an entry offered and this token has claimed."""
    epoch = answer[1].decode()
    now, record, journal, mailbox = answer[2:]
    created, payload, cancel, cancel_at, news, wakes, *rest = record
    generation, attempt, begun, seed, streams = rest
    workflow, version, _ = entry.stream.removeprefix("ready:").split("/", 2)
    origin = (seed or b"").decode(errors="replace")
    ownership = Ownership(entry.run_id, epoch, f"{epoch}:{token}", incarnation, origin)
    secret = b""
    try:
        mail, entries = parse_mailbox(mailbox), parse_journal(journal)
        if payload[:1] == SEALED:
            payload, secret = seals.opened_input(payload, ownership.bound_to)
        if entries:
            seals.open_entries(ownership.bound_to, entries)
        if mail:
            mail = seals.opened_mail(entry.run_id, mail)
        return ClaimedRun(
            ownership,
            workflow,
            version,
            int(created),
            int(now),
            payload,
            None if cancel is None else cancel.decode(),
            None if cancel_at is None else cancel_at.decode(),
            News(int(news or 0), int(wakes or 0), mail),
            entries,
            int(generation or 0),
            int(attempt or 1),
            int(begun or 0),
            origin,
            parse_streams(streams or b""),
            secret,
        )
    except (UnknownKey, Tampered) as error:
        return DamagedRun(ownership, str(error), is_sealed=True)
    except (DataError, TypeError, ValueError) as error:
        return DamagedRun(ownership, f"What is stored of the run is damaged: {error}")
