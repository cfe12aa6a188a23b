"""Durations as people write them."""

import re
from datetime import timedelta

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m)")
_UNITS = {"ms": timedelta(milliseconds=1), "s": timedelta(seconds=1), "m": timedelta(minutes=1)}


def parse_duration(text: str) -> timedelta:
    """Read a number with the unit ms, s or m: `50ms`, `0.25s`, `10m`. Raises ValueError for anything else, and for zero."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("expected a number and ms, s or m, such as 50ms")
    number, unit = match.groups()
    duration = float(number) * _UNITS[unit]
    if duration < timedelta(milliseconds=1):
        raise ValueError("expected at least 1ms")
    return duration


def format_duration(duration: timedelta) -> str:
    """Write a duration in the largest unit that needs no fraction."""
    for unit in ("m", "s"):
        if not duration % _UNITS[unit]:
            return f"{duration // _UNITS[unit]}{unit}"
    return f"{duration // _UNITS['ms']}ms"
