"""When a schedule is due: clocks that change, months that end, outages, jitter, bad expressions."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.errors import DataError, DefinitionError
from aiki.schedule import MISSED_TOGETHER, Cron, Every, Miss, Start, Timing, cron, every, timing

AMSTERDAM = "Europe/Amsterdam"  # 2026: forward on 29 March at 2:00, back on 25 October at 3:00
DAY = 86_400_000


def ms(text: str) -> int:
    """Give the milliseconds of a time with its offset."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def shown(time: int, zone: str) -> str:
    return datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")


def times(expression: str, zone: str, start: str, count: int) -> list[str]:
    rule = timing(cron(expression, zone))
    found = islice(rule.between(ms(start), ms(start) + 20_000 * DAY), count)
    return [shown(time, zone) for time in found]


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        pytest.param(
            "30 2 * * *",
            AMSTERDAM,
            "2026-03-28T00:00+01:00",
            ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
            id="skipped: once, when the gap is over",
        ),
        pytest.param(
            "0,15,30,45 2 * * *",
            AMSTERDAM,
            "2026-03-29T00:00+01:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"],
            id="all skipped: once",
        ),
        pytest.param(
            "0 2,3 * * *",
            AMSTERDAM,
            "2026-03-29T00:00+01:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"],
            id="skipped onto another: once",
        ),
        pytest.param(
            "30 2 * * *",
            AMSTERDAM,
            "2026-10-25T00:00+02:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
            id="twice on the clock: the first time",
        ),
        pytest.param(
            "45 2 * * *",
            AMSTERDAM,
            "2026-10-25T02:30+01:00",
            ["2026-10-26T02:45+01:00"],
            id="asked in the second pass of a doubled hour",
        ),
        pytest.param(
            "*/30 * * * *",
            AMSTERDAM,
            "2026-10-25T02:00+02:00",
            [
                "2026-10-25T02:00+02:00",
                "2026-10-25T02:30+02:00",
                "2026-10-25T02:00+01:00",
                "2026-10-25T02:30+01:00",
                "2026-10-25T03:00+01:00",
            ],
            id="what follows the hours that pass, back",
        ),
        pytest.param(
            "*/30 * * * *",
            AMSTERDAM,
            "2026-03-29T01:30+01:00",
            ["2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"],
            id="what follows the hours that pass, forward",
        ),
        pytest.param(
            "30 2 * * *",
            "America/New_York",
            "2026-03-08T00:00-05:00",
            ["2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"],
            id="another zone",
        ),
        pytest.param(
            "15 2 * * *",
            "Australia/Lord_Howe",  # by half an hour
            "2026-10-04T00:00+10:30",
            ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
            id="a gap of half an hour",
        ),
        pytest.param(
            "*/15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-04T00:00+10:30",
            ["2026-10-04T02:30+11:00", "2026-10-04T02:45+11:00", "2026-10-05T02:00+11:00"],
            id="what follows the hours that pass, over a gap of half an hour",
        ),
        pytest.param(
            "0 * * * *",
            "Australia/Lord_Howe",
            "2026-10-04T01:00+10:30",
            ["2026-10-04T01:00+10:30", "2026-10-04T03:00+11:00", "2026-10-04T04:00+11:00"],
            id="each full hour that there is, over a gap of half an hour",
        ),
        pytest.param(
            "45 * * * *",
            "Australia/Lord_Howe",
            "2026-04-05T01:00+11:00",
            ["2026-04-05T01:45+11:00", "2026-04-05T01:45+10:30", "2026-04-05T02:45+10:30"],
            id="half an hour twice",
        ),
        pytest.param(
            "*/30 0 * * SUN",
            "America/Santiago",  # forward at midnight
            "2026-09-05T00:00-04:00",
            ["2026-09-13T00:00-03:00", "2026-09-13T00:30-03:00"],
            id="an hour that is skipped at midnight",
        ),
        pytest.param(
            "0 12 30 12 *",
            "Pacific/Apia",  # had no 30 December in 2011
            "2011-12-01T00:00+00:00",
            ["2011-12-31T00:00+14:00", "2012-12-30T12:00+14:00"],
            id="a day that was left out",
        ),
        pytest.param(
            "0 0 31 * *",
            "UTC",
            "2026-01-01T00:00+00:00",
            ["2026-01-31T00:00+00:00", "2026-03-31T00:00+00:00", "2026-05-31T00:00+00:00"],
            id="months that have a 31st",
        ),
        pytest.param(
            "0 0 L * *",
            "UTC",
            "2028-01-31T00:00+00:00",
            ["2028-01-31T00:00+00:00", "2028-02-29T00:00+00:00", "2028-03-31T00:00+00:00"],
            id="the last of a month",
        ),
        pytest.param(
            "0 0 29 2 *",
            "UTC",
            "2096-01-01T00:00+00:00",
            ["2096-02-29T00:00+00:00", "2104-02-29T00:00+00:00"],
            id="leap years, and 2100 is none",
        ),
        pytest.param(
            "0 9 * * mon-fri",
            AMSTERDAM,
            "2026-03-27T10:00+01:00",
            ["2026-03-30T09:00+02:00", "2026-03-31T09:00+02:00"],
            id="a week-end with a change of clocks",
        ),
    ],
)
def test_a_cron_expression_is_read_off_the_wall_clock(
    expression: str, zone: str, start: str, expected: list[str]
) -> None:
    assert times(expression, zone, start, len(expected)) == expected


# Bad expressions: what is said, and where


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("", "has 0 fields; there are five"),
        ("* * * * * *", "has 6 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("@daily", "has 1 fields"),
        ("61 * * * *", "'61', field 1 at character 1, is no minute"),
        ("*/0 * * * *", "'\\*/0', field 1 at character 1, is no minute"),
        ("0 24 * * *", "'24', field 2 at character 3, is no hour"),
        ("0 0 32 * *", "'32', field 3 at character 5, is no day of month"),
        ("0 0 1 XXX *", "'XXX', field 4 at character 7, is no month"),
        ("0  0 *  * MONDAY", "'MONDAY', field 5 at character 11, is no day of week"),
        ("5-1 * * * *", "is no minute"),
        ("1,,2 * * * *", "is no minute"),
        ("٣ * * * *", "is no minute"),
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6 *", "never fires"),
        ("1" * 300 + " * * * *", "in at most 200 characters"),
        (None, "is a str of five fields"),
        (5, "is a str of five fields"),
    ],
)
def test_a_bad_expression_is_refused_with_its_place(expression: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        cron(expression)


@pytest.mark.parametrize("zone", ["", "Mars/Base", "Europe", "../etc/passwd", "/etc", None, []])
def test_an_unknown_time_zone_is_refused(zone: Any) -> None:
    with pytest.raises(DefinitionError, match="timezone is a name such as"):
        cron("* * * * *", zone)


@pytest.mark.parametrize(
    "interval",
    [0, -1, 0.5, 1e-6, timedelta(microseconds=1), 4000 * 86400, math.inf, math.nan, True, "1", None,
     1.00005],
)  # fmt: skip
def test_an_interval_that_cannot_work_is_refused(interval: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^every "):
        every(interval)


@pytest.mark.parametrize("window", [0, 9.9, -1, math.inf, None])
def test_a_catch_up_window_that_cannot_work_is_refused(window: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^catch_up_window "):
        timing(every(60), catch_up_window=window)


@pytest.mark.parametrize("stored", ["", "[]", "{}", '{"cron": 1}', '{"every": 0, "catch_up": 1}'])
def test_a_stored_timing_that_is_none_is_refused(stored: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Timing.from_json(stored)


# Decisions


def test_an_interval_does_not_depend_on_when_it_is_asked() -> None:
    rule = every(timedelta(minutes=90))
    assert shown(rule.next_after(ms("2026-01-01T00:00+00:00")), "UTC") == "2026-01-01T01:30+00:00"
    assert rule.next_after(5_400_000 - 1) == 5_400_000
    assert rule.next_after(5_400_000) == 10_800_000


def test_what_is_not_due_is_left_alone() -> None:
    rule = timing(every(60))
    assert rule.step("a", 60_000, 59_999) is None
    assert rule.step("a", 60_000, 60_000) == Start(60_000, 120_000, 120_000)


def test_what_was_planned_during_an_outage_is_made_up_for_in_order_within_the_window() -> None:
    rule = timing(every(60), catch_up_window=180)
    now = 600_000
    assert rule.step("a", 60_000, now) == Miss(6, 420_000, 420_000)
    assert rule.step("a", 420_000, now) == Start(420_000, 480_000, 480_000)
    assert rule.step("a", 600_000, now) == Start(600_000, 660_000, 660_000)
    assert rule.step("a", 660_000, now) is None


def test_a_very_long_outage_is_passed_over_piece_by_piece() -> None:
    rule = timing(every(1), catch_up_window=10)
    step = rule.step("a", 1000, 10 * 365 * DAY)
    assert isinstance(step, Miss)
    assert step.count == MISSED_TOGETHER


RULES = st.one_of(
    st.integers(1000, 400 * DAY).map(Every),
    st.builds(
        cron,
        st.builds(
            "{} {} {} {} {}".format,
            st.sampled_from(["*", "0", "*/7", "5,35", "30-40"]),
            st.sampled_from(["*", "2", "1-3", "*/5", "0,23"]),
            st.sampled_from(["*", "1", "28-31", "*/10", "L"]),
            st.sampled_from(["*", "3", "10,11", "*/2"]),
            st.sampled_from(["*", "0", "MON-FRI", "SUN#1"]),
        ),
        st.sampled_from(
            ["UTC", AMSTERDAM, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
        ),
    ),
)
MOMENTS = st.integers(ms("2024-01-01T00:00+00:00"), ms("2030-01-01T00:00+00:00"))
TIMINGS = st.builds(
    Timing, RULES, catch_up=st.integers(10_000, 3 * DAY), jitter=st.integers(0, 2 * DAY)
)


@given(TIMINGS, MOMENTS)
def test_planned_and_due_times_only_rise_and_are_always_the_same(rule: Timing, now: int) -> None:
    found = list(islice(rule.between(now, now + 10_000 * DAY), 12))
    assert all(a < b for a, b in pairwise([now - 1, *found]))
    due = [rule.due("a", time) for time in found]
    assert all(a < b for a, b in pairwise(due))
    assert all(0 <= late - time <= rule.jitter for time, late in zip(found, due, strict=True))
    # Whatever moment one asks at, the next is the next.
    for a, b in pairwise(found):
        assert rule.next_after(a) == rule.next_after((a + b) // 2) == rule.next_after(b - 1) == b
    assert Timing.from_json(rule.to_json()) == rule


CHANGES = {  # of clocks: within two days from then
    "Australia/Lord_Howe": ("2026-04-04T00:00+11:00", "2026-10-03T00:00+10:30"),
    AMSTERDAM: ("2026-03-28T00:00+01:00", "2026-10-24T00:00+02:00"),
    "America/Santiago": ("2026-04-04T00:00-03:00", "2026-09-05T00:00-04:00"),
    "America/St_Johns": ("2026-03-07T00:00-03:30", "2026-10-31T00:00-02:30"),
    "Pacific/Apia": ("2011-12-29T00:00-10:00", "2011-12-30T00:00-10:00"),
}
STARRED = st.one_of(
    st.tuples(st.sampled_from(["*", "*/7", "*/30"]), st.sampled_from(["*", "1-3", "0,23", "2"])),
    st.tuples(st.sampled_from(["0", "5,45", "30-40"]), st.sampled_from(["*", "*/2", "*/5"])),
)


@given(
    STARRED,
    st.sampled_from(["*", "SUN", "4,5,30,31"]),
    st.sampled_from(sorted(CHANGES)),
    st.integers(0, 1),
    st.integers(0, 60_000 * 90),
)
def test_what_follows_the_hours_that_pass_fires_whenever_the_clock_shows_its_time(
    starred: tuple[str, str], day: str, zone: str, change: int, later: int
) -> None:
    """Given every minute of the days around a change, and a clock without changes to compare."""
    days = "* * SUN" if day == "SUN" else f"{day} * *"
    expression = " ".join((*starred, days))
    start, even = ms(CHANGES[zone][change]) + later, cron(expression)
    end = start + 3 * DAY

    faces = set(timing(even).between(start - 2 * DAY, end + 2 * DAY))

    def is_shown(minute: int) -> bool:
        face = datetime.fromtimestamp(minute / 1000, ZoneInfo(zone)).replace(tzinfo=UTC)
        return round(face.timestamp() * 1000) in faces

    first = -(-start // 60_000) * 60_000
    expected = [minute for minute in range(first, end, 60_000) if is_shown(minute)]
    assert list(timing(cron(expression, zone)).between(start, end)) == expected


@given(TIMINGS, MOMENTS, st.lists(st.integers(0, 5 * DAY), max_size=6))
def test_each_planned_time_is_started_or_missed_once(
    rule: Timing, start: int, pauses: list[int]
) -> None:
    """Given somebody who looks now and then, when each look works off what it finds."""
    first = planned = rule.next_after(start)
    now, started, missed = start, list[int](), 0
    for pause in pauses:
        now += pause
        for _ in range(40):
            step = rule.step("a", planned, now)
            if step is None:
                assert rule.due("a", planned) > now
                break
            if isinstance(step, Start):
                assert step.occurrence == planned
                assert now - rule.catch_up <= rule.due("a", planned) <= now
                started.append(planned)
            else:
                missed += step.count
            assert step.next > planned
            assert step.due == rule.due("a", step.next)
            planned = step.next
    passed = list(islice(rule.between(first, planned), missed + len(started) + 1))
    assert len(passed) == missed + len(started)
    assert set(started) <= set(passed)


@given(st.text(max_size=30))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        found = cron(text)
    except DefinitionError:
        return
    assert found.next_after(0) > 0
    assert isinstance(found, Cron)


def test_jitter_differs_between_schedules_and_occurrences() -> None:
    rule = timing(every(3600), jitter=600)
    due = {rule.due(name, hour * 3_600_000) % 3_600_000 for name in "abc" for hour in range(10)}
    assert len(due) > 25
    assert max(due) <= 600_000


def test_a_far_away_time_is_still_planned() -> None:
    rule = cron("0 0 29 2 *")
    assert rule.next_after(ms("2096-03-01T00:00+00:00")) == ms("2104-02-29T00:00+00:00")
    assert datetime.fromtimestamp(rule.next_after(0) / 1000, UTC).year == 1972
