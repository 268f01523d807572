"""Schedules that cannot work are refused where they are defined, before anything is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import aiki
from aiki import DataError, DefinitionError, Run, workflow
from tests.support.app import App

reports = workflow("reports")


@reports.v("1.0.0")
async def report_v1(run: Run, subject: str) -> str:
    return f"about {subject} by {run.id}"


keyed = report_v1.with_options(idempotency_key="k")
delayed = report_v1.with_options(delay=5)
dated = report_v1.with_options(finish_by=datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("name", "start", "options", "words"),
    [
        ("a", report_v1.bind("x"), {}, "give one of cron and every"),
        ("a", report_v1.bind("x"), {"cron": "* * * * *", "every": 5}, "give one of cron and every"),
        ("a", report_v1.bind("x"), {"every": 0}, "schedule 'a': every is at least 1 second"),
        ("a", report_v1.bind("x"), {"every": 5, "timezone": "Europe/Paris"}, "has no time zone"),
        ("a", report_v1.bind("x"), {"cron": "61 * * * *"}, "field 1 at character 1"),
        ("a", report_v1.bind("x"), {"every": 5, "overlap": "never"}, "overlap is one of skip"),
        ("a", report_v1.bind("x"), {"every": 5, "jitter": -1}, "jitter must be between"),
        ("a", keyed.bind("x"), {"every": 5}, "has options about one run"),
        ("a", delayed.bind("x"), {"every": 5}, "has options about one run"),
        ("a", dated.bind("x"), {"every": 5}, "a deadline that is a datetime"),
        ("a", report_v1, {"every": 5}, "what a version's bind"),
        ("a:b", report_v1.bind("x"), {"every": 5}, "none of : /"),
        ("", report_v1.bind("x"), {"every": 5}, "is empty"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_where_it_is_defined(
    name: str, start: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DefinitionError, match=words):
        aiki.schedule(name, start, **options)


def test_what_its_runs_have_is_part_of_the_definition() -> None:
    plain = aiki.schedule("a", report_v1.bind("x"), every=5).stored()
    tagged = report_v1.with_options(tags=["red"], memo={"by": "Ada"}, finish_by=60, start_by=5)
    stored = aiki.schedule("a", tagged.bind("x"), every=5).stored()
    assert stored.more == 'start +5000\nfinish +60000\nmemo {"by":"Ada"}\ntag red'
    assert stored.digest != plain.digest


@pytest.mark.plain_only("nothing is executed")
async def test_a_schedule_is_activated_with_a_client(app: App) -> None:
    defined = aiki.schedule("a", report_v1.bind("x"), every=5)
    with pytest.raises(DefinitionError, match="activated with the client"):
        await defined.activate(report_v1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="on_conflict is"):
        await defined.activate(app.client, on_conflict="ignore")  # type: ignore[arg-type]
