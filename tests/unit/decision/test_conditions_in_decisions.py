"""Conditions in whole decisions: when they are looked at, what is answered, and what is recorded."""

from dataclasses import replace

import pytest
from support.authorizers import answer, new_authorizer, reason_of
from support.check_requests import QUESTION, Question, agent
from support.conditional_policies import BREAKS, CONDITION_ERROR, CONDITION_FALSE, conditional_snapshot
from support.delegated_policies import POLICY, calling, delegated_snapshot
from support.delegations import CRM, MAILER, PLANNER, world
from support.written_policies import written_policy

from ext_authz.audit.record import AuditRecord
from ext_authz.decision.decide import Snapshot
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.compile import DelegationPolicy

PROMPT = [("x-ai-prompt", "hello")]


def asked(question: Question, snapshot: Snapshot) -> tuple[str, AuditRecord]:
    """Return the reason and the record."""
    authorizer, recorder = new_authorizer(snapshot)
    reason = reason_of(answer(authorizer, question.serialized()))
    return reason, recorder.records[0]


@pytest.mark.parametrize(
    ("reason", "question"),
    [
        ("condition_false", CONDITION_FALSE),
        ("condition_error", CONDITION_ERROR),
        ("allowed", QUESTION.but(target=agent("mail-agent"))),
        ("denied_by_rule", QUESTION.but(target=agent("mail-agent"), headers=PROMPT)),
        ("condition_error", QUESTION.but(target=agent("print-agent"))),
        ("not_in_matrix", QUESTION.but(target=agent("print-agent"), caller=agent("nobody"))),
        # Conditions come before bodies are read.
        ("condition_false", CONDITION_FALSE.but(body=b"{")),
        ("denied_by_rule", QUESTION.but(target=agent("mail-agent"), headers=PROMPT, body=b"{")),
        ("body_malformed", QUESTION.but(target=agent("mail-agent"), body=b"{")),
        # And behind everything that is cheaper.
        ("keys_unavailable", QUESTION.but(target=agent("print-agent"), headers=[("x-delegation-token", "a")])),
    ],
)
def test_conditions_in_decisions(reason: str, question: Question) -> None:
    """A condition of a cell must hold, one of a deny rule must not, and neither is looked at without a grant."""
    assert reason == asked(question, conditional_snapshot())[0]


@pytest.mark.parametrize(
    ("rule", "text", "question"),
    [
        (
            "policy.yaml:14",
            'deny planner-agent -> mail-agent: search when "x-ai-prompt" in asserted.headers',
            QUESTION.but(target=agent("mail-agent"), headers=PROMPT),
        ),
        (
            "policy.yaml:15",
            f"deny planner-agent -> print-agent: * when {BREAKS} because paper",
            QUESTION.but(target=agent("print-agent")),
        ),
    ],
)
def test_record_names_the_deny_rule(rule: str, text: str, question: Question) -> None:
    """The deny rule whose condition held, or failed, is the rule that decided."""
    attributes = asked(question, conditional_snapshot())[1].attributes()
    assert (rule, text) == (attributes["ext_authz.rule"], attributes["ext_authz.rule_text"])
    assert "ext_authz.grant" not in attributes


def test_callers_see_no_condition() -> None:
    """What is answered says that a condition does not hold, and not which."""
    authorizer, _ = new_authorizer(conditional_snapshot())
    for question in (CONDITION_FALSE, CONDITION_ERROR, QUESTION.but(target=agent("print-agent"))):
        body = answer(authorizer, question.serialized()).denied_response.body
        assert "condition" in body
        assert [] == [word for word in ("somebody-else", "1 / 0", "paper") if word in body]


def of_tenant(matrix: str) -> Snapshot:
    """Return the snapshot of the delegated policy with another matrix."""
    head, _, rest = POLICY.partition("matrix:")
    actions = rest.partition("---\nkind: ActionRegistry")[2].partition("---\nkind: Delegation")[0]
    written = written_policy(f"{head}{matrix}---\nkind: ActionRegistry{actions}")
    snapshot = delegated_snapshot()
    delegation = snapshot.policy.delegation
    assert isinstance(delegation, DelegationPolicy)
    return replace(snapshot, policy=replace(written, delegation=delegation))


TENANT = of_tenant(
    "matrix:\n  planner:\n    crm: {actions: [search], when: 'delegation.sub.startsWith(\"user:\")'}\n"
    "    mailer: [search]\n"
    "deny:\n  - {subject: planner, resource: mailer, action: search, when: delegation.sub != 'user:1'}\n"
)


@pytest.mark.parametrize(
    ("reason", "target", "has_chain"),
    [
        ("allowed", CRM, True),
        ("condition_false", CRM, False),
        ("denied_by_rule", MAILER, True),
        ("denied_by_rule", MAILER, False),
    ],
)
def test_chains_in_conditions(reason: str, target: SpiffeId, has_chain: bool) -> None:  # noqa: FBT001
    """A condition sees what a verified chain says; without one a cell does not count, and a deny rule applies."""
    chain = world().root(audience=target) if has_chain else None
    assert reason == asked(calling(chain, PLANNER, target), TENANT)[0]
