"""Structured logs: one JSON object a line on stderr, few enough to read."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("uvicorn", "uvicorn.error", "asyncio", "httpx"):  # chatter; warnings stay
        logging.getLogger(chatty).setLevel(logging.WARNING)


_logger = logging.getLogger("aggregator")


def note(event: str, **fields: Any) -> None:
    """What an operator wants to know: a handful a run."""
    _logger.info(event, extra={"fields": fields})


def trouble(event: str, error: BaseException | None = None, **fields: Any) -> None:
    """Something that somebody should look at; with its traceback where it is a fault of ours."""
    _logger.error(event, extra={"fields": fields}, exc_info=error)
