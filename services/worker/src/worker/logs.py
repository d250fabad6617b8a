"""The worker's log: one JSON object a line on standard error, and few of them.

A line is written when something changes (joined, lost, refused, failed, leaving), never for each try or
order.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

_LOGGER = logging.getLogger("worker")


class JsonLines(logging.Formatter):
    """`{"time": …, "level": …, "event": …, fields…}`, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(stream: TextIO | None = None) -> None:
    """Send the worker's log to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def say(event: str, **fields: Any) -> None:
    """Something changed, as it should."""
    _LOGGER.info(event, extra={"fields": fields})


def warn(event: str, *, traceback: bool = False, **fields: Any) -> None:
    """Something went wrong; with `traceback`, of the exception being handled."""
    _LOGGER.warning(event, exc_info=traceback, extra={"fields": fields})
