"""Logs to stdout, one JSON object per line, with the id of the request."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
request_notes: ContextVar[dict[str, object]] = ContextVar("request_notes")
"""More fields for this request's access log line, such as the tool that was called."""

_NOT_EXTRA = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

_NOISE = ("Context impl", "Will assume", "Listening at", "Using worker", "Error while closing socket")
"""Beginnings of useless lines from Alembic and gunicorn, which for example closes sockets that uvicorn has closed."""


def is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a record is useful to an operator: uvicorn logs five lines per worker where gunicorn logs one."""
    return record.levelno > logging.INFO or not (record.name == "uvicorn.error" or str(record.msg).startswith(_NOISE))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            "request_id": request_id.get(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def log_config(level: str) -> dict[str, Any]:
    """`logging.config.dictConfig` for everything in the process: the app, gunicorn, uvicorn and the MCP library."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "filters": [is_worth_reading],
                "stream": "ext://sys.stdout",
            }
        },
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": {"level": level, "handlers": ["stdout"], "propagate": False},
            # It logs each message that it handles, in addition to our line for each request.
            "mcp": {"level": "WARNING"},
            "alembic.runtime.plugins": {"level": "WARNING"},
        },
    }
