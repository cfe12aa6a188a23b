"""The time that a decision takes, and the time that it may take."""

from itertools import count

import pytest

from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import Reason, Undecided


def test_splits() -> None:
    """Each stage gets the time since the one before."""
    times = iter([100, 130, 130, 200])
    stopwatch = Stopwatch(lambda: next(times))
    for stage in ("a", "b", "c"):
        stopwatch.split(stage)
    assert [("a", 30), ("b", 0), ("c", 70)] == stopwatch.durations_ns


def test_deadline() -> None:
    """The stage that ends at the deadline or later is the last; its time is kept."""
    clock = count(0, 10)
    stopwatch = Stopwatch(lambda: next(clock), deadline_ns=20)
    stopwatch.split("a")
    with pytest.raises(Undecided, match="after stage b") as undecided:
        stopwatch.split("b")
    assert Reason.DEADLINE is undecided.value.reason
    assert [("a", 10), ("b", 10)] == stopwatch.durations_ns


def test_elapsed_time() -> None:
    """The time of a stage that did not end counts too."""
    times = iter([100, 130, 200])
    stopwatch = Stopwatch(lambda: next(times))
    stopwatch.split("a")
    assert 100 == stopwatch.elapsed_ns
    assert [("a", 30)] == stopwatch.durations_ns
