"""Every call that the agents of policies/default could make: what is allowed stands here, everything else is denied."""

from itertools import product

import pytest
from support.authorizers import default_policy
from support.check_requests import agent

from ext_authz.errors import Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.request import AuthorizationRequest, Context

PLANNER, RETRIEVAL, SUMMARIZER = "planner-agent", "retrieval-agent", "summarizer-agent"
EXECUTOR, SANDBOX, DATABASE, AUDIT = "code-executor-agent", "sandbox-agent", "database-agent", "audit-agent"
VECTORS, INGEST = "vector-store-agent", "ingest-agent"
EXCHANGE, STRANGER = "token-exchange", "stranger-agent"
AGENTS = (PLANNER, RETRIEVAL, SUMMARIZER, EXECUTOR, SANDBOX, DATABASE, AUDIT, VECTORS, INGEST, EXCHANGE, STRANGER)
ACTIONS = (
    *("search", "fetch", "read", "write", "execute", "summarize", "classify", "embed", "recall"),
    *("vector.query", "vector.upsert", "vector.delete", "token.exchange"),
)

ALLOWED = {
    (PLANNER, RETRIEVAL, "search"),
    (PLANNER, RETRIEVAL, "fetch"),
    (PLANNER, SUMMARIZER, "summarize"),
    (PLANNER, SUMMARIZER, "classify"),
    (PLANNER, EXECUTOR, "execute"),
    (PLANNER, AUDIT, "read"),
    (RETRIEVAL, DATABASE, "read"),
    (RETRIEVAL, SUMMARIZER, "embed"),
    (RETRIEVAL, AUDIT, "read"),
    (RETRIEVAL, VECTORS, "vector.query"),
    (RETRIEVAL, VECTORS, "recall"),
    (INGEST, VECTORS, "vector.upsert"),
    (INGEST, VECTORS, "vector.delete"),
    (RETRIEVAL, EXCHANGE, "token.exchange"),
    (SUMMARIZER, EXCHANGE, "token.exchange"),
    (EXECUTOR, SANDBOX, "execute"),
    (EXECUTOR, SANDBOX, "write"),
}
CALLS = list(product(AGENTS, AGENTS, (*ACTIONS, "unregistered", "*", "")))


def expected(call: tuple[str, str, str]) -> Reason:
    """Return the reason that the table gives."""
    if (call[0], call[1]) == (EXECUTOR, DATABASE):
        return Reason.DENIED_BY_RULE
    return Reason.ALLOWED if call in ALLOWED else Reason.NOT_IN_MATRIX


@pytest.mark.parametrize("subject", AGENTS)
def test_every_call(subject: str) -> None:
    """No agent may do more or less than the table says, to whomever."""
    matrix = default_policy().matrix
    verdicts = {
        call: matrix.evaluate(
            AuthorizationRequest(
                SpiffeId.parse_workload(agent(call[0])), call[2], SpiffeId.parse_workload(agent(call[1])), Context(0)
            )
        ).reason
        for call in CALLS
        if call[0] == subject
    }
    assert {call: expected(call) for call in verdicts} == verdicts
    assert len(verdicts) == len(AGENTS) * (len(ACTIONS) + 3)


def test_table_is_complete() -> None:
    """The table knows every action of the registry and every grant of the matrix."""
    policy = default_policy()
    assert set(ACTIONS) == set(policy.registry.actions)
    assert {(agent(subject), agent(resource), action) for subject, resource, action in ALLOWED} == set(
        policy.matrix.grants
    )
    assert {(agent(EXECUTOR), agent(DATABASE), "*")} == set(policy.matrix.denials)
