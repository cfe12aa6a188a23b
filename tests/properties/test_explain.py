"""Explaining never says another thing than deciding, whatever is asked under whatever policy."""

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from properties.strategies import ACTIONS, AGENTS, EXAMPLES, questions
from support.authorizers import NOW, default_snapshot
from support.check_requests import Question
from support.delegated_policies import calling, delegated_snapshot
from support.delegations import CRM, EVIL, MAILER, PLANNER, RETRIEVER, SESSION, world
from support.delegations import NOW as DELEGATED_NOW

from ext_authz.attributes.request import parse_attributes
from ext_authz.decision.controls import Controls
from ext_authz.decision.decide import Call, Snapshot, decide
from ext_authz.decision.explain import OTHER, Explanation, explain
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.errors import NotAllowed, Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.engine import Matrix
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.policy.windows import Window, Windows
from ext_authz.tokens.revocation import Revocations


def grant(asked: Any) -> Grant:
    """Build a grant; st.builds would look for values of its other parts, which have no strategy."""
    return Grant(*asked)


keys = st.tuples(st.sampled_from(AGENTS[:5]), st.sampled_from(AGENTS[:5]), st.sampled_from(ACTIONS[:8]))
grants = st.tuples(
    st.builds(lambda line: Rule(f"matrix.yaml:{line}", "a cell"), st.integers(1, 9)),
    st.sampled_from(["required", "optional", "forbidden"]),
    st.just(frozenset()),
    st.sampled_from([None, 1]),
).map(grant)
matrices = st.tuples(
    st.dictionaries(keys, st.lists(grants, min_size=1, max_size=2).map(tuple), max_size=40),
    st.dictionaries(keys, st.just(Rule("matrix.yaml:10", "deny")), max_size=3),
).map(lambda parts: Matrix(*parts))
workloads = st.sampled_from([SpiffeId.parse_workload(name) for name in AGENTS])


def explained(question: Question, snapshot: Snapshot, now: float, peer: SpiffeId | None = None) -> Explanation | None:
    """Explain a question that can be read, and compare with the decision on it."""
    try:
        attributes = parse_attributes(question.serialized())
    except NotAllowed:
        return None
    call = Call("id", now, Stopwatch(lambda: 0), peer)
    explanation = explain(attributes, snapshot, call)
    decision = decide(attributes, snapshot, Call("id", now, Stopwatch(lambda: 0), peer))
    assert decision == explanation.decision
    decided_by = explanation.decided_by
    assert decision.reason is (decided_by.reason if decided_by else Reason.ALLOWED)
    assert OTHER not in {step.stage for step in explanation.steps}
    if decided_by is not None:
        assert decision.detail == decided_by.detail or decision.reason is Reason.INJECTION_DETECTED
    return explanation


always = Window("always", "windows.yaml:1", ZoneInfo("UTC"), frozenset(range(7)), 0, 24 * 60)
never = replace(always, name="never", days=frozenset())
windows = st.builds(lambda closed: Windows({}, tuple(closed)), st.lists(st.sampled_from([always, never]), max_size=1))


changes = st.fixed_dictionaries({"matrix": matrices, "windows": windows, "requires_timestamp": st.booleans()})
quarantines = st.dictionaries(workloads, st.sampled_from([NOW - 1, NOW, NOW + 1]), max_size=2)


@EXAMPLES
@given(questions, changes, quarantines, workloads)
def test_any_request_under_any_policy(
    question: Question, changed: dict[str, Any], quarantined: dict[SpiffeId, float], peer: SpiffeId
) -> None:
    """The first step that refuses has the decision's reason; when none does, the decision allows."""
    snapshot = default_snapshot()
    policy = replace(snapshot.policy, **changed)
    snapshot = replace(snapshot, policy=policy, controls=Controls(quarantined=quarantined))
    explained(question, snapshot, NOW)
    explained(question, snapshot, NOW, peer)


chains = st.sampled_from(
    [
        *(None, "", "a.b.c", world().root(), world().root(scopes=("tickets:read",)), world().root(once=True)),
        *(world().root(on_behalf_of="batch:1"), world().root(audience=CRM), world().two_links()),
    ]
)
parties = st.sampled_from([PLANNER, RETRIEVER, CRM, MAILER, EVIL])
controls = st.sampled_from(
    [
        Controls(),
        Controls(fresh_until=DELEGATED_NOW - 1),
        Controls(Revocations(session_ids=frozenset({SESSION}))),
        Controls(quarantined_sessions={SESSION: DELEGATED_NOW + 1}),
        Controls(consumes_once=True),
    ]
)


@EXAMPLES
@given(chains, parties, parties, st.sampled_from(["/v1/search", "/v1/tickets", "/v1/secrets", "/v2"]), controls)
def test_any_chain(chain: str | None, caller: SpiffeId, target: SpiffeId, path: str, state: Controls) -> None:
    """The same with chains that hold and chains that do not; a cell that allows is satisfied alone."""
    snapshot = delegated_snapshot(state)
    explanation = explained(calling(chain, caller, target, path=path), snapshot, DELEGATED_NOW)
    assert explanation is not None
    if explanation.decision.reason is Reason.ALLOWED:
        assert any(verdict.reason is Reason.ALLOWED for verdict in explanation.grants)
