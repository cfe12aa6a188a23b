"""Which counters a call needs, and that it is counted everywhere or nowhere."""

import threading
from collections.abc import Sequence

import pytest

from ext_authz.errors import RateExceeded
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.limits.limiter import MAX_PRINCIPAL_CHARACTERS, Limiter, Wanted
from ext_authz.policy.rates import CellRate, Rate
from ext_authz.policy.verdict import Grant, Rule

SECOND_NS = 1_000_000_000
AGENT = SpiffeId.parse_workload("spiffe://agents.example.com/planner")
OTHER = SpiffeId.parse_workload("spiffe://agents.example.com/other")


def grant(cell: str, rate: str | None = None) -> Grant:
    """Return a grant whose rule is named after its cell."""
    counted = None if rate is None else CellRate(cell, Rate.parse(rate))
    return Grant(Rule(cell, cell), "optional", frozenset(), None, rate=counted)


def wanted(*grants: Grant, caller: SpiffeId = AGENT, caller_rate: str | None = None) -> Wanted:
    """Return a call that one of the grants allows."""
    return Wanted(caller.uri, None if caller_rate is None else Rate.parse(caller_rate), grants)


def cells_of(limiter: Limiter, calls: Sequence[Wanted]) -> list[str]:
    """Charge calls at once; return the cells that allowed them, or how many seconds to wait."""
    found = []
    for call in calls:
        try:
            allowing = limiter.charge(call, 0)
            found.append(allowing.rule.where if allowing else "-")
        except RateExceeded as refusal:
            found.append(f"{refusal.retry_after_seconds} s")
    return found


def test_each_satisfied_cell_counts_for_itself() -> None:
    """When the first satisfied cell is used up the next one allows; the wait is that of the first to be free."""
    first, second = grant("first", "1/min"), grant("second", "2/h")
    assert ["first", "second", "second", "60 s"] == cells_of(Limiter(), [wanted(first, second)] * 4)


def test_cell_without_rate_is_taken_first() -> None:
    """A cell that counts nothing allows whatever stands before it, and nothing is used up."""
    limiter, counted = Limiter(), grant("counted", "1/h")
    assert ["free"] * 3 == cells_of(limiter, [wanted(counted, grant("free"))] * 3)
    assert ["counted", "3600 s"] == cells_of(limiter, [wanted(counted)] * 2)


def test_subjects_count_apart() -> None:
    """A cell for a group counts each of its members."""
    limiter, cell = Limiter(), grant("cell", "1/min")
    assert ["cell", "60 s", "cell"] == cells_of(limiter, [wanted(cell), wanted(cell), wanted(cell, caller=OTHER)])


def test_refused_call_is_counted_nowhere() -> None:
    """A call that its cell refuses does not use up the caller's rate, and the other way round."""
    limiter, narrow, wide = Limiter(), grant("narrow", "1/min"), grant("wide", "100/min")
    calls = [wanted(narrow, caller_rate="3/min")] * 3 + [wanted(wide, caller_rate="3/min")] * 3
    assert ["narrow", "60 s", "60 s", "wide", "wide", "20 s"] == cells_of(limiter, calls)
    assert 0 == limiter.cells.wait_ns((wide.rate.cell if wide.rate else "", AGENT.uri), Rate.parse("98/min"), 0)


def test_looking_counts_nothing() -> None:
    """However often it is checked, a call has its place."""
    limiter, call = Limiter(), wanted(grant("cell", "1/min"), caller_rate="1/min")
    for _ in range(5):
        limiter.check(call, 0)
        limiter.check_unknown("a", Rate.parse("1/min"), 0)
        limiter.check_verifications(AGENT, Rate.parse("1/min"), 0)
    assert ["cell"] == cells_of(limiter, [call])
    with pytest.raises(RateExceeded):
        limiter.check(call, 0)


def test_wait_is_rounded_up() -> None:
    """`retry-after` is in whole seconds, never too early and never none."""
    assert [1, 1, 2, 60] == [
        RateExceeded(ns).retry_after_seconds for ns in (1, SECOND_NS, SECOND_NS + 1, 60 * SECOND_NS)
    ]


def test_long_principals_share_a_count() -> None:
    """A principal of any length takes a bounded place; those that agree in what is kept count together."""
    limiter, rate, name = Limiter(), Rate.parse("1/min"), "x" * MAX_PRINCIPAL_CHARACTERS
    limiter.note_unknown(f"{name}{'y' * 10_000}", rate, 0)
    with pytest.raises(RateExceeded):
        limiter.check_unknown(f"{name}z", rate, 0)
    limiter.check_unknown(name[1:], rate, 0)


def test_threads_get_each_place_once() -> None:
    """Eight threads that ask for the same hundred places get a hundred."""
    limiter, call = Limiter(), wanted(grant("cell", "100/h"), caller_rate="150/h")
    allowed: list[str] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        allowed.extend(cell for cell in cells_of(limiter, [call] * 50) if cell == "cell")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 100 == len(allowed)
