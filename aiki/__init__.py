"""Durable workflows: runs that survive the death of whatever executes them."""

from aiki.client import Call, Client, client, start_many
from aiki.durations import Seconds
from aiki.errors import (
    AikiError,
    ConfigError,
    Conflict,
    DataError,
    DefinitionError,
    Failure,
    InvalidTransition,
    LimitExceeded,
    NonRetryable,
    NotFound,
    RetryAfter,
    RunCancelled,
    RunFailed,
    StoreRefused,
    StoreUnavailable,
    TaskFailed,
)
from aiki.handle import Handle, RecordedStep, RunStatus
from aiki.registry import Registry
from aiki.retry import RetryPolicy, exponential, fixed, jittered, never
from aiki.run import Run
from aiki.schedule_handle import Occurrence, ScheduleHandle, ScheduleStatus
from aiki.schedules import Schedule, schedule
from aiki.states import Status
from aiki.step import CurrentStep, current_step
from aiki.task import Task, task
from aiki.worker import RedisStreams, Worker, worker
from aiki.workflow import Start, Workflow, WorkflowVersion, workflow

__all__ = [
    "AikiError",
    "Call",
    "Client",
    "ConfigError",
    "Conflict",
    "CurrentStep",
    "DataError",
    "DefinitionError",
    "Failure",
    "Handle",
    "InvalidTransition",
    "LimitExceeded",
    "NonRetryable",
    "NotFound",
    "Occurrence",
    "RecordedStep",
    "RedisStreams",
    "Registry",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "RunCancelled",
    "RunFailed",
    "RunStatus",
    "Schedule",
    "ScheduleHandle",
    "ScheduleStatus",
    "Seconds",
    "Start",
    "Status",
    "StoreRefused",
    "StoreUnavailable",
    "Task",
    "TaskFailed",
    "Worker",
    "Workflow",
    "WorkflowVersion",
    "client",
    "current_step",
    "exponential",
    "fixed",
    "jittered",
    "never",
    "schedule",
    "start_many",
    "task",
    "worker",
    "workflow",
]
