"""The summary of differences: right on good records, and steady on any file."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.authorizers import KeptRecords, default_policy, default_snapshot
from support.check_requests import QUESTION, Question, agent

from ext_authz.audit import shadow_report
from ext_authz.audit.event import Event, EventType, Severity
from ext_authz.audit.jsonlines import to_line
from ext_authz.audit.shadow_report import MAX_LINE_BYTES, Change, Kind, report_of
from ext_authz.authorizer import Authorizer
from ext_authz.decision.shadow import Shadow
from ext_authz.policy.engine import Matrix

EVENT = to_line(Event(EventType.SHADOW_POLICY_FAILED, Severity.WARNING, 0, {}))
NOBODY = QUESTION.but(caller=agent("nobody"))


def lines_of(*questions: Question) -> list[bytes]:
    """Return the lines of decisions, with a shadow policy that allows the planner nothing."""
    recorder = KeptRecords()
    authorizer = Authorizer(default_snapshot(), recorder)
    authorizer.shadow = Shadow(replace(default_policy(), matrix=Matrix(), digest="a" * 64))
    for question in questions:
        authorizer.check(question.serialized())
    return [to_line(record) for record in recorder.records]


def line_with(**changes: str) -> bytes:
    """Return a line that differs from a real one in some attributes."""
    [line] = lines_of(QUESTION)
    record = json.loads(line)
    record["attributes"] |= {key.replace("__", "."): value for key, value in changes.items()}
    return json.dumps(record).encode() + b"\n"


def test_report() -> None:
    """Differences are counted by who calls whom for what, with decisions to look at."""
    lines = lines_of(QUESTION, NOBODY, QUESTION, QUESTION, QUESTION)
    report = report_of(io.BytesIO(b"".join(lines)))
    assert (5, 0, 4) == (report.records, report.damaged, report.differences)
    [(kind, group)] = report.sorted_groups()
    caller, target = agent("planner-agent"), agent("retrieval-agent")
    assert Kind(Change.NEWLY_DENIED, caller, target, "search", "allowed", "not_in_matrix", "") == kind
    ids = [json.loads(line)["attributes"]["ext_authz.decision_id"] for line in lines]
    assert (4, [ids[0], ids[2], ids[3]]) == (group.count, group.decision_ids)
    assert {"a" * 64: 4} == report.digests


def test_kinds_of_change() -> None:
    """What would be newly allowed comes first: it is what opens something."""
    lines = [
        line_with(),
        line_with(policy__decision="deny", ext_authz__reason="outside"),
        line_with(policy__decision="deny", ext_authz__shadow_decision="allow", ext_authz__shadow_reason="allowed"),
        line_with(),
    ]
    report = report_of(io.BytesIO(b"".join(lines)))
    assert [Change.NEWLY_ALLOWED, Change.NEWLY_DENIED, Change.OTHER_REASON] == [
        kind.change for kind, _ in report.sorted_groups()
    ]
    assert [1, 2, 1] == list(report.changes.values())


def test_digest() -> None:
    """Of several candidates in one file one can be chosen."""
    lines = [line_with(), line_with(ext_authz__shadow_digest="b" * 64)]
    assert 1 == report_of(io.BytesIO(b"".join(lines)), "bb").differences
    assert 2 == report_of(io.BytesIO(b"".join(lines))).differences


DAMAGED = {
    "no JSON": b"{",
    "no object": b"[]",
    "no text": b"\xff\xfe\x00",
    "cut": b'{"name": "a2a.policy.decision", "attributes": {"agent',
    "no attributes": b'{"name": "a2a.policy.decision"}',
    "attributes of another type": b'{"name": "a2a.policy.decision", "attributes": [1]}',
    "too deep": b"[" * 100_000,
    "too long": b'{"name": "a2a.policy.decision", "x": "' + b"x" * (2 * MAX_LINE_BYTES) + b'"}',
    "numbers that are too long": b"1" * 10_000,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_line(damage: str) -> None:
    """A line that is no record is counted and passed over; those around it count."""
    [line] = lines_of(QUESTION)
    report = report_of(io.BytesIO(line + DAMAGED[damage] + b"\n" + line))
    assert (2, 1, 2) == (report.records, report.damaged, report.differences)


def test_lines_of_others_are_no_damage() -> None:
    """Events, empty lines and records of other things are no decisions, and nothing is wrong with them."""
    report = report_of(io.BytesIO(EVENT + b"\n\r\n" + b'{"name": "else"}\n' + EVENT))
    assert (0, 0, 0) == (report.records, report.damaged, report.differences)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(lines_of(QUESTION)[0])["attributes"])), values))
def test_any_attributes(changes: dict[str, Any]) -> None:
    """Whatever stands in the attributes, the report is made, and nothing in it can change a terminal."""
    record = json.loads(lines_of(QUESTION)[0])
    record["attributes"] |= changes
    report = report_of(io.BytesIO(json.dumps(record).encode()))
    assert 1 == report.records
    for kind, group in report.sorted_groups():
        assert "".join((*kind.__slots__, *group.decision_ids, kind.caller, kind.target, kind.reason)).isprintable()


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Any file has a report."""
    assert 0 == report_of(io.BytesIO(data)).differences


def test_groups_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with very many kinds of difference is summed up in bounded memory, and nothing is left uncounted."""
    monkeypatch.setattr(shadow_report, "MAX_GROUPS", 2)
    lines = [line_with(agent__caller=str(number)) for number in (1, 2, 3, 4, 1)]
    report = report_of(io.BytesIO(b"".join(lines)))
    assert (5, 2, 2) == (report.differences, len(report.groups), report.ungrouped)
