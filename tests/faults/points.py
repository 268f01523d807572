"""Where each script is sent: which process dies there, in which story.

A script has four places, `traps.POINTS`, in every role that sends it. A new script that is in no
line of this table, or in one of a story in which it is not sent, fails the tests.
"""

from __future__ import annotations

EVERYBODY = ("open_store", "try_commands")

STORIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "voyage": (
        "worker",
        (
            *EVERYBODY, "register_worker", "beat", "read_ready", "claim_runs", "commit_step",
            "commit_attempt", "heartbeat_step", "abandon_step", "open_wait", "end_wait",
            "start_child", "start_children", "consume_end", "consume_message", "post_message",
            "request_cancel", "answer_unrecorded", "answer_update", "publish_chunks",
            "note_progress", "set_details", "read_news", "park_run", "release_run", "retry_later",
            "continue_run", "finish_run", "recover_worker",
        ),
    ),
    "wreck": ("worker", ("stall_run",)),
    "crowd": ("worker", ("return_ready",)),
    "chores": (
        "supervisor",
        (
            *EVERYBODY, "beat_supervisor", "recover_worker", "find_expired", "requeue_idle",
            "fire_timers", "cascade", "stall_unserved", "remove_run", "sweep", "take_schedules",
            "fire_schedule", "tend_schedule",
        ),
    ),
    "calls": (
        "caller",
        (
            *EVERYBODY, "start_runs", "watch_run", "post_message", "wake_up", "pause_run",
            "resume_run", "request_cancel", "terminate_run", "retry_run", "fork_run",
            "delete_run", "ask_run", "activate_schedule", "trigger_schedule",
            "pause_schedule", "resume_schedule", "delete_schedule", "audit",
        ),
    ),
}  # fmt: skip
"""By story: the role of those who are caught, and the scripts that they send in it."""
