"""Moments and spans on the command line."""

import math

import pytest

from ext_authz.times import format_moment, parse_moment, parse_span


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)])
def test_span(text: str, seconds: int) -> None:
    """A span is a whole number and a unit."""
    assert seconds == parse_span(text)


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "1.5h", "-1h", "1h30m", "1 h", "1w", "1h\n", "٣h", "1000000d"])
def test_no_span(text: str) -> None:
    """Anything else is refused, also the span that ends at once."""
    with pytest.raises(ValueError, match="such as 1h"):
        parse_span(text)


@pytest.mark.parametrize(
    "text", ["1795348800", "2026-11-22T12:00:00Z", "2026-11-22T13:00:00+01:00", "2026-11-22T12:00:00.9Z"]
)
def test_moment(text: str) -> None:
    """A moment is Unix seconds, or a time that says its zone."""
    assert 1_795_348_800 == parse_moment(text)


@pytest.mark.parametrize("text", ["", "now", "1795348800000", "2026-11-22", "2026-11-22T12:00:00", "-5", "1e9"])
def test_no_moment(text: str) -> None:
    """A time without a zone means something else on another machine; milliseconds would mean the far future."""
    with pytest.raises(ValueError, match="with its zone"):
        parse_moment(text)


def test_format() -> None:
    """Times are told in UTC; what never comes has none."""
    assert ["2026-11-22T12:00:00Z", None, None] == [
        format_moment(moment) for moment in (1_795_348_800.7, 253_402_300_800, math.inf)
    ]


def test_the_longest_span_can_be_told() -> None:
    """The end of every accepted span has a date."""
    assert format_moment(1_795_348_800 + parse_span("999999d")) is not None
