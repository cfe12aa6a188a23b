"""Time windows: the boundary seconds, midnight, changes of clocks, and what authors are told."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.written_policies import ACTIONS, HEAD, problems_with, written_policy

from ext_authz.policy.windows import WEEKDAYS, Times, Window

BERLIN = ZoneInfo("Europe/Berlin")
WEEK_MINUTES = 7 * 24 * 60


def window(days: str, start: str, end: str, zone: ZoneInfo = BERLIN) -> Window:
    """Return a window; `days` are names with spaces, empty for every day."""
    numbers = frozenset(map(WEEKDAYS.index, days.split() or WEEKDAYS))
    start_minute, end_minute = (int(clock[:2]) * 60 + int(clock[3:]) for clock in (start, end))
    return Window("w", "windows.yaml:1", zone, numbers, start_minute, end_minute)


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    """Return the seconds since 1970 at which the clock on the wall shows a time."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


OFFICE = window("mon tue wed thu fri", "08:00", "18:00")
NIGHT = window("fri", "22:00", "06:00")
DAY = window("", "00:00", "24:00")
UNTIL_MIDNIGHT = window("sun", "22:00", "00:00")
# 2026-11-20 is a Friday, 2026-11-22 a Sunday.
MOMENTS: dict[str, tuple[bool, Window, str]] = {
    "a second before": (False, OFFICE, "2026-11-20 07:59:59"),
    "the last moment before": (False, OFFICE, "2026-11-20 07:59:59.999999"),
    "the first second": (True, OFFICE, "2026-11-20 08:00:00"),
    "the last second": (True, OFFICE, "2026-11-20 17:59:59.999999"),
    "a second after": (False, OFFICE, "2026-11-20 18:00:00"),
    "the weekend": (False, OFFICE, "2026-11-21 12:00:00"),
    "the night's first second": (True, NIGHT, "2026-11-20 22:00:00"),
    "before the night": (False, NIGHT, "2026-11-20 21:59:59"),
    "after midnight": (True, NIGHT, "2026-11-21 00:00:00"),
    "the night's last second": (True, NIGHT, "2026-11-21 05:59:59"),
    "after the night": (False, NIGHT, "2026-11-21 06:00:00"),
    "the same hours of the night before": (False, NIGHT, "2026-11-20 05:59:59"),
    "the next night": (False, NIGHT, "2026-11-21 22:00:00"),
    "a whole day's first second": (True, DAY, "2026-11-20 00:00:00"),
    "a whole day's last second": (True, DAY, "2026-11-20 23:59:59.999999"),
    "until midnight": (True, UNTIL_MIDNIGHT, "2026-11-22 23:59:59"),
    "over the end of the week": (False, UNTIL_MIDNIGHT, "2026-11-23 00:00:00"),
    "Sunday night on Monday": (True, window("sun", "22:00", "06:00"), "2026-11-23 05:59:59"),
}


@pytest.mark.parametrize(("is_open", "given_window", "moment"), MOMENTS.values(), ids=MOMENTS)
def test_window_at_a_moment(is_open: bool, given_window: Window, moment: str) -> None:  # noqa: FBT001
    """A window is open from its first second to the last before its end, on its days."""
    assert is_open is given_window.is_open(at(moment))


def test_zone_decides() -> None:
    """The same second is inside in one zone and outside in another."""
    noon = datetime(2026, 11, 20, 8, tzinfo=UTC).timestamp()
    zones = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")
    windows = [window("", "08:00", "09:00", ZoneInfo(zone)) for zone in zones]
    assert [True, False, False, False] == [each.is_open(noon) for each in windows]
    assert window("", "13:45", "13:46", ZoneInfo("Asia/Kathmandu")).is_open(noon)


def open_minutes(given_window: Window, day: str, zone: ZoneInfo = BERLIN) -> int:
    """Return for how many minutes of a day of the zone a window is open."""
    first = datetime.fromisoformat(day).replace(tzinfo=zone)
    last = datetime.fromisoformat(day).replace(tzinfo=zone) + timedelta(days=1)
    return sum(map(given_window.is_open, range(int(first.timestamp()), int(last.timestamp()), 60)))


# In Berlin the clocks go from 02:00 to 03:00 on 2027-03-28, and from 03:00 back to 02:00 on 2026-10-25.
SPRING, AUTUMN = "2027-03-28", "2026-10-25"
CHANGES: dict[str, tuple[int, Window, str]] = {
    "spring, inside the hour that is skipped": (0, window("", "02:00", "03:00"), SPRING),
    "spring, begins in it": (30, window("", "02:30", "03:30"), SPRING),
    "spring, ends in it": (30, window("", "01:30", "02:30"), SPRING),
    "spring, goes over it": (120, window("", "01:00", "04:00"), SPRING),
    "spring, a whole day": (23 * 60, DAY, SPRING),
    "autumn, the hour that comes twice": (120, window("", "02:00", "03:00"), AUTUMN),
    "autumn, begins in it": (90, window("", "02:30", "03:30"), AUTUMN),
    "autumn, ends in it": (90, window("", "01:30", "02:30"), AUTUMN),
    "autumn, a part of it": (30, window("", "02:15", "02:30"), AUTUMN),
    "autumn, a whole day": (25 * 60, DAY, AUTUMN),
    "autumn, over midnight from the day before": (420, window("sat", "22:00", "06:00"), AUTUMN),
}


@pytest.mark.parametrize(("minutes", "given_window", "day"), CHANGES.values(), ids=CHANGES)
def test_change_of_clocks(minutes: int, given_window: Window, day: str) -> None:
    """What the wall never shows is not waited for; what it shows twice counts twice."""
    assert minutes == open_minutes(given_window, day)


@pytest.mark.parametrize("fold", [0, 1])
def test_both_times_of_an_hour_that_comes_twice(fold: int) -> None:
    """The boundary seconds are those of the wall, the first time and the second."""
    half = window("sun", "02:30", "02:45")
    moments = ["02:29:59", "02:30:00", "02:44:59", "02:45:00"]
    expected = [False, True, True, False]
    assert expected == [half.is_open(at(f"{AUTUMN} {moment}", fold=fold)) for moment in moments]


minutes = st.integers(0, 24 * 60 - 1)
windows = st.builds(
    Window,
    st.just("w"),
    st.just("windows.yaml:1"),
    st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("America/St_Johns"), ZoneInfo("Australia/Lord_Howe")]),
    st.frozensets(st.integers(0, 6), min_size=1),
    minutes,
    st.integers(0, 24 * 60),
).filter(lambda drawn: drawn.start != drawn.end)
# Ten years around changes of law, leap days and clocks.
moments = st.integers(1_700_000_000, 2_000_000_000)


def obvious(drawn: Window, now: float) -> bool:
    """Walk through the minutes of every window of the week until the one on the wall comes."""
    local = datetime.fromtimestamp(now, drawn.zone)
    on_the_wall = (local.weekday() * 24 + local.hour) * 60 + local.minute
    for day in drawn.days:
        minute = day * 24 * 60 + drawn.start
        end = day * 24 * 60 + drawn.end + (0 if drawn.end > drawn.start else 24 * 60)
        while minute < end:
            if minute % WEEK_MINUTES == on_the_wall:
                return True
            minute += 1
    return False


@given(windows, moments)
def test_agrees_with_the_minute_by_minute_evaluator(drawn: Window, now: int) -> None:
    """The comparison of minutes says what walking through them says."""
    assert obvious(drawn, now) is drawn.is_open(now)


@given(st.lists(windows, max_size=3), st.lists(windows, max_size=3), moments)
def test_times_of_a_cell(during: list[Window], not_during: list[Window], now: int) -> None:
    """A cell counts when one of its windows is open, if it has any, and none of those that shut it."""
    wanted = not during or any(obvious(each, now) for each in during)
    expected = wanted and not any(obvious(each, now) for each in not_during)
    assert expected is Times(tuple(during), tuple(not_during)).include(now)


@given(st.lists(windows, max_size=3), windows, moments)
def test_one_more_window_that_shuts_never_opens(during: list[Window], more: Window, now: int) -> None:
    """What is added to `not_during` takes time away and gives none."""
    if not Times(tuple(during), ()).include(now):
        assert not Times(tuple(during), (more,)).include(now)


CELL = "matrix: {a: {b: {actions: [search], during: [office], not_during: [lunch]}}}\n"


def test_documents_add_up() -> None:
    """Windows of several documents have one list of names, and each document its own zone."""
    policy = written_policy(
        f"{HEAD}{CELL}{ACTIONS}"
        '---\nkind: TimeWindows\ntimezone: Europe/Berlin\nwindows: {office: {from: "08:00", to: "18:00"}}\n'
        "closed: [lunch]\n"
        '---\nkind: TimeWindows\nwindows: {lunch: {days: [fri], from: "12:00", to: "13:00", timezone: Asia/Tokyo}}\n'
    )
    zones = {name: each.zone.key for name, each in policy.windows.named.items()}
    assert {"office": "Europe/Berlin", "lunch": "Asia/Tokyo"} == zones
    lunch = at("2026-11-20 12:30", ZoneInfo("Asia/Tokyo"))
    assert [None, "policy.yaml:16"] == [
        found and found.where for found in map(policy.windows.closed_by, (lunch - 3600, lunch))
    ]


def test_what_authors_are_told() -> None:
    """Unknown windows and zones, names that stand twice and windows without length are told, all at once."""
    text = (
        f"{HEAD}matrix: {{a: {{b: {{actions: [search], during: [ofice], not_during: [nothing, lunch]}}}}}}\n{ACTIONS}"
        '---\nkind: TimeWindows\ntimezone: Europe/Berln\nwindows:\n  office: {from: "08:00", to: "18:00"}\n'
        '  lunch: {from: "12:00", to: "12:00"}\nclosed: [luncj]\n'
        '---\nkind: TimeWindows\ntimezone: localtime\nwindows: {office: {from: "08:00", to: "09:00", timezone: ../UTC}}\n'
    )
    expected = [
        "policy.yaml:3:46: unknown window `ofice`: did you mean `office`?",
        "policy.yaml:3:67: unknown window `nothing`",
        "policy.yaml:11:11: unknown time zone `Europe/Berln`: did you mean `Europe/Berlin`?",
        'policy.yaml:14:30: the window `lunch` has no length: a whole day is from: "00:00", to: "24:00"',
        "policy.yaml:15:10: unknown window `luncj`: did you mean `lunch`?",
        "policy.yaml:18:11: unknown time zone `localtime`: expected one such as UTC or Europe/Berlin",
        "policy.yaml:19:11: window `office` stands twice, first in policy.yaml:13",
        "policy.yaml:19:58: unknown time zone `../UTC`: expected one such as UTC or Europe/Berlin",
    ]
    assert expected == problems_with(text)
