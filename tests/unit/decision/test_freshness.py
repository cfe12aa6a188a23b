"""x-request-timestamp: how it is written, the boundary seconds, and that it can only take away."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.authorizers import NOW, answer, new_authorizer, reason_of
from support.check_requests import QUESTION, agent
from support.written_policies import ACTIONS, HEAD, written_snapshot

from ext_authz.decision.freshness import check_freshness
from ext_authz.errors import Reason, Refusal


def outcome(timestamp: str | None, now: float = NOW, *, required: bool = False) -> str:
    """Return the reason for a request with this header."""
    try:
        check_freshness(timestamp, now, required=required)
    except Refusal as refusal:
        return refusal.reason
    return Reason.ALLOWED


FRESH, STALE, MALFORMED = Reason.ALLOWED, Reason.TIMESTAMP_STALE, Reason.REQUEST_MALFORMED


@pytest.mark.parametrize(
    ("expected", "age"),
    [
        *((FRESH, age) for age in (0, 1, 299, 300, -1, -29, -30)),
        *((STALE, age) for age in (301, 3600, -31, -3600)),
    ],
)
def test_boundary_seconds(expected: Reason, age: int) -> None:
    """A request may be 300 seconds old and 30 ahead, and not one second more; both forms say the same."""
    seconds = int(NOW) - age
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert [expected] * 3 == [outcome(form) for form in (str(seconds), text, text.replace("+00:00", "Z"))]


def test_fractions_count() -> None:
    """The clock and RFC 3339 have fractions of seconds."""
    assert STALE == outcome(str(int(NOW) - 300), NOW + 0.001)
    assert FRESH == outcome("2026-11-21T22:05:09.5Z", NOW + 0.5)
    assert STALE == outcome("2026-11-21T22:05:09.499999999z", NOW + 0.5)
    assert STALE == outcome("2026-11-21t22:10:39.000001Z")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T22:10:09Z",
        "2026-11-21T22:10:09-00:00",
        "2026-11-21T23:10:09+01:00",
        "2026-11-22T03:55:09.000000000+05:45",
        "2026-11-21T00:11:09-21:59",
    ],
)
def test_one_moment_in_many_zones(text: str) -> None:
    """The offset is part of the time."""
    assert [STALE, FRESH, FRESH, STALE] == [outcome(text, NOW + by) for by in (-31, -30, 300, 301)]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "now", "1795299009.5", "+1795299009", "-1", "1_795_299_009", "1795299009000", "0x6b", "1e9", "nan"),
        *("2026-11-21", "22:10:09", "2026-11-21T22:10:09", "2026-11-21 22:10:09Z", "2026-11-21T22:10Z"),
        *("2026-11-21T22:10:60Z", "2026-11-21T24:00:00Z", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z"),
        *("2026-11-21T22:10:09+0100", "2026-11-21T22:10:09+24:00", "2026-11-21T22:10:09.Z", "20261121T221009Z"),
        *("2026-11-21T22:10:09.0000000000Z", "2026-W47-6T22:10:09Z", "2026-11-21T22:10:09Z ", "2026-11-21T22:10:09Z\n"),
        *("0000-01-01T00:00:00Z", "１７９５２９９００９", "Sat, 21 Nov 2026 22:10:09 GMT", "1795299009Z"),  # noqa: RUF001
    ],
)
def test_no_times(text: str) -> None:
    """What is neither form is refused; nothing is guessed."""
    assert MALFORMED == outcome(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0", "00", "99999999999"])
def test_far_times(text: str) -> None:
    """The ends of the calendar are stale, not an error of ours."""
    assert STALE == outcome(text)


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{5,12}[Zz+-]?[0-9:]{0,5}"))
def test_any_text_is_fresh_or_refused(text: str) -> None:
    """Nothing that a caller writes is an error of ours."""
    assert outcome(text) in {FRESH, STALE, MALFORMED}


@given(st.integers(-400, 400), st.integers(-1439, 1439))
def test_agrees_with_subtraction(age: int, offset_minutes: int) -> None:
    """A time in any zone is as fresh as its distance from now says."""
    zone = timezone(timedelta(minutes=offset_minutes))
    text = datetime.fromtimestamp(int(NOW) - age, zone).isoformat()
    assert (FRESH if -30 <= age <= 300 else STALE) == outcome(text)


def test_required() -> None:
    """A policy may ask for the header of every request, in any of its documents."""
    assert [FRESH, STALE] == [outcome(None, required=required) for required in (False, True)]
    matrix = f"{HEAD}matrix: {{planner-agent: {{retrieval-agent: [search]}}}}\n{ACTIONS}"
    snapshot = written_snapshot(f"{matrix}---\nkind: PermissionMatrix\nrequire_timestamp: true\n")
    authorizer, recorder = new_authorizer(snapshot)
    fresh = QUESTION.but(headers=[("x-request-timestamp", str(int(NOW)))])
    answers = [answer(authorizer, question.serialized()) for question in (QUESTION, fresh)]
    assert ["timestamp_stale", "allowed"] == [reason_of(response) for response in answers]
    assert "this policy asks for x-request-timestamp" == recorder.records[0].detail


@pytest.mark.parametrize("lines", [["1", "1795299009"], ["1795299009,1795299009"]])
def test_two_times(lines: list[str]) -> None:
    """A header that came twice is refused before any of them is believed."""
    question = QUESTION.but(headers=[("x-request-timestamp", line) for line in lines])
    assert "header_ambiguous" == reason_of(answer(new_authorizer()[0], question.serialized()))


def test_fresh_time_grants_nothing() -> None:
    """What the matrix does not grant stays refused, however fresh it is."""
    fresh = QUESTION.but(caller=agent("nobody"), headers=[("x-request-timestamp", str(int(NOW)))])
    assert "not_in_matrix" == reason_of(answer(new_authorizer()[0], fresh.serialized()))
