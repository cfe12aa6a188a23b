"""When calls are allowed: the windows of cells, and times at which nobody may call."""

import pytest
from support.authorizers import NOW, KeptRecords, answer, new_authorizer, reason_of
from support.check_requests import QUESTION, Question, agent
from support.conditional_policies import OUTSIDE, conditional_snapshot

from ext_authz.authorizer import Authorizer

CLOSED = conditional_snapshot("closed: [this-minute]\n")


@pytest.mark.parametrize(
    ("reason", "target"),
    [
        ("allowed", "retrieval-agent"),
        ("outside_window", "summarizer-agent"),
        ("outside_window", "audit-agent"),
        ("allowed", "database-agent"),
        ("not_in_matrix", "nobody"),
    ],
)
def test_windows_of_a_cell(reason: str, target: str) -> None:
    """A cell counts while its windows let it; without any it always counts."""
    authorizer, _ = new_authorizer(conditional_snapshot())
    assert reason == reason_of(answer(authorizer, QUESTION.but(target=agent(target)).serialized()))


def test_record_names_the_cell_outside_of_its_windows() -> None:
    """A grant that does not count now is no rule that decided."""
    authorizer, recorder = new_authorizer(conditional_snapshot())
    answer(authorizer, OUTSIDE.serialized())
    attributes = recorder.records[0].attributes()
    assert "planner-agent -> summarizer-agent: search" == attributes["ext_authz.grant_text"]
    assert "ext_authz.rule" not in attributes


@pytest.mark.parametrize(
    "question",
    [QUESTION, QUESTION.but(caller=agent("nobody")), QUESTION.but(path="/unknown"), OUTSIDE, QUESTION.but(body=b"{")],
)
def test_closed_times_are_for_everybody(question: Question) -> None:
    """While all calls are closed no other question is asked, and the record names the window."""
    authorizer, recorder = new_authorizer(CLOSED)
    assert "outside_window" == reason_of(answer(authorizer, question.serialized()))
    attributes = recorder.records[0].attributes()
    assert ("policy.yaml:25", "closed this-minute") == (
        attributes["ext_authz.rule"],
        attributes["ext_authz.rule_text"],
    )


@pytest.mark.parametrize(
    ("reason", "now"),
    [("allowed", NOW - 9.5), ("outside_window", NOW - 9), ("outside_window", NOW + 50.9), ("allowed", NOW + 51)],
)
def test_boundary_seconds_of_closed_times(reason: str, now: float) -> None:
    """The clock of the decision counts: closed from the first second, open again with the first after it."""
    authorizer = Authorizer(CLOSED, KeptRecords(), clock=lambda: now)
    assert reason == reason_of(answer(authorizer, QUESTION.serialized()))
