"""Bad input: where each kind is refused, and those kinds that have no other place.

Whatever is wrong is refused at the earliest moment, with what it is, where, and what to do, and
nothing is written for it.
"""

from __future__ import annotations

import ast
import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiki
from aiki import (
    Client,
    ConfigError,
    DataError,
    DefinitionError,
    Run,
    RunFailed,
    Status,
    start_many,
    workflow,
)
from tests.support.app import App, becomes

# The kinds of bad input, and the tests that hold for each: file, then tests.
CATALOGUE = {
    "B1, B2: a name that is empty, no text, too long, or holds what separates keys": """
        test_names.py test_a_bad_name_is_refused_wherever_a_name_is_given
        test_a_name_has_at_most_200_bytes_once_it_is_normalised
        test_event_sends.py test_a_bad_name_is_refused_where_it_is_defined""",
    "B4: two different tasks of one name in one run, two workflows in one registry": """
        test_refused_steps.py
        test_two_different_tasks_of_one_name_in_one_run_are_refused_with_both_places
        test_registry.py
        test_a_second_workflow_of_one_name_and_version_is_refused_and_nothing_is_added
        test_a_reload_redefines test_the_main_module_imported_again_by_a_child_is_the_same""",
    "B5: a version defined twice": """
        test_registry.py test_two_handlers_of_one_version_are_refused_with_both_places""",
    "B6: a version that is none": """
        test_names.py test_a_version_is_three_numbers""",
    "B7: what cannot be a handler": """
        test_definitions.py test_only_a_function_can_be_a_definition
        test_a_handler_that_cannot_work_is_refused_with_its_place""",
    "B8, B9: a handler or task that is a generator, a handler that is a plain def": """
        test_definitions.py test_a_generator_is_refused
        test_a_handler_that_cannot_work_is_refused_with_its_place""",
    "B10: a closure, a lambda, a function of a notebook, and other processes": """
        test_registry.py test_what_cannot_be_imported_travels_by_value
        test_supervisor_definitions.py
        test_a_closure_travels_by_value_into_a_process_that_has_not_its_module""",
    "B11: a definition that has captured a lock, a socket, a client": """
        test_supervisor_definitions.py
        test_what_a_closure_captured_is_named_when_it_cannot_be_sent
        test_the_culprit_is_found_inside_of_what_was_captured""",
    "B12: a script without a guard of its main part": """
        test_supervisor_reloads.py
        test_a_script_without_a_guard_gets_one_clear_error""",
    "B13: a value that its annotation does not describe": """
        test_refusals.py test_what_its_annotation_does_not_describe_is_refused_with_its_path
        test_under_any_only_plain_json_is_stored""",
    "B14, B15, B17, B20, B23: not finite, huge, keys that are no strings, deep, no Unicode": """
        test_refusals.py test_what_json_cannot_hold_is_refused_with_its_path
        test_codec.py test_a_value_is_stored_as_canonical_json_and_comes_back""",
    "B18: equal values that are written otherwise": """
        test_canonical.py test_equal_values_have_one_address""",
    "B21: a payload that is too large": """
        test_canonical.py test_a_payload_over_the_limit_is_refused
        test_event_sends.py test_data_that_does_not_fit_is_refused_where_it_is_sent
        test_bad_input.py test_a_reason_is_a_text_of_a_bounded_length""",
    "B22: too many steps, or too much data, of one run": """
        test_refused_steps.py test_a_run_of_too_many_steps_is_told_so_and_can_still_end
        test_a_run_whose_results_are_too_large_fails_at_the_step_that_was_too_much""",
    "B24: input of a wrong type, and stored data that does not decode": """
        test_runs.py test_input_that_does_not_fit_is_refused_before_anything_is_sent
        test_changed_code.py test_an_input_that_no_longer_fits_stalls_the_run_with_the_path
        cli/test_start.py
        test_an_input_that_does_not_fit_the_handler_stalls_the_run_and_says_where""",
    "B25, B26: a result that cannot be stored, of a task or a handler": """
        test_attempts.py
        test_a_result_that_cannot_be_stored_fails_the_step_and_is_not_tried_again
        test_the_record_of_such_a_step_says_that_it_was_executed
        test_a_run_whose_result_is_not_what_it_says_fails_after_its_steps""",
    "B27: no result at all": """
        test_steps.py test_nothing_is_stored_as_null_and_is_still_a_result""",
    "B28: an exception that cannot be described": """
        test_failures.py test_any_exception_can_be_stored_and_read
        test_attempts.py test_an_exception_that_cannot_be_described_is_recorded_all_the_same""",
    "B30: whatever is raised": """
        test_attempts.py test_whatever_a_task_raises_is_a_failed_attempt
        test_whatever_a_handler_raises_fails_its_run
        test_worker.py test_keyboard_interrupt_stops_the_worker_and_charges_nothing""",
    "B32: a cancel that is swallowed": """
        test_stubborn.py test_a_handler_that_swallows_it_is_cancelled_all_the_same
        test_a_handler_that_catches_it_and_hangs_is_ended_after_the_grace""",
    "B33: what ends its process": """
        faults/test_deaths.py test_three_runs_that_crash_every_worker_in_three_ways_stall""",
    "B34: what never ends": """
        faults/test_hangs.py
        test_a_loop_that_stands_still_is_reported_and_replaced_after_the_hang_time_out
        test_a_thread_that_never_ends_holds_up_its_own_run_alone""",
    "B35: endless recursion": """
        test_attempts.py test_endless_recursion_is_a_failure_like_any_other""",
    "B36: unbounded memory": """
        faults/test_hangs.py
        test_a_step_that_eats_all_memory_costs_others_nothing_but_a_move""",
    "B38: a handler that meddles with its event loop": """
        test_bad_input.py test_a_handler_that_meddles_with_its_loop_fails_alone""",
    "B39, B40: steps outside of a run, in another run or thread, in a task": """
        test_refused_steps.py
        test_a_step_is_refused_outside_of_its_run_in_another_run_and_in_another_thread
        test_a_task_cannot_start_another_task
        test_sleep.py test_a_run_sleeps_nowhere_but_in_its_handler
        test_event_sends.py test_events_are_waited_for_and_sent_nowhere_but_in_the_handler""",
    "B42: a handler that does otherwise when it is repeated": """
        test_changed_code.py
        test_a_new_step_in_place_of_a_recorded_one_stalls_the_run_before_it_runs""",
    "B43: a duration that is none": """
        test_durations.py test_a_duration_out_of_range_is_refused
        test_what_is_no_duration_is_refused
        test_sleep.py test_no_duration_but_0_seconds_to_10_years
        test_a_sleep_of_nothing_is_over_at_once_and_recorded
        test_event_sends.py test_no_time_out_but_0_seconds_to_10_years
        test_starts.py test_options_that_cannot_work_are_refused_where_they_are_given""",
    "B44: one name for many sleeps, and a name that was changed": """
        test_sleep.py
        test_sleeps_of_one_name_are_several_sleeps_one_after_the_other_and_at_once
        test_bad_moments_and_names_are_refused""",
    "B46: a cron expression that is none, or never fires": """
        test_schedule.py test_a_bad_expression_is_refused_with_its_place
        test_any_text_is_an_expression_or_refused""",
    "B48: an interval that cannot work": """
        test_schedule.py test_an_interval_that_cannot_work_is_refused""",
    "B49: a schedule whose name belongs to another": """
        test_schedules.py test_activated_again_it_is_the_same_one_and_another_is_refused""",
    "B50: a start of what nobody serves": """
        test_runs.py test_a_run_that_nobody_serves_says_what_it_waits_for
        test_starts.py test_a_run_is_held_that_nobody_serves_and_can_be_found_as_such
        cli/test_start.py test_a_start_that_nobody_serves_yet_is_accepted_and_says_so""",
    "B51: an idempotency key that is none": """
        test_names.py test_a_bad_idempotency_key_is_refused""",
    "B52: an idempotency key of another input": """
        test_runs.py test_the_same_key_with_other_input_is_a_conflict_that_names_the_run
        test_the_same_key_with_other_input_gives_the_existing_run_where_that_is_wanted""",
    "B53, B54: an event to a run that does not exist, or is over": """
        test_event_sends.py test_a_send_to_what_takes_none_is_refused_and_stores_nothing""",
    "B55: an event whose data does not fit": """
        test_event_sends.py test_data_that_does_not_fit_is_refused_where_it_is_sent
        test_data_that_does_not_fit_its_wait_stalls_the_run_and_stays""",
    "B57: a cancel again, of what is over, of what does not exist": """
        test_runs.py test_cancelling_twice_keeps_the_first_reason
        test_cancelling_a_run_that_is_over_changes_nothing
        test_what_is_asked_of_an_unknown_run_is_answered_not_found""",
    "B58: pause, resume, wake-up, retry, delete where they make no sense": """
        test_pause.py test_only_what_is_under_way_can_rest
        test_a_run_that_is_asked_to_end_cannot_be_paused
        test_wake_up.py test_waking_up_is_refused_where_no_sleep_can_be
        test_store_states.py test_a_run_moves_as_the_table_says_and_in_no_other_way""",
    "B59: a wait of no time, and of a time that is none": """
        test_runs.py test_a_wait_without_time_only_looks test_a_time_that_is_none_is_refused""",
    "B60: an address that is none": """
        test_connection.py test_a_malformed_address_is_refused_where_it_is_written
        test_bad_input.py test_what_is_no_setting_of_a_client_is_refused_where_it_is_given""",
    "B61: a server that must not be used": """
        test_preflight.py test_every_finding_is_told_at_once test_a_replica_is_refused
        test_bad_settings_and_missing_rights_are_told_together""",
    "B63: settings of a worker that cannot work": """
        test_worker.py test_settings_that_cannot_work_are_refused
        test_bad_input.py test_what_is_no_setting_of_a_worker_is_refused_where_it_is_given""",
}

TESTS = Path(__file__).parent


@pytest.mark.parametrize("kind", CATALOGUE)
def test_each_kind_of_bad_input_has_its_tests(kind: str) -> None:
    there: set[str] = set()
    for word in CATALOGUE[kind].split():
        if word.endswith(".py"):
            tree = ast.parse((TESTS / word).read_text())
            there = {
                node.name
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        else:
            assert word in there


plain = workflow("plain")


@plain.v("1.0.0")
async def plain_v1(run: Run) -> str:
    return run.id


# A handler and its loop


def closes() -> None:
    asyncio.get_running_loop().close()


def runs_another() -> None:
    waiting = asyncio.sleep(0)
    try:
        asyncio.run(waiting)
    finally:
        waiting.close()


def waits_for_itself() -> None:
    waiting = asyncio.sleep(0)
    try:
        asyncio.get_running_loop().run_until_complete(waiting)
    finally:
        waiting.close()


@pytest.mark.parametrize("meddle", [closes, runs_another, waits_for_itself])
async def test_a_handler_that_meddles_with_its_loop_fails_alone(
    app: App, meddle: Callable[[], None]
) -> None:
    wf = workflow("meddling")

    @wf.v("1.0.0")
    async def meddling(run: Run) -> str:
        meddle()
        return run.id

    await app.serve(wf, plain)
    with pytest.raises(RunFailed, match=r"RuntimeError: .*running"):
        await app.result(meddling.bind())
    assert await app.result(plain_v1.bind())


# What no signature lets through, and Python does

executes_nothing = pytest.mark.plain_only("executes nothing")


@pytest.mark.parametrize(
    "run_id", [5, None, b"0-x", "", " ", "a\nb", "\ud800", "0-x\0", "x" * 201], ids=ascii
)
@executes_nothing
async def test_what_can_be_no_id_of_a_run_is_refused_at_once(app: App, run_id: Any) -> None:
    with pytest.raises(DataError, match="the id of a run"):
        app.client.handle(run_id)
    with pytest.raises(DataError, match="the id of a run"):
        plain_v1.handle(app.client, run_id)


@pytest.mark.parametrize("run_id", ["0-unknown", "7-unknown", "x", "run:x", "0-x:journal", "*"])
@executes_nothing
async def test_what_is_the_id_of_no_run_is_not_found_by_anything(app: App, run_id: str) -> None:
    handle = app.client.handle(run_id)
    for act in (
        handle.status, handle.describe, handle.journal, handle.progress, handle.cancel,
        handle.terminate, handle.pause, handle.resume, handle.wake_up, handle.retry, handle.fork,
        handle.delete, handle.wait_for_completion,
    ):  # fmt: skip
        with pytest.raises(aiki.NotFound):
            await act()
    assert await app.keys("*run:*") == []


@pytest.mark.parametrize("reason", [5, None, b"x", "\ud800", "x" * 4097, "é" * 2049], ids=ascii)
@executes_nothing
async def test_a_reason_is_a_text_of_a_bounded_length(app: App, reason: Any) -> None:
    handle = await plain_v1.start(app.client)
    for act in (handle.cancel, handle.terminate):
        with pytest.raises(DataError, match="reason"):
            await act(reason)
    await becomes(handle, Status.QUEUED)
    assert await handle.cancel("é" * 2048) is Status.CANCELLED


@pytest.mark.parametrize("at", ["", 5, "x#0", "\ud800"], ids=ascii)
@executes_nothing
async def test_a_fork_begins_at_a_step_that_there_is(app: App, at: Any) -> None:
    handle = await plain_v1.start(app.client)
    with pytest.raises(DataError, match=r"journal\(\)"):
        await handle.fork(at)
    assert [run.id async for run in app.client.runs()] == [handle.id]


@pytest.mark.parametrize("calls", [5, None, [5], [plain_v1], plain_v1.bind()], ids="abcde")
@executes_nothing
async def test_many_are_started_from_what_bind_gives(app: App, calls: Any) -> None:
    with pytest.raises(DefinitionError, match="start_many takes a list"):
        await start_many(app.client, calls)


@pytest.mark.parametrize("name", ["", "a:b", 5, "\ud800"], ids=ascii)
@executes_nothing
async def test_what_is_no_name_is_not_counted(app: App, name: Any) -> None:
    with pytest.raises(DefinitionError, match="workflow: "):
        await app.client.count_runs(workflow=name)


@pytest.mark.parametrize(
    "options",
    [
        {"redis": 5},
        {"redis": b"redis://localhost"},
        {"redis": {"host": None}},
        {"redis": {5: 6}},
        {"data_dir": 5},
        {"data_dir": ""},
        {"data_dir": "a\0b"},
        {"durability": "often"},
        {"durability": None},
        {"start_timeout": 0},
        {"middleware": 5},
    ],
    ids=ascii,
)
def test_what_is_no_setting_of_a_client_is_refused_where_it_is_given(
    options: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(**options)
    assert re.search(next(iter(options)), str(caught.value))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pools": 5}, "pools is a list"),
        ({"subscriber": 5}, "subscriber is an aiki.RedisStreams"),
        ({"max_concurrent_workflow_runs": None}, "a whole number"),
        ({"heartbeat": None}, "heartbeat must be"),
        ({"divergence_after": math.nan}, "divergence_after must be"),
    ],
    ids=ascii,
)
@executes_nothing
async def test_what_is_no_setting_of_a_worker_is_refused_where_it_is_given(
    app: App, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        aiki.worker(app.client, **options)
    nobody: Any = 5
    with pytest.raises(ConfigError, match="the client that"):
        aiki.worker(nobody)
