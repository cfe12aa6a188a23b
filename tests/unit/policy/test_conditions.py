"""Conditions: what is true, false, missing and failed; what their authors are told; what they may cost."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.written_policies import ACTIONS, HEAD, problems_with

from ext_authz.documents.models import MAX_EXPRESSION_CHARACTERS, AccessTokenMode
from ext_authz.errors import NotAllowed, Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.conditions import Condition, ConditionCompiler, Truth
from ext_authz.policy.constraints import denied, satisfied
from ext_authz.policy.expression import ExpressionError
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Denial, Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

NOW = 1_795_299_009.25
PLANNER, CRM, STS = (
    SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}") for name in ("planner", "crm", "sts")
)
REQUEST = AuthorizationRequest(PLANNER, "read", CRM, Context(NOW))
CHAIN = Delegation(
    on_behalf_of="tenant-acme:7",
    session_id=None,
    scopes=frozenset({"read", "hr:read"}),
    allowed_targets=frozenset(),
    depth=2,
    hops=1,
    actors=(PLANNER,),
    root_issuer=STS,
    token_ids=("1",),
    expires_at=int(NOW) + 60,
    once=False,
)
HEADERS = {"x-agent-action": "read", "authorization": "Bearer secret"}
TOKEN = AccessToken(
    issuer="https://idp.example.com",
    subject="7",
    on_behalf_of="tenant-acme:7",
    scopes=frozenset({"read"}),
    client="console",
    actors=(),
    token_id=None,
    session_id=None,
    issued_at=int(NOW),
    expires_at=int(NOW) + 60,
)
WITH = Facts(REQUEST, "crm:read", CHAIN, TOKEN, asserted=HEADERS, policy_digest="abc")
WITHOUT = Facts(REQUEST, "crm:read", None)
COMPILER = ConditionCompiler()
TRUE, FALSE, MISSING, FAILED = Truth


def condition(text: str) -> Condition:
    """Compile the condition of a deny rule, which may name everything."""
    return COMPILER.compile(text, in_deny_rule=True)


# With a chain, without one.
TRUTHS: dict[str, tuple[Truth, Truth]] = {
    "true": (TRUE, TRUE),
    "delegation.present": (TRUE, FALSE),
    'delegation.sub.startsWith("tenant-acme:")': (TRUE, MISSING),
    'delegation.present && delegation.sub.startsWith("tenant-acme:")': (TRUE, FALSE),
    '!delegation.present || delegation.sub == "x"': (FALSE, TRUE),
    'delegation.sub == "tenant-acme:7" || true': (TRUE, TRUE),
    "has(delegation.session_id)": (FALSE, FALSE),
    'delegation.session_id == "x"': (MISSING, MISSING),
    '"hr:read" in delegation.scopes': (TRUE, MISSING),
    'delegation.scopes == ["hr:read", "read"]': (TRUE, MISSING),
    "delegation.scopes.exists(scope, scope == action.name)": (TRUE, MISSING),
    'delegation.actors[0] == "spiffe://agents.example.com/planner"': (TRUE, MISSING),
    'delegation.actors[1] == "x"': (MISSING, MISSING),
    "delegation.depth == 2 && delegation.hops == 1": (TRUE, MISSING),
    'delegation.root_issuer.endsWith("/sts")': (TRUE, MISSING),
    'delegation.expires_at - now > duration("59s")': (TRUE, MISSING),
    'delegation.expires_at - now > duration("60s")': (FALSE, MISSING),
    "access_token.present && !has(access_token.session_id)": (TRUE, FALSE),
    'access_token.issuer == "https://idp.example.com" && access_token.client == "console"': (TRUE, MISSING),
    'access_token.sub == delegation.sub && "read" in access_token.scopes': (TRUE, MISSING),
    "access_token.expires_at > now": (TRUE, MISSING),
    'now == timestamp("2026-11-21T22:10:09.25Z")': (TRUE, TRUE),
    'subject.id == "spiffe://agents.example.com/planner" && subject.path == "/planner"': (TRUE, TRUE),
    'subject.trust_domain == resource.trust_domain && resource.path == "/crm"': (TRUE, TRUE),
    'action.name == "read" && action.scope == "crm:read"': (TRUE, TRUE),
    'runtime.policy_digest == "abc"': (TRUE, FALSE),
    'asserted.headers["x-agent-action"] == "read"': (TRUE, MISSING),
    '"x-agent-action" in asserted.headers': (TRUE, FALSE),
    # A number is no text and no boolean: nothing is converted.
    "action.name == 1": (FALSE, FALSE),
    "delegation.present == 1": (FALSE, FALSE),
    'delegation.present == "true"': (FALSE, FALSE),
    # What fails on these facts alone.
    'subject.path == "/planner" ? 1 / 0 == 1 : true': (FAILED, FAILED),
    "delegation.hops == 1 ? 1 % 0 == 0 : true": (FAILED, MISSING),
    'subject.path != "/planner" || 9223372036854775807 + 1 > 0': (FAILED, FAILED),
    'action.name == "read" && action.name > 5': (FAILED, FAILED),
    'int(subject.path == "/planner" ? "x" : "1") == 1': (FAILED, FAILED),
    'subject.path == "/planner" ? timestamp("x") < now : true': (FAILED, FAILED),
    'subject.path != "/planner" || action.name': (FAILED, FAILED),
}


@pytest.mark.parametrize(("text", "truths"), TRUTHS.items(), ids=TRUTHS)
def test_truth(text: str, truths: tuple[Truth, Truth]) -> None:
    """A condition is true or false; a fact that is not there is missing, everything else that goes wrong has failed."""
    assert truths == tuple(condition(text).evaluate(facts) for facts in (WITH, WITHOUT))


def test_only_named_facts_are_shown() -> None:
    """The context holds what the condition names and nothing else, least of all tokens."""
    seen: list[dict[str, Any]] = []

    class Looking:
        def execute(self, context: dict[str, Any]) -> bool:
            seen.append(context)
            return True

    paths = frozenset({("asserted", "headers"), ("delegation", "sub"), ("delegation", "session_id")})
    assert TRUE is Condition("", Looking(), paths).evaluate(WITH)
    assert [{"asserted": {"headers": {"x-agent-action": "read"}}, "delegation": {"sub": "tenant-acme:7"}}] == seen


class Panic(BaseException):
    """What a panic in Rust becomes: no Exception."""


class Program:
    """A program that gives or raises something."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def execute(self, _: dict[str, Any]) -> Any:
        """Give the value, or raise it."""
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


@pytest.mark.parametrize("value", [None, 0, 1, "true", [], [True], {"a": True}, 1.0, Panic(), MemoryError(), OSError()])
def test_whatever_is_no_boolean_has_failed(value: Any) -> None:
    """Nothing is taken for true but true, and nothing that the library raises escapes."""
    assert FAILED is Condition("", Program(value), frozenset()).evaluate(WITH)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_who_ends_the_process_may(error: BaseException) -> None:
    """The two ways to end a process are not taken for a condition that failed."""
    with pytest.raises(type(error)):
        Condition("", Program(error), frozenset()).evaluate(WITH)


NOT_CEL = "not CEL: look for a missing bracket, operator or quote"
TYPES = "gives neither true nor false on a call with tokens: look at the types"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (NOT_CEL, "delegation.present &&"),
        ("`=` is not read here", "subject.id = 'x'"),
        (NOT_CEL, "(true"),
        (NOT_CEL, "true true"),
        (NOT_CEL, "'\\q' == ''"),
        (TYPES, "1"),
        (TYPES, "action.name"),
        (TYPES, "null"),
        (TYPES, "[true]"),
        (TYPES, "delegation.sub > 5"),
        (TYPES, "delegation.scopes + 1 == []"),
        (TYPES, "1 / 0 == 1"),
        (TYPES, "9223372036854775807 + 1 > 0"),
        (TYPES, "now > 5"),
        (TYPES, "delegation.present ? 1 : true"),
        (TYPES, "subject.id.size() && true"),
        (TYPES.replace("with", "without", 1), "delegation.present ? true : 1"),
        (TYPES.replace("with", "without", 1), "delegation.present || 1 > true"),
    ],
)
def test_what_is_told_at_load(message: str, text: str) -> None:
    """What is no CEL, no boolean or fails on the samples is told when it is loaded, not when it is needed."""
    with pytest.raises(ExpressionError) as caught:
        condition(text)
    assert message == str(caught.value)


def test_problems_have_places() -> None:
    """Conditions of cells and deny rules are checked in one run with everything else."""
    text = (
        f"{HEAD}matrix:\n  a: {{b: {{actions: [search], when: delegaton.present}}}}\n"
        "  c: {b: {actions: [search], when: '\"x-ai-prompt\" in asserted.headers'}}\n"
        "  d: {b: {actions: [search], when: ''}}\n"
        "deny:\n  - {subject: a, resource: b, action: search, when: 'true &&'}\n"
        f"  - {{subject: a, resource: b, action: serch, when: subject.id}}\n{ACTIONS}"
    )
    assert ["policy.yaml:6:36: an empty text is no name"] == problems_with(text)
    assert [
        "policy.yaml:4:36: `when`: unknown fact `delegaton`: did you mean `delegation`?",
        "policy.yaml:5:36: `when`: `asserted` is the caller's own word, which may never widen: only deny rules read it",
        f"policy.yaml:8:53: `when`: {NOT_CEL}",
        "policy.yaml:9:39: unknown action `serch`: did you mean `search`?",
        f"policy.yaml:9:52: `when`: {TYPES}",
    ] == problems_with(text.replace("when: ''", "when: 'true'"))


def test_length_is_bounded() -> None:
    """An expression of the longest length is read; one character more is not."""
    longest = "true" + " " * (MAX_EXPRESSION_CHARACTERS - 4)
    cell = f"{HEAD}matrix: {{a: {{b: {{actions: [serch], when: '{{}}'}}}}}}\n{ACTIONS}"
    unknown = ["policy.yaml:3:28: unknown action `serch`: did you mean `search`?"]
    assert unknown == problems_with(cell.replace("{}", longest))
    [problem] = problems_with(cell.replace("{}", longest + " "))
    assert "longer than 1024 characters" in problem


@pytest.mark.parametrize(
    "text",
    [
        "!" * 1000 + "true",
        "-" * 990 + "1 == 1",
        "true" + "&&true" * 170,
        "true ? " * 70 + "true" + " : true" * 70,
        "1" + "+1" * 500 + " > 0",
        "subject.id" + "+subject.id" * 90 + " == ''",
        "delegation.scopes.map(x, delegation.scopes + delegation.scopes).map(y, y + y).size() > 0",
        'asserted.headers["x-ai-prompt"]' + '+asserted.headers["x-ai-prompt"]' * 30 + " == ''",
    ],
)
def test_largest_conditions(text: str) -> None:
    """What the limits let through is evaluated or refused; it neither ends the process nor fills its memory."""
    assert len(text) <= MAX_EXPRESSION_CHARACTERS
    try:
        found = condition(text)
    except ExpressionError:
        return
    many = CHAIN._replace(scopes=frozenset(f"s{number:0>127}" for number in range(64)))
    facts = WITH._replace(delegation=many, asserted={"x-ai-prompt": "x" * 65536})
    assert found.evaluate(facts) in {TRUE, FALSE}


def test_library_is_imported_when_it_is_needed() -> None:
    """A policy without conditions does not load CEL."""
    program = (
        "import sys; from ext_authz.policy.conditions import ConditionCompiler as C; print('cel' in sys.modules);"
        "C().compile('true', in_deny_rule=False); print('cel' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    assert ["False", "True"] == output.split()


def grant(line: int, when: Condition | None) -> Grant:
    """Return a grant with a condition."""
    return Grant(Rule(f"matrix.yaml:{line}", ""), "optional", frozenset(), None, when=when)


def always(truth: Truth) -> Condition:
    """Return a condition that is always the same."""
    values = {TRUE: True, FALSE: False, MISSING: KeyError("sub"), FAILED: TypeError()}
    return Condition("", Program(values[truth]), frozenset())


def outcome(grants: list[Grant]) -> str:
    """Return the line of the grant that is satisfied, else the reason."""
    try:
        return satisfied(grants, WITHOUT).rule.where
    except NotAllowed as ending:
        return ending.reason


def test_token_that_a_cell_does_not_ask_for_adds_nothing() -> None:
    """A condition of a cell sees an access token only where the cell asks for one, whatever other cells do."""
    when = condition("access_token.present")
    modes: list[AccessTokenMode | None] = ["required", "optional", None]
    seen = [grant(1, when)._replace(delegation="optional", access_token=mode) for mode in modes]
    facts = WITH._replace(delegation=None, scope="read")
    assert [True, True, False] == [_is_satisfied(one, facts) for one in seen]


def _is_satisfied(one: Grant, facts: Facts) -> bool:
    try:
        satisfied([one], facts)
    except NotAllowed:
        return False
    return True


truths = st.sampled_from(list(Truth))


@given(st.lists(st.none() | truths, min_size=1, max_size=4))
def test_conditions_of_several_cells(drawn: list[Truth | None]) -> None:
    """One cell whose condition holds is enough, whatever happens to others; one that failed is never taken for a no."""
    grants = [grant(line, None if truth is None else always(truth)) for line, truth in enumerate(drawn)]
    expected = next(
        (f"matrix.yaml:{line}" for line, truth in enumerate(drawn) if truth in {None, TRUE}),
        Reason.CONDITION_ERROR if FAILED in drawn else Reason.CONDITION_FALSE,
    )
    assert expected == outcome(grants)


def test_what_a_chain_lacks_is_told_before_a_condition() -> None:
    """A cell that cannot be satisfied anyway does not evaluate its condition."""
    strict = grant(1, always(FAILED))._replace(delegation="required")
    assert Reason.TOKEN_MISSING == outcome([strict])


@given(st.lists(truths, max_size=4))
def test_conditions_of_deny_rules(drawn: list[Truth]) -> None:
    """A deny rule applies unless its condition is false, and the first that applies is named."""
    denials = [Denial(Rule(f"matrix.yaml:{line}", ""), always(truth)) for line, truth in enumerate(drawn)]
    applying = [line for line, truth in enumerate(drawn) if truth in {TRUE, MISSING}]
    failed = [line for line, truth in enumerate(drawn) if truth is FAILED]
    found = denied(denials, WITHOUT)
    if applying:
        assert (Reason.DENIED_BY_RULE, denials[applying[0]].rule) == found
    elif failed:
        assert (Reason.CONDITION_ERROR, denials[failed[0]].rule) == found
    else:
        assert found is None
