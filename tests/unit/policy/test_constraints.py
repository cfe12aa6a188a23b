"""What a grant asks of a delegation: mode, scopes, hops; and which of several grants decides."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.documents.models import DelegationMode
from ext_authz.errors import NotAllowed, Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.constraints import satisfied
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.chain import Delegation

AGENT = SpiffeId.parse_workload("spiffe://agents.example.com/planner")
ISSUER = SpiffeId.parse_workload("spiffe://agents.example.com/sts")
REQUEST = AuthorizationRequest(AGENT, "read", ISSUER, Context(0))
MISSING, FORBIDDEN = Reason.TOKEN_MISSING, Reason.TOKEN_FORBIDDEN
SCOPE, HOPS = Reason.TOKEN_SCOPE, Reason.HOPS_EXCEEDED


def grant(mode: DelegationMode = "required", *scopes: str, max_hops: int | None = None, line: int = 1) -> Grant:
    """Return a grant of one line of a policy."""
    return Grant(Rule(f"matrix.yaml:{line}", "planner -> crm: read"), mode, frozenset(scopes), max_hops)


def delegation(*scopes: str, hops: int = 1) -> Delegation:
    """Return the authority of a chain."""
    return Delegation(
        on_behalf_of="user:1",
        session_id=None,
        scopes=frozenset(scopes),
        allowed_targets=frozenset(),
        depth=0,
        hops=hops,
        actors=(AGENT,) * hops,
        root_issuer=ISSUER,
        token_ids=(),
        expires_at=0,
        once=False,
    )


def outcome(grants: Sequence[Grant], given: Delegation | None, scope: str = "read") -> str:
    """Return the place of the grant that is satisfied, else the reason."""
    try:
        return satisfied(grants, Facts(REQUEST, scope, given)).rule.where
    except NotAllowed as refusal:
        return refusal.reason


HERE = "matrix.yaml:1"
ONE_GRANT: dict[str, tuple[str, Grant, Delegation | None]] = {
    "required, absent": (MISSING, grant("required"), None),
    "optional, absent": (HERE, grant("optional"), None),
    "forbidden, absent": (HERE, grant("forbidden"), None),
    "required, present": (HERE, grant("required"), delegation("read")),
    "optional, present": (HERE, grant("optional"), delegation("read")),
    "forbidden, present": (FORBIDDEN, grant("forbidden"), delegation("read")),
    "no scope of the action": (SCOPE, grant(), delegation("write")),
    "optional, no scope of the action": (SCOPE, grant("optional"), delegation("write")),
    "no scopes at all": (SCOPE, grant(), delegation()),
    "the scope in other letters": (SCOPE, grant(), delegation("Read")),
    "the beginning of the scope": (SCOPE, grant(), delegation("rea")),
    "more than the scope": (SCOPE, grant(), delegation("read:all")),
    "a star is a letter": (SCOPE, grant(), delegation("*")),
    "every scope of the cell": (HERE, grant("required", "hr", "kb"), delegation("read", "hr", "kb", "x")),
    "one scope of the cell": (SCOPE, grant("required", "hr", "kb"), delegation("read", "hr")),
    "scopes of the cell, not the action's": (SCOPE, grant("required", "hr"), delegation("hr")),
    "scopes of the cell, absent": (HERE, grant("optional", "hr"), None),
    "as many hops": (HERE, grant(max_hops=2), delegation("read", hops=2)),
    "a hop too many": (HOPS, grant(max_hops=2), delegation("read", hops=3)),
    "hops, absent": (HERE, grant("optional", max_hops=1), None),
    "scope before hops": (SCOPE, grant(max_hops=1), delegation("write", hops=2)),
    "forbidden before scope": (FORBIDDEN, grant("forbidden", "hr", max_hops=1), delegation("write", hops=2)),
}


@pytest.mark.parametrize(("expected", "asked", "shown"), ONE_GRANT.values(), ids=ONE_GRANT)
def test_one_grant(expected: str, asked: Grant, shown: Delegation | None) -> None:
    """A grant is satisfied when its mode, every scope and the hops are; else the first of them says why not."""
    assert expected == outcome([asked], shown)


def test_scope_of_the_action_counts_not_its_name() -> None:
    """An action may need another scope than its name."""
    assert HERE == outcome([grant()], delegation("llm:read"), scope="llm:read")
    assert SCOPE == outcome([grant()], delegation("read"), scope="llm:read")


def test_first_satisfied_grant_decides() -> None:
    """Grants are alternatives: the first that is satisfied is the rule, whatever stands before and behind it."""
    grants = [grant("forbidden", line=1), grant("required", "hr", line=2), grant(line=3), grant("optional", line=4)]
    assert "matrix.yaml:1" == outcome(grants, None)
    assert "matrix.yaml:2" == outcome(grants, delegation("read", "hr"))
    assert "matrix.yaml:3" == outcome(grants, delegation("read"))


def test_reason_is_that_of_the_first_grant() -> None:
    """When no grant is satisfied, the first one says why."""
    strict, near = grant("required", "hr", "kb"), grant("required", max_hops=1)
    assert [SCOPE, HOPS] == [outcome(grants, delegation("read", hops=2)) for grants in ([strict, near], [near, strict])]


def test_parts_of_grants_do_not_add_up() -> None:
    """What one grant allows in mode and another in scope is allowed by neither."""
    assert FORBIDDEN == outcome([grant("forbidden"), grant("required", "hr")], delegation("read"))


scopes = st.frozensets(st.sampled_from(["read", "hr", "kb"]))
modes: st.SearchStrategy[DelegationMode] = st.sampled_from(["required", "optional", "forbidden"])
grants_lists = st.lists(
    st.builds(lambda *asked: Grant(grant().rule, *asked), modes, scopes, st.none() | st.integers(1, 6)),
    min_size=1,
    max_size=4,
)
delegations = st.none() | st.builds(lambda has, hops: delegation(*has, hops=hops), scopes, st.integers(0, 6))


@given(grants_lists, delegations)
def test_agrees_with_the_obvious_evaluator(grants: list[Grant], shown: Delegation | None) -> None:
    """It is allowed exactly when some grant, looked at alone, says so."""

    def allows(one: Grant) -> bool:
        if shown is None:
            return one.delegation != "required"
        hops = 6 if one.max_hops is None else one.max_hops
        return one.delegation != "forbidden" and {"read", *one.scopes} <= shown.scopes and shown.hops <= hops

    is_allowed = outcome(grants, shown) == HERE
    assert any(map(allows, grants)) is is_allowed


@given(grants_lists, delegations, scopes)
def test_less_scope_never_allows_more(grants: list[Grant], shown: Delegation | None, kept: frozenset[str]) -> None:
    """Who narrows a chain never gains by it."""
    if shown is not None and outcome(grants, shown) != HERE:
        assert HERE != outcome(grants, shown._replace(scopes=shown.scopes & kept))
