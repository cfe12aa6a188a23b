"""What a grant asks of an access token: mode and scopes, beside a delegation and alone."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.documents.models import AccessTokenMode, DelegationMode
from ext_authz.errors import InsufficientScope, Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.constraints import satisfied
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

AGENT = SpiffeId.parse_workload("spiffe://agents.example.com/planner")
REQUEST = AuthorizationRequest(AGENT, "read", AGENT, Context(0))
MISSING, FORBIDDEN, SCOPE = Reason.OIDC_MISSING, Reason.TOKEN_FORBIDDEN, Reason.OIDC_SCOPE
HERE = "matrix.yaml:1"


def grant(mode: AccessTokenMode | None, *scopes: str, delegation: DelegationMode = "optional", line: int = 1) -> Grant:
    """Return a grant of one line of a policy."""
    return Grant(
        Rule(f"matrix.yaml:{line}", "planner -> crm: read"), delegation, frozenset(scopes), None, access_token=mode
    )


def access_token(*scopes: str) -> AccessToken:
    """Return a verified access token."""
    return AccessToken("https://id.example.com", "1", "user:1", frozenset(scopes), None, (), None, None, 0, 1)


def chain(*scopes: str) -> Delegation:
    """Return a verified chain."""
    return Delegation("user:1", None, frozenset(scopes), frozenset(), 0, 1, (AGENT,), AGENT, (), 0, once=False)


def outcome(
    grants: Sequence[Grant],
    shown: AccessToken | None,
    delegation: Delegation | None = None,
    *,
    came: bool | None = None,
) -> str:
    """Return the place of the grant that is satisfied, else the reason. `came`: whether the header did."""
    facts = Facts(REQUEST, "read", delegation, shown, shown is not None if came is None else came)
    try:
        return satisfied(grants, facts).rule.where
    except Refusal as refusal:
        return refusal.reason


ONE_GRANT: dict[str, tuple[str, Grant, AccessToken | None]] = {
    "not asked, absent": (HERE, grant(None), None),
    "not asked, present": (HERE, grant(None), access_token()),
    "not asked, scopes are those of chains": (HERE, grant(None, "hr"), access_token()),
    "required, absent": (MISSING, grant("required"), None),
    "optional, absent": (HERE, grant("optional"), None),
    "forbidden, absent": (HERE, grant("forbidden"), None),
    "required, present": (HERE, grant("required"), access_token("read")),
    "optional, present": (HERE, grant("optional"), access_token("read")),
    "forbidden, present": (FORBIDDEN, grant("forbidden"), access_token("read")),
    "no scope of the action": (SCOPE, grant("required"), access_token("write")),
    "optional, no scope of the action": (SCOPE, grant("optional"), access_token()),
    "more than the scope": (SCOPE, grant("required"), access_token("read:all", "Read", "*")),
    "every scope of the cell": (HERE, grant("required", "hr"), access_token("hr", "read")),
    "no scope of the cell": (SCOPE, grant("required", "hr"), access_token("read")),
}


@pytest.mark.parametrize(("expected", "asked", "shown"), ONE_GRANT.values(), ids=ONE_GRANT)
def test_one_grant(expected: str, asked: Grant, shown: AccessToken | None) -> None:
    """A grant is satisfied when its mode and every scope are; else the first of them says why not."""
    assert expected == outcome([asked], shown)


def test_forbidden_is_about_the_header() -> None:
    """A cell that forbids access tokens refuses the header, whatever it holds: nobody verified it."""
    assert FORBIDDEN == outcome([grant("forbidden")], None, came=True)
    assert HERE == outcome([grant("optional")], None, came=False)


def test_scope_must_be_in_both() -> None:
    """With a chain too, each must have every scope; the chain says first why not."""
    asked = [grant("required", "hr")]
    both = ("read", "hr")
    assert HERE == outcome(asked, access_token(*both), chain(*both))
    assert SCOPE == outcome(asked, access_token("read"), chain(*both))
    assert Reason.TOKEN_SCOPE == outcome(asked, access_token(*both), chain("read"))
    assert Reason.TOKEN_SCOPE == outcome(asked, access_token("hr"), chain("read"))


def test_chain_that_is_missing_is_said_first() -> None:
    """A grant that needs both says which comes first."""
    assert Reason.TOKEN_MISSING == outcome([grant("required", delegation="required")], None)
    assert MISSING == outcome([grant("required", delegation="required")], None, chain("read"))


def test_each_grant_stands_alone() -> None:
    """One grant that is satisfied is enough, whatever another asks of an access token."""
    grants = [grant("required", "hr", line=1), grant("forbidden", line=2), grant(None, line=3)]
    assert "matrix.yaml:1" == outcome(grants, access_token("read", "hr"))
    assert "matrix.yaml:2" == outcome(grants, None)
    assert "matrix.yaml:3" == outcome(grants, access_token("read"))
    assert SCOPE == outcome(grants[:2], access_token("read"))


def test_refusal_names_what_was_needed() -> None:
    """What an access token lacks is told: the action's scope first, then those of the first grant."""
    facts = Facts(REQUEST, "read", None, access_token(), has_authorization=True)
    with pytest.raises(InsufficientScope) as caught:
        satisfied([grant("required", "kb", "hr", "read"), grant("required", "x")], facts)
    assert ("read", "hr", "kb") == caught.value.scopes


scopes = st.frozensets(st.sampled_from(["read", "hr", "kb"]))
modes: st.SearchStrategy[AccessTokenMode | None] = st.sampled_from([None, "required", "optional", "forbidden"])
grants_lists = st.lists(st.builds(lambda mode, has: grant(mode, *has), modes, scopes), min_size=1, max_size=4)
tokens = st.none() | st.builds(lambda has: access_token(*has), scopes)


@given(grants_lists, tokens)
def test_agrees_with_the_obvious_evaluator(grants: list[Grant], shown: AccessToken | None) -> None:
    """It is allowed exactly when some grant, looked at alone, says so."""

    def allows(one: Grant) -> bool:
        match one.access_token:
            case None:
                return True
            case "forbidden":
                return shown is None
            case "optional" if shown is None:
                return True
        return shown is not None and {"read", *one.scopes} <= shown.scopes

    assert any(map(allows, grants)) is (outcome(grants, shown) == HERE)


@given(grants_lists, tokens, scopes)
def test_less_scope_never_allows_more(grants: list[Grant], shown: AccessToken | None, kept: frozenset[str]) -> None:
    """Who asks for a narrower token never gains by it."""
    if shown is not None and outcome(grants, shown) != HERE:
        assert HERE != outcome(grants, shown._replace(scopes=shown.scopes & kept))
