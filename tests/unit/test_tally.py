"""What is counted of decisions: each answer once, by its reason."""

import pytest
from support.authorizers import KeptRecords, default_snapshot, new_authorizer
from support.check_requests import QUESTION, agent

from ext_authz.authorizer import Authorizer
from ext_authz.errors import Reason
from ext_authz.tally import BOUNDS_NS, Tally


def counted(tally: Tally) -> dict[str, int]:
    """Return the reasons that were counted."""
    return {reason: count for reason, count in tally.reasons.items() if count}


def test_every_reason_has_a_number() -> None:
    """A reader on another thread never meets a table that grows."""
    assert [reason.value for reason in Reason] == list(Tally().reasons)


@pytest.mark.parametrize(
    ("elapsed_ns", "bucket"),
    [(0, 0), (25_000, 0), (25_001, 1), (1_000_000, 5), (250_000_000, 12), (250_000_001, 13), (10**12, 13)],
)
def test_buckets(elapsed_ns: int, bucket: int) -> None:
    """A duration belongs to the first bound that is not below it."""
    tally = Tally()
    tally.count(Reason.ALLOWED, elapsed_ns)
    assert [number == bucket for number in range(len(BOUNDS_NS) + 1)] == [count == 1 for count in tally.buckets]
    assert elapsed_ns == tally.total_ns


def test_answers_are_counted() -> None:
    """Each answer counts once, under the reason that its caller sees."""
    authorizer, _ = new_authorizer()
    for question in (QUESTION, QUESTION, QUESTION.but(caller=agent("nobody"))):
        authorizer.check(question.serialized())
    assert {"allowed": 2, "not_in_matrix": 1} == counted(authorizer.tally)
    assert 3 == sum(authorizer.tally.buckets)


def test_withdrawn_decision_counts_as_withdrawn() -> None:
    """What could not be recorded was not allowed, and is not counted as if it were."""
    authorizer = Authorizer(default_snapshot(), KeptRecords(refusing=True))
    authorizer.check(QUESTION.serialized())
    assert {"audit_unavailable": 1} == counted(authorizer.tally)


def test_checks_without_a_decision_are_counted_apart() -> None:
    """A check that failed before anything was decided has no reason and no record, and still shows."""
    authorizer = Authorizer(None, KeptRecords())  # type: ignore[arg-type]
    authorizer.check(QUESTION.serialized())
    assert ({}, 1) == (counted(authorizer.tally), authorizer.tally.unanswered)
