"""What each role asks of a server, and the line that makes a user who may do that and nothing else.

A script runs with the rights of whoever sends it, so a role needs what its scripts do as well as
what it sends itself. Which scripts a role sends stands here; what they do is read off their
source, so a line is never out of date.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache

from aiki.store.scripts import SCRIPTS
from aiki.store.urls import Target


class Role(StrEnum):
    """Who uses the store. Each may do what those before it may."""

    READER = "reader"
    CLIENT = "client"
    WORKER = "worker"
    SUPERVISOR = "supervisor"

    def covers(self, other: Role) -> bool:
        """Tell whether this one may do all that another may."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = tuple(Role)

SCRIPTS_OF: dict[Role, tuple[str, ...]] = {
    Role.READER: (),  # or somebody who may only read could keep the server busy with a loop
    Role.CLIENT: (
        "open_store", "try_commands", "start_runs", "watch_run", "post_message", "ask_run",
        "wake_up", "pause_run", "resume_run", "request_cancel", "terminate_run", "retry_run",
        "fork_run", "delete_run", "activate_schedule", "trigger_schedule", "pause_schedule",
        "resume_schedule", "delete_schedule",
    ),
    # A library worker keeps house too, and takes back what dead workers held.
    Role.WORKER: (
        "register_worker", "beat", "beat_supervisor", "read_ready", "return_ready", "claim_runs",
        "release_run", "recover_worker", "commit_step", "commit_attempt", "heartbeat_step",
        "abandon_step", "open_wait", "end_wait", "start_child", "start_children", "consume_end",
        "consume_message", "read_news", "answer_unrecorded", "answer_update", "publish_chunks",
        "note_progress", "set_details", "park_run", "retry_later", "continue_run", "stall_run",
        "finish_run", "find_expired", "fire_timers", "requeue_idle", "stall_unserved", "cascade",
        "take_schedules", "fire_schedule", "tend_schedule", "remove_run", "sweep",
    ),
    Role.SUPERVISOR: ("audit",),
}  # fmt: skip

# What is sent as it is.
SENT_BY: dict[Role, tuple[str, ...]] = {
    Role.READER: (
        "info", "ping", "time", "subscribe", "unsubscribe", "hget", "hmget", "hgetall", "smembers",
        "zcard", "zrange", "xlen", "xrange", "xinfo|consumers",
    ),
    Role.CLIENT: ("eval", "evalsha", "script|load"),
    Role.WORKER: ("hkeys", "zrem", "xreadgroup"),
    Role.SUPERVISOR: (),
}  # fmt: skip

# Asked for once a supervisor says what is guaranteed, and done without where it is refused: it
# shows the passwords of the server as well.
OPTIONAL = frozenset({"config|get"})

_CALL = re.compile(r"redis\.p?call\(\s*'([A-Z]+)'(?:,\s*'([A-Z]+)')?")
_WITH_SUBCOMMANDS = frozenset({"XGROUP", "XINFO"})


def commands_of(script: str) -> frozenset[str]:
    """Name the commands that a script executes, as the server's rights name them."""
    return frozenset(
        f"{command}|{subcommand}".lower() if command in _WITH_SUBCOMMANDS else command.lower()
        for command, subcommand in _CALL.findall(SCRIPTS[script].source)
    )


@cache  # each connection asks
def commands(role: Role) -> tuple[str, ...]:
    """Name every command that a role needs, in order."""
    needed: set[str] = set()
    for each in _ORDER[: _ORDER.index(role) + 1]:
        needed.update(SENT_BY[each], *map(commands_of, SCRIPTS_OF[each]))
    return tuple(sorted(needed))


def commands_for(target: Target | None) -> list[str]:
    """Name what an address asks for beside: another database, the cluster, confirmations."""
    if target is None:
        return []
    more = {"cluster": ["cluster|info", "cluster|slots"]}.get(target.kind, [])
    confirming = {"fsync": ["waitaof"], "replicated": ["wait"]}.get(target.durability, [])
    return [*more, *confirming, *(["select"] if target.database else [])]


def user_line(
    role: Role, user: str, password_hash: str, *, namespace: str, target: Target | None
) -> str:
    """Write the command that makes a user of a role, or gives one that there is its rights.

    What the user's passwords were stays as it was, so one more can be added.
    """
    pattern = f"aiki:{_literally(namespace)}:{{*"
    access = "%R~" if role is Role.READER else "~"
    allowed = [f"+{name}" for name in (*commands(role), *commands_for(target))]
    return " ".join((
        "ACL", "SETUSER", user, "on", f"#{password_hash}", "resetkeys", f"{access}{pattern}",
        "resetchannels", f"&{pattern}", "-@all", *allowed,
    ))  # fmt: skip


def sentinel_line(user: str, password_hash: str) -> str:
    """Write the command that makes a user of a sentinel who may ask where the primary is."""
    return (
        f"ACL SETUSER {user} on #{password_hash} resetkeys resetchannels -@all "
        "+sentinel|get-master-addr-by-name +sentinel|master"
    )


def _literally(name: str) -> str:
    """Make a pattern of a name: nothing in it is special; what would end a word is any letter."""
    return re.sub(r"[\s\"']", "?", re.sub(r"([*?\[\]\\])", r"\\\1", name))
