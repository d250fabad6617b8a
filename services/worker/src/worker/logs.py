"""The worker's log: one JSON object a line on standard error, and few of them.

A line is written when something changes (joined, lost, refused, failed, leaving), never for each try or
order: where one order after the other ends for the same reason, once a minute.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, Final, TextIO

QUIET: Final = 60.0  # seconds that the same end of an order is not told again
_ENDS: Final = ("refused", "failed")
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


class OncePerReason(logging.Filter):
    """Lets an end of an order pass unless the last one was for the same reason, less than QUIET ago."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[str, float]] = {}  # event → its reason, and when it was told

    def filter(self, record: logging.LogRecord) -> bool:
        event, reason = record.getMessage(), str(getattr(record, "fields", {}).get("detail"))
        if event not in _ENDS:
            return True
        last, told = self._last.get(event, ("", 0.0))
        if reason == last and record.created - told < QUIET:
            return False
        self._last[event] = reason, record.created
        return True


def configure(stream: TextIO | None = None) -> None:
    """Send the worker's log to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(OncePerReason())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def say(event: str, **fields: Any) -> None:
    """Something changed, as it should."""
    _LOGGER.info(event, extra={"fields": fields})


def warn(event: str, *, traceback: bool = False, **fields: Any) -> None:
    """Something went wrong; with `traceback`, of the exception being handled."""
    _LOGGER.warning(event, exc_info=traceback, extra={"fields": fields})
