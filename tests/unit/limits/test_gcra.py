"""The counters: exact at the boundary, bounded, and nothing is ever forgiven."""

from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.limits.gcra import GcraTable
from ext_authz.policy.rates import Rate

SECOND_NS = 1_000_000_000
TEN_A_MINUTE = Rate.parse("10/min")

rates = st.builds(
    "{}/{}".format, st.one_of(st.integers(1, 20), st.integers(1, 999_999)), st.sampled_from(["s", "min", "h"])
).map(Rate.parse)
# Steps around an interval and a burst, where a mistake by one shows.
steps = st.one_of(st.integers(0, 3), st.sampled_from([SECOND_NS - 1, SECOND_NS, SECOND_NS + 1]), st.integers(0, 10**13))


class Bucket:
    """A token bucket in exact fractions: `count` tokens, one more each `interval_ns`, a call takes one."""

    def __init__(self, count: int, interval_ns: Fraction) -> None:
        self.count, self.interval_ns = count, interval_ns
        self.tokens, self.at_ns = Fraction(count), 0

    def take(self, now_ns: int) -> bool:
        """Take a token if there is one."""
        self.tokens = min(Fraction(self.count), self.tokens + (now_ns - self.at_ns) / self.interval_ns)
        self.at_ns = now_ns
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def count_of(rate: Rate) -> int:
    """Return the count that a rate was written with."""
    return int(rate.text.partition("/")[0])


def bucket_of(rate: Rate) -> Bucket:
    """Return a bucket with the interval that the rate has."""
    return Bucket(count_of(rate), Fraction(rate.interval_ns))


def test_ten_a_minute() -> None:
    """Ten at once, then one every six seconds: not one nanosecond before."""
    table, start = GcraTable(), 7
    assert [0] * 10 + [6 * SECOND_NS] == [table.take("a", TEN_A_MINUTE, start) for _ in range(11)]
    assert 1 == table.take("a", TEN_A_MINUTE, start + 6 * SECOND_NS - 1)
    assert 0 == table.take("a", TEN_A_MINUTE, start + 6 * SECOND_NS)
    assert 6 * SECOND_NS == table.take("a", TEN_A_MINUTE, start + 6 * SECOND_NS)
    later = start + 6 * SECOND_NS + 60 * SECOND_NS
    assert [0] * 10 + [6 * SECOND_NS] == [table.take("a", TEN_A_MINUTE, later) for _ in range(11)]


@pytest.mark.parametrize(
    ("text", "interval_ns", "burst_ns"),
    [
        ("1/s", SECOND_NS, 0),
        ("1/h", 3600 * SECOND_NS, 0),
        ("10/min", 6 * SECOND_NS, 54 * SECOND_NS),
        ("7/s", 142_857_143, 6 * 142_857_143),
        ("999999/s", 1_001, 999_998 * 1_001),
    ],
)
def test_rate(text: str, interval_ns: int, burst_ns: int) -> None:
    """The interval is the period by the count, rounded up; the burst is the count."""
    assert Rate(text, interval_ns, burst_ns) == Rate.parse(text)


@given(rates, st.lists(steps, max_size=60))
def test_agrees_with_an_exact_bucket(rate: Rate, gaps: list[int]) -> None:
    """The counter lets through what a token bucket in fractions does, to the nanosecond."""
    table, bucket, now_ns = GcraTable(), bucket_of(rate), 0
    for gap in gaps:
        now_ns += gap
        assert bucket.take(now_ns) is (table.take("a", rate, now_ns) == 0)


@given(rates, st.lists(steps, max_size=60))
def test_wait_is_exact(rate: Rate, gaps: list[int]) -> None:
    """A refused call passes when its wait is over, and not a nanosecond before."""
    table, now_ns = GcraTable(), 0
    for gap in gaps:
        now_ns += gap
        wait_ns = table.take("a", rate, now_ns)
        if wait_ns:
            assert 1 == table.wait_ns("a", rate, now_ns + wait_ns - 1)
            assert 0 == table.wait_ns("a", rate, now_ns + wait_ns)


@given(rates, st.lists(steps, max_size=60))
def test_never_more_than_written(rate: Rate, gaps: list[int]) -> None:
    """Rounding the interval up costs the caller less than a nanosecond a call, and never gives a call more."""
    unit_ns = {"s": 1, "min": 60, "h": 3600}[rate.text.partition("/")[2]] * SECOND_NS
    written = Bucket(count_of(rate), Fraction(unit_ns, count_of(rate)))
    table, now_ns = GcraTable(), 0
    for gap in gaps:
        now_ns += gap
        if table.take("a", rate, now_ns) == 0:
            assert written.take(now_ns)


@given(
    st.lists(st.tuples(st.integers(0, 30), steps.map(lambda step: step % (20 * SECOND_NS))), max_size=300),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_flood_of_keys_gives_nobody_more(calls: list[tuple[int, int]], max_keys: int, shared: int) -> None:
    """However few places there are, and whatever was dropped: what passes keeps to the rate of its key."""
    table, now_ns = GcraTable(max_keys, shared), 0
    buckets: dict[int, Bucket] = defaultdict(lambda: bucket_of(TEN_A_MINUTE))
    for key, gap in calls:
        now_ns += gap
        if table.take(key, TEN_A_MINUTE, now_ns) == 0:
            assert buckets[key].take(now_ns)
        assert len(table) <= max_keys


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-(10**11), 10**11)), max_size=100))
def test_clock_that_goes_back_gives_nothing(calls: list[tuple[int, int]]) -> None:
    """An earlier time counts as the latest that was seen, also for keys that were dropped meanwhile."""
    table, now_ns, latest_ns = GcraTable(2, 1), 10**12, 0
    buckets: dict[int, Bucket] = defaultdict(lambda: bucket_of(TEN_A_MINUTE))
    for key, step in calls:
        now_ns = max(0, now_ns + step)
        if table.take(key, TEN_A_MINUTE, now_ns) == 0:
            latest_ns = max(latest_ns, now_ns)
            assert buckets[key].take(latest_ns)


def test_flood_does_not_block_who_has_a_place() -> None:
    """Keys with a place of their own never notice a flood of others; new ones share what is left."""
    table = GcraTable(max_keys=100, shared_buckets=8)
    table.take("known", TEN_A_MINUTE, 0)
    for number in range(10_000):
        table.take(f"flood {number}", TEN_A_MINUTE, number)
    assert [0] * 9 == [table.take("known", TEN_A_MINUTE, 10_000) for _ in range(9)]
    assert table.take("known", TEN_A_MINUTE, 10_000) > 0
    assert (100, 80) == (len(table), table.shared)
    assert table.take("late", TEN_A_MINUTE, 10_000) > 0


def test_table_empties_again() -> None:
    """Keys that are whole again make room for new ones, a few for each, until only those that count are kept."""
    table = GcraTable(max_keys=1000)
    for number in range(1000):
        table.take(f"old {number}", TEN_A_MINUTE, 0)
    for number in range(1000):
        table.take(f"new {number}", TEN_A_MINUTE, (number + 1) * 6 * SECOND_NS)
    assert len(table) <= 3
    assert 0 == table.shared


def test_shared_debt_goes_along() -> None:
    """A key that shared a bucket and gets a place of its own takes the debt with it."""
    table = GcraTable(max_keys=1, shared_buckets=1)
    table.take("first", TEN_A_MINUTE, 0)
    assert [0] * 10 == [table.take("second", TEN_A_MINUTE, 0) for _ in range(10)]
    now_ns = 6 * SECOND_NS  # the first is whole again and gives up its place
    assert [True, False] == [table.take("second", TEN_A_MINUTE, now_ns) == 0 for _ in range(2)]
    assert 10 == table.shared
