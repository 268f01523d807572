"""Durable workflows: runs that survive the death of whatever executes them."""

from aiki.client import Call, Client, client, start_many
from aiki.context import Lifespan, RunContext, RunInfo, lifespan, run_context
from aiki.current_step import CurrentStep, current_step
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
from aiki.middleware import Middleware
from aiki.registry import Registry
from aiki.retry import RetryPolicy, exponential, fixed, jittered, never
from aiki.run import Run
from aiki.states import Status
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
    "Lifespan",
    "LimitExceeded",
    "Middleware",
    "NonRetryable",
    "NotFound",
    "RecordedStep",
    "RedisStreams",
    "Registry",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "RunCancelled",
    "RunContext",
    "RunFailed",
    "RunInfo",
    "RunStatus",
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
    "lifespan",
    "never",
    "run_context",
    "start_many",
    "task",
    "worker",
    "workflow",
]
