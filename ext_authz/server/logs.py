"""Operational logs on standard error, as text or JSON lines."""

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum


class LogStyle(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


def configure_logs(level: str, style: str) -> None:
    """Send the logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == LogStyle.JSON else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for talkative in ("watchfiles", "uvicorn", "httpx", "httpcore"):  # the latter two write whole addresses
        logging.getLogger(talkative).setLevel(logging.WARNING)
    # The exporter reports each of its tries; the audit writer reports once that records are not taken, and once that
    # they are again.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname.lower():<7} {record.name}: {record.getMessage()}{_place(record)}"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage() + _place(record),
        }
        return json.dumps(line)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")


def _place(record: logging.LogRecord) -> str:
    """Name an exception by its type alone: its text may hold what a caller sent."""
    return f" ({record.exc_info[0].__name__})" if record.exc_info and record.exc_info[0] else ""
