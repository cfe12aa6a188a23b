"""Moments and spans of time as people write them."""

import re
from datetime import UTC, datetime

# 1 to 6 digits: a span has an end that a calendar can name.
_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# Unix seconds until the year 2286; what has more digits counts something smaller.
_UNIX_SECONDS = re.compile(r"[0-9]{1,10}")

# Seconds since 1970 of the first moment after the year 9999: calendars end there.
_NEVER = 253_402_300_800


def parse_span(text: str) -> int:
    """Read `90s`, `30m`, `24h` or `7d` and return seconds. Raises ValueError for anything else, and for zero."""
    match = _SPAN.fullmatch(text)
    if match is None or not int(match[1]):
        raise ValueError("expected a number and s, m, h or d, such as 1h")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def parse_moment(text: str) -> int:
    """Read Unix seconds, or RFC 3339 with its zone, and return seconds since 1970. Raises ValueError."""
    if _UNIX_SECONDS.fullmatch(text) is not None:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("expected Unix seconds, or a time with its zone such as 2026-11-22T12:00:00Z")
    return int(moment.timestamp())


def format_moment(timestamp: float) -> str | None:
    """Write seconds since 1970 in RFC 3339, UTC; None when that moment never comes."""
    if timestamp >= _NEVER:
        return None
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
