"""How often something may happen: `10/min`, in whole nanoseconds.

Grammar: `rate = count "/" unit`, with a count from 1 to 999,999, and `unit = "s" / "min" / "h"`.
"""

from typing import NamedTuple, Self

_UNIT_NS = {"s": 1_000_000_000, "min": 60_000_000_000, "h": 3_600_000_000_000}


class Rate(NamedTuple):
    """A count of calls at once, and from then on one each `interval_ns`."""

    text: str  # as its author wrote it
    interval_ns: int  # rounded up: never more than the author wrote
    burst_ns: int  # how far ahead of the interval a caller may be: all of the count but one

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rate that the model of its document has let through."""
        count, _, unit = text.partition("/")
        interval_ns = -(-_UNIT_NS[unit] // int(count))
        return cls(text, interval_ns, interval_ns * (int(count) - 1))


class CellRate(NamedTuple):
    """The rate of a cell, and what names its counters: the same text before and after a reload means the same count."""

    cell: str  # subject, resource, actions and rate, as written
    rate: Rate
