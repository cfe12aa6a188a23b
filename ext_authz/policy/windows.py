"""Time windows: whether one is open at a moment.

1. The clock on the wall of the window's zone decides: weekday, hour and minute as people there read them.
2. `from` is inside, `to` is not. A window that goes over midnight belongs to the day on which it starts.
3. A time that a change of clocks skips never comes; one that comes twice counts twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import TimeWindows
from ext_authz.documents.models import Window as WindowEntry
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted

# Names that mean another zone on each machine, or none.
_NO_ZONES = frozenset({"localtime", "Factory"})
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # as datetime.weekday counts them


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that comes again every week."""

    name: str
    where: str  # path:line
    zone: ZoneInfo
    days: frozenset[int]  # on which it starts; 0 is Monday
    start: int  # minutes after midnight
    end: int  # the first minute after it; not behind `start` when it goes over midnight

    def is_open(self, now: float) -> bool:
        """Whether it is open. `now` is in seconds since 1970."""
        local = datetime.fromtimestamp(int(now), self.zone)  # whole seconds: a fraction could be rounded up
        day, minute = local.weekday(), local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end and day in self.days
        return (minute >= self.start and day in self.days) or (minute < self.end and (day - 1) % 7 in self.days)


@dataclass(frozen=True, slots=True)
class Times:
    """When a cell counts."""

    during: tuple[Window, ...]  # at least one is open; none named: always
    not_during: tuple[Window, ...]  # none is open

    def include(self, now: float) -> bool:
        """Whether the cell counts. `now` is in seconds since 1970."""
        if any(window.is_open(now) for window in self.not_during):
            return False
        return not self.during or any(window.is_open(now) for window in self.during)


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a policy."""

    named: Mapping[str, Window] = field(default_factory=dict)
    closed: tuple[Window, ...] = ()  # no calls at all in these

    def closed_by(self, now: float) -> Window | None:
        """Return the window that forbids every call now, if there is one. `now` is in seconds since 1970."""
        return next((window for window in self.closed if window.is_open(now)), None)


def compile_windows(documents: PolicyDocuments, problems: list[str]) -> Windows:
    """Compile all TimeWindows documents; add what is wrong to `problems`."""
    sources = documents.of(TimeWindows)
    if not sources:
        return Windows()
    compiler = _Compiler(problems)
    for source in sources:
        compiler.add(source)
    return Windows(compiler.windows, tuple(compiler.closed(sources)))


def named_windows(names: Sequence[str], places: Sequence[str], windows: Windows, problems: list[str]) -> list[Window]:
    """Return the windows that a policy author names; each place is `path:line:column`."""
    found = []
    for name, here in zip(names, places, strict=True):
        if name in windows.named:
            found.append(windows.named[name])
        else:
            problems.append(f"{here}: unknown window {quoted(name)}{suggestion(name, windows.named)}")
    return found


class _Compiler:
    def __init__(self, problems: list[str]) -> None:
        self.windows: dict[str, Window] = {}
        self._zones = available_timezones() - _NO_ZONES
        self._places: dict[str, str] = {}  # of each window, the first that has its name
        self._problems = problems

    def add(self, source: Source[TimeWindows]) -> None:
        usual = self._zone(source.model.timezone, source.locate("timezone"))
        for name, entry in source.model.windows.items():
            steps = ("windows", name)
            first = self._places.setdefault(name, source.line(*steps))
            if name in self.windows:
                self._problems.append(
                    f"{source.locate_key(*steps)}: window {quoted(name)} stands twice, first in {first}"
                )
            zone = usual if entry.timezone is None else self._zone(entry.timezone, source.locate(*steps, "timezone"))
            if entry.start == entry.to:
                self._problems.append(
                    f"{source.locate(*steps, 'to')}: the window {quoted(name)} has no length: "
                    'a whole day is from: "00:00", to: "24:00"'
                )
            self.windows.setdefault(name, _window(name, source.rule_place(*steps), entry, zone))

    def closed(self, sources: Iterable[Source[TimeWindows]]) -> Iterable[Window]:
        """Yield the windows that `closed` names in any document."""
        for source in sources:
            names = source.model.closed
            places = [source.locate("closed", index) for index in range(len(names))]
            yield from named_windows(names, places, Windows(self.windows), self._problems)

    def _zone(self, name: str, here: str) -> ZoneInfo:
        """Return the zone of a name; any zone with a problem, so that the rest can be checked too."""
        if name in self._zones:
            return ZoneInfo(name)
        meant = suggestion(name, self._zones) or ": expected one such as UTC or Europe/Berlin"
        self._problems.append(f"{here}: unknown time zone {quoted(name)}{meant}")
        return ZoneInfo("UTC")


def _window(name: str, where: str, entry: WindowEntry, zone: ZoneInfo) -> Window:
    days = frozenset(map(WEEKDAYS.index, WEEKDAYS if entry.days is None else entry.days))
    return Window(name, where, zone, days, _minutes(entry.start), _minutes(entry.to))


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)
