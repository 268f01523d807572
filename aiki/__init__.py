"""Durable workflows: runs that survive the death of whatever executes them."""

from aiki.ask import Query, Update
from aiki.awakeable import Awakeable, awakeable, reject, resolve
from aiki.call import Call
from aiki.children import ChildHandle
from aiki.client import Client, client, start_many
from aiki.context import Lifespan, RunContext, RunInfo, lifespan, run_context
from aiki.current_step import CurrentStep, current_step
from aiki.description import RecordedStep, RunDescription, RunStatus
from aiki.durations import Seconds
from aiki.encryption import Encrypted
from aiki.envelope import Compressed, Sealed
from aiki.errors import (
    AikiError,
    AskFailed,
    ConfigError,
    Conflict,
    DataError,
    DefinitionError,
    Failure,
    InvalidTransition,
    LimitExceeded,
    NonRetryable,
    NotFound,
    Rejected,
    RetryAfter,
    RunCancelled,
    RunFailed,
    StoreRefused,
    StoreReplaced,
    StoreUnavailable,
    Tampered,
    TaskFailed,
    UnknownKey,
)
from aiki.event import Event, event
from aiki.handle import Handle
from aiki.middleware import Middleware
from aiki.registry import Registry
from aiki.retry import RetryPolicy, exponential, fixed, jittered, never
from aiki.run import Run
from aiki.schedule_handle import Occurrence, ScheduleHandle, ScheduleStatus
from aiki.schedules import Schedule, schedule
from aiki.states import Status
from aiki.task import Task, task
from aiki.topic import Chunk, Progress, Topic, topic
from aiki.waits import TIMEOUT, Timeout
from aiki.worker import RedisStreams, Worker, worker
from aiki.workflow import Start, Workflow, WorkflowVersion, workflow

__all__ = [
    "TIMEOUT",
    "AikiError",
    "AskFailed",
    "Awakeable",
    "Call",
    "ChildHandle",
    "Chunk",
    "Client",
    "Compressed",
    "ConfigError",
    "Conflict",
    "CurrentStep",
    "DataError",
    "DefinitionError",
    "Encrypted",
    "Event",
    "Failure",
    "Handle",
    "InvalidTransition",
    "Lifespan",
    "LimitExceeded",
    "Middleware",
    "NonRetryable",
    "NotFound",
    "Occurrence",
    "Progress",
    "Query",
    "RecordedStep",
    "RedisStreams",
    "Registry",
    "Rejected",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "RunCancelled",
    "RunContext",
    "RunDescription",
    "RunFailed",
    "RunInfo",
    "RunStatus",
    "Schedule",
    "ScheduleHandle",
    "ScheduleStatus",
    "Sealed",
    "Seconds",
    "Start",
    "Status",
    "StoreRefused",
    "StoreReplaced",
    "StoreUnavailable",
    "Tampered",
    "Task",
    "TaskFailed",
    "Timeout",
    "Topic",
    "UnknownKey",
    "Update",
    "Worker",
    "Workflow",
    "WorkflowVersion",
    "awakeable",
    "client",
    "current_step",
    "event",
    "exponential",
    "fixed",
    "jittered",
    "lifespan",
    "never",
    "reject",
    "resolve",
    "run_context",
    "schedule",
    "start_many",
    "task",
    "topic",
    "worker",
    "workflow",
]
