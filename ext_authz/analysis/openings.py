"""Whether a cell counts at any time at all, by the clocks of one year."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from ext_authz.policy.windows import Times, Window

# Any year does: windows come again every week, and a year has each change of clocks.
_FIRST_DAY, _DAYS = date(2026, 1, 1), 366


def ever_open(times: Times, closed: Sequence[Window]) -> bool:
    """Tell whether there is a moment at which a cell counts and calls are not forbidden to everybody.

    A span of open time begins where a window opens or another one closes, so only those moments are looked at.
    """
    windows = (*times.during, *times.not_during, *closed)
    return any(
        times.include(moment) and not any(window.is_open(moment) for window in closed)
        for window in windows
        for moment in _edges(window)
    )


def _edges(window: Window) -> Iterator[float]:
    for day in range(_DAYS):
        midnight = datetime.combine(_FIRST_DAY + timedelta(days=day), datetime.min.time(), window.zone)
        for minutes in (window.start, window.end):
            yield (midnight + timedelta(minutes=minutes)).timestamp()
