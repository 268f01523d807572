"""What the supervisor and its workers log: to stderr, as text or as one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
from typing import Literal

LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["text", "json"]

# What every record has; what a record has beyond it came from the caller, as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """Time with its zone, since the readers of a log are not where its writer was."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        return _moment(record)


class _Json(logging.Formatter):
    """One object a line: time, level, logger, process, message, error, and what was extra."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line.setdefault(name, value)
        return json.dumps(line, default=repr, ensure_ascii=False)


def configure_logging(level: LogLevel, form: LogFormat) -> None:
    """Log to stderr, unless this process has set up its logging itself (any process)."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    root.addHandler(handler)
    root.setLevel(level.upper())


def _moment(record: logging.LogRecord) -> str:
    local = time.localtime(record.created)
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", local)
        + f".{int(record.msecs):03d}"
        + time.strftime("%z", local)
    )
