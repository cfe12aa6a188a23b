"""Policies with wildcards: whom they mean, and that nothing which reads a matrix takes them for less than they are."""

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.written_policies import ACTIONS, HEAD, problems_with, written_policy

from ext_authz.errors import PolicyError, Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import MAX_SHAPES, Policy, load
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.policy.verdict import Verdict

STORE = SpiffeId.parse_workload("spiffe://agents.example.com/store")


def verdict_on(policy: Policy, caller: str, action: str = "search", resource: SpiffeId = STORE) -> Verdict:
    """Return the verdict on a call."""
    return policy.matrix.evaluate(AuthorizationRequest(SpiffeId.parse_workload(caller), action, resource, Context(0)))


CALLERS = {
    "spiffe://agents.example.com/ns/team-a/sa/planner": True,
    "spiffe://agents.example.com/ns/team-b/sa/planner": True,
    "spiffe://agents.example.com/ns/team-b/sa/crawler": False,
    "spiffe://agents.example.com/ns/planner": False,
    "spiffe://agents.example.com/ns/sa/planner": False,
    "spiffe://agents.example.com/ns/a/b/sa/planner": False,
    "spiffe://agents.example.com/ns/team-a/sa/planner/x": False,
    "spiffe://agents.example.com/x/ns/team-a/sa/planner": False,
    "spiffe://agents.example.com/NS/team-a/sa/planner": False,
    "spiffe://agents.example.com/ns/team-a/sa/Planner": False,
    "spiffe://partner.test/ns/team-a/sa/planner": False,
}


@pytest.mark.parametrize(
    "subject",
    ["ns/*/sa/planner", "/ns/*/sa/planner", "spiffe://agents.example.com/ns/*/sa/planner", '"@planners"'],
)
def test_wildcard_is_one_whole_segment(subject: str) -> None:
    """A wildcard stands for one segment in its place, in the trust domain that is written, in each way to name it."""
    groups = 'groups: {planners: ["ns/*/sa/planner"]}\n'
    policy = written_policy(f"{HEAD}{groups}matrix: {{{subject}: {{store: [search]}}}}\n{ACTIONS}")
    assert CALLERS == {caller: verdict_on(policy, caller).reason is Reason.ALLOWED for caller in CALLERS}
    assert CALLERS == {caller: policy.matrix.knows(caller) for caller in CALLERS}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "spiffe://agents.example.com/ns/*/sa/planner",
        "spiffe://agents.example.com/ns//sa/planner",
        "spiffe://agents.example.com/ns/../sa/planner",
        "spiffe://agents.example.com/ns/ /sa/planner",
        "spiffe://agents.example.com/ns/a/sa/planner\n",
        "spiffe://agents.example.com/ns/" + 3_000 * "a" + "/sa/planner",
    ],
)
def test_knows_no_text_that_is_no_id(text: str) -> None:
    """Who is no workload is unknown, also where everything but a segment fits: the bucket for unknown callers is theirs."""
    policy = written_policy(f"{HEAD}matrix: {{ns/*/sa/planner: {{store: [search]}}}}\n{ACTIONS}")
    assert not policy.matrix.knows(text)


def test_denied_by_pattern_is_not_known() -> None:
    """A pattern that stands in deny rules alone makes nobody known."""
    policy = written_policy(
        f"{HEAD}matrix: {{a: {{store: [search]}}}}\ndeny: [{{subject: '*', resource: store, action: '*'}}]\n{ACTIONS}"
    )
    assert policy.matrix.knows("spiffe://agents.example.com/a")
    assert not policy.matrix.knows("spiffe://agents.example.com/b")
    assert Reason.DENIED_BY_RULE is verdict_on(policy, "spiffe://agents.example.com/a").reason


def test_star_alone_goes_through_id_path() -> None:
    """A name that is only a wildcard is any name."""
    policy = written_policy(f'{HEAD}id_path: ns/agents/sa/{{name}}\nmatrix: {{"*": {{/store: [search]}}}}\n{ACTIONS}')
    answers = {
        path: verdict_on(policy, f"spiffe://agents.example.com/{path}").reason
        for path in ("ns/agents/sa/a", "ns/other/sa/a", "a")
    }
    nobody = Reason.NOT_IN_MATRIX
    assert {"ns/agents/sa/a": Reason.ALLOWED, "ns/other/sa/a": nobody, "a": nobody} == answers


def test_named_rule_comes_first() -> None:
    """The cell that names the caller says first what is missing, then the one with the fewest wildcards further left."""
    rows = "".join(f"  '{subject}': {{store: [search]}}\n" for subject in ("*/*", "a/*", "*/b", "a/b"))
    policy = written_policy(f"{HEAD}matrix:\n{rows}{ACTIONS}")
    grants = verdict_on(policy, "spiffe://agents.example.com/a/b").grants
    assert [f"policy.yaml:{line}" for line in (7, 6, 5, 4)] == [grant.rule.where for grant in grants]


def test_problems_of_wildcards() -> None:
    """Where no wildcard may stand, and what is none, is told with its place."""
    text = (
        f"{HEAD}groups: {{g: [team-*, ns/*/sa/x]}}\n"
        "matrix:\n  ns/**/x:\n    store: [search]\n  a:\n    ns/*/sa/store: [search]\n  spiffe://*/a:\n    store: [search]\n"
        "deny:\n  - {subject: 'b*', resource: '*', action: search}\n"
    )
    whole, alone = "`*` stands for one whole segment of a path", "`*` stands in subjects alone"
    assert [
        f"policy.yaml:3:14: `team-*` names no workload: {whole}",
        f"policy.yaml:5:3: `ns/**/x` names no workload: {whole}",
        f"policy.yaml:8:5: `ns/*/sa/store` names no workload: {alone}",
        f"policy.yaml:9:3: `spiffe://*/a` names no workload: {whole}",
        f"policy.yaml:12:15: `b*` names no workload: {whole}",
        f"policy.yaml:12:31: `*` names no workload: {alone}",
    ] == problems_with(text + ACTIONS)


def test_pattern_beyond_what_a_partner_lists() -> None:
    """A pattern of another trust domain is granted nothing where only some of its workloads are listed, or none."""
    grant = f"{HEAD}matrix: {{spiffe://partner.test/ns/*/sa/x: {{store: [search]}}}}\n{ACTIONS}"
    listed = "---\nkind: TrustDomains\ntrust_domains: {partner.test: {subjects: [ns/a/sa/x]}}\n"
    anyone = "---\nkind: TrustDomains\ntrust_domains: {partner.test: {}}\n"
    [unlisted] = problems_with(grant)
    assert unlisted.endswith("no TrustDomains document lists `partner.test`")
    [too_wide] = problems_with(grant + listed)
    assert too_wide.endswith("the `subjects` of `partner.test` leave out `/ns/*/sa/x`")
    assert Reason.ALLOWED is verdict_on(written_policy(grant + anyone), "spiffe://partner.test/ns/a/sa/x").reason


def test_limits_of_who_fits() -> None:
    """A caller whom only a wildcard is about can be limited by name; a pattern in its place is an error."""
    grant = f"{HEAD}matrix: {{'*': {{store: [search]}}}}\n{ACTIONS}"
    limits = "---\nkind: Limits\ncallers: {a: 5/min}\n"
    policy = written_policy(grant + limits)
    assert policy.limits is not None
    assert ["spiffe://agents.example.com/a"] == list(policy.limits.callers)
    [problem] = problems_with(grant + limits.replace("{a:", "{'*':"))
    assert "`*` names no workload" in problem


def test_number_of_shapes_is_bounded() -> None:
    """A policy cannot make each decision look in more places than the limit."""
    names = ["/".join("*" if number >> place & 1 else "x" for place in range(5)) for number in range(1, MAX_SHAPES + 3)]
    rows = [f"  '{name}': {{store: [search]}}\n" for name in names]
    most = written_policy(f"{HEAD}matrix:\n{''.join(rows[:MAX_SHAPES])}{ACTIONS}")
    assert MAX_SHAPES == len(most.matrix.patterns.shapes)
    assert ["policy.yaml:20:3: subjects of a policy have `*` in at most 16 combinations of places"] == problems_with(
        f"{HEAD}matrix:\n{''.join(rows)}{ACTIONS}"
    )


# Segments that nothing names stand for all that could come.
WRITTEN, STRANGE = ("a", "b"), ("y", "z")
ids = st.lists(st.sampled_from([*WRITTEN, "*"]), min_size=1, max_size=2).map(lambda path: "/" + "/".join(path))
resources = st.lists(st.sampled_from(WRITTEN), min_size=1, max_size=2).map(lambda path: "/" + "/".join(path))
actions = st.sampled_from(["search", "write"])
matrices = st.fixed_dictionaries(
    {
        "groups": st.fixed_dictionaries({"g": st.lists(ids, max_size=2)}),
        "matrix": st.dictionaries(
            ids | st.just("@g"),
            st.dictionaries(resources, st.lists(actions, min_size=1, unique=True), min_size=1, max_size=2),
            max_size=4,
        ),
        "deny": st.lists(
            st.fixed_dictionaries(
                {"subject": ids | st.just("@g"), "resource": resources, "action": actions | st.just("*")},
                optional={"when": st.just("subject.path != '/a/b'")},
            ),
            max_size=3,
        ),
    }
)
WORKLOADS = ["/" + "/".join(path) for length in (1, 2) for path in product((*WRITTEN, *STRANGE), repeat=length)]
RESOURCES = ["/" + "/".join(path) for length in (1, 2) for path in product(WRITTEN, repeat=length)]
CALLS = list(product(WORKLOADS, RESOURCES, ("search", "write")))

Document = dict[str, Any]
Call = tuple[str, str, str]


def compiled(document: Document) -> Policy:
    """Return the policy of a document. Raises PolicyError."""
    written = {"kind": "PermissionMatrix", "trust_domain": "agents.example.com", **document}
    with tempfile.TemporaryDirectory() as name:
        Path(name, "policy.yaml").write_text(f"{json.dumps(written)}\n{ACTIONS}")
        return load(Path(name))


def fits(document: Document, subject: str, caller: str) -> int:
    """Count how often a subject of a document means a caller, segment by segment."""
    members = document["groups"]["g"] if subject == "@g" else [subject]
    theirs = caller.split("/")
    return sum(
        len(ours) == len(theirs) and all(our in ("*", their) for our, their in zip(ours, theirs, strict=True))
        for ours in (member.split("/") for member in members)
    )


def obvious(document: Document, call: Call) -> tuple[Reason, int, int]:
    """Return the reason, the number of grants and of conditional denials by looking at every rule."""
    caller, resource, action = call
    denials = [
        (rule, fits(document, rule["subject"], caller))
        for rule in document["deny"]
        if rule["resource"] == resource and rule["action"] in (action, "*")
    ]
    if any(count and "when" not in rule for rule, count in denials):
        return Reason.DENIED_BY_RULE, 0, 0
    grants = sum(
        fits(document, subject, caller) * (action in row.get(resource, []))
        for subject, row in document["matrix"].items()
    )
    return (Reason.ALLOWED, grants, sum(count for _, count in denials)) if grants else (Reason.NOT_IN_MATRIX, 0, 0)


def workload(path: str) -> SpiffeId:
    """Return the workload of a path."""
    return SpiffeId.parse_workload(f"spiffe://agents.example.com{path}")


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_agrees_with_the_segment_by_segment_evaluator(document: Document) -> None:
    """The look-ups find every rule that fits, and no other, also for workloads that are written nowhere."""
    policy = compiled(document)
    for call in CALLS:
        caller, resource, action = call
        verdict = verdict_on(policy, workload(caller).uri, action, workload(resource))
        assert obvious(document, call) == (verdict.reason, len(verdict.grants), len(verdict.denials))


@settings(max_examples=60, deadline=None)
@given(matrices, ids, resources, actions | st.just("*"))
def test_added_denial_never_allows(document: Document, subject: str, resource: str, action: str) -> None:
    """One denial more takes away whom it fits, and gives nothing."""
    denial = {"subject": subject, "resource": resource, "action": action}
    before, after = compiled(document), compiled({**document, "deny": [*document["deny"], denial]})
    for caller, called, asked in CALLS:
        was, became = (
            verdict_on(policy, workload(caller).uri, asked, workload(called)).reason for policy in (before, after)
        )
        taken = fits(document, subject, caller) and called == resource and action in (asked, "*")
        assert became is (Reason.DENIED_BY_RULE if taken else was)


@settings(max_examples=300, deadline=None)
@given(matrices, ids | st.just("@g"), ids | st.just("@g"))
def test_load_refuses_exactly_what_leads_there(document: Document, start: str, goal: str) -> None:
    """A policy loads exactly when none of the workloads there could be gets from the one to the other, call by call."""
    steps: dict[str, set[str]] = {}
    unconditional = {**document, "deny": [rule for rule in document["deny"] if "when" not in rule]}
    for call in CALLS:
        if obvious(unconditional, call)[0] is Reason.ALLOWED:
            steps.setdefault(call[0], set()).add(call[1])
    found: set[str] = set().union(*(to for caller, to in steps.items() if fits(document, start, caller)))
    for _ in RESOURCES:
        found |= {to for agent in found for to in steps.get(agent, ())}
    is_violated = any(fits(document, goal, each) for each in found)
    invariant = {"from": start, "must_not_reach": goal}
    try:
        compiled({**document, "invariants": [invariant]})
    except PolicyError:
        assert is_violated
    else:
        assert not is_violated


VIOLATIONS = {
    "the start fits": (
        "ns/*/sa/x: {db: [search]}",
        "",
        "{from: ns/a/sa/x, must_not_reach: db}",
        "`ns/a/sa/x` must not reach `db`: ns/a/sa/x -> db (policy.yaml:3)",
    ),
    "who is between fits": (
        "a: {ns/t/sa/x: [search]}, ns/*/sa/x: {db: [write]}",
        "",
        "{from: a, must_not_reach: db}",
        "`a` must not reach `db`: a -> ns/t/sa/x (policy.yaml:3) -> db (policy.yaml:3)",
    ),
    "anyone who fits the start": (
        "ns/a/sa/*: {db: [search]}",
        "",
        "{from: ns/*/sa/x, must_not_reach: db}",
        "`ns/*/sa/x` must not reach `db`: ns/*/sa/x -> db (policy.yaml:3)",
    ),
    "one by name who fits the start": (
        "ns/a/sa/x: {db: [search]}",
        "",
        "{from: ns/*/sa/x, must_not_reach: db}",
        "`ns/*/sa/x` must not reach `db`: ns/*/sa/x -> db (policy.yaml:3)",
    ),
    "anyone who fits the goal": (
        "a: {ns/t/sa/x: [search]}",
        "",
        "{from: a, must_not_reach: ns/*/sa/x}",
        "`a` must not reach `ns/*/sa/x`: a -> ns/t/sa/x (policy.yaml:3)",
    ),
    "denied to others alone": (
        "'*': {db: [search]}",
        "{subject: b, resource: db, action: '*'}",
        "{from: a, must_not_reach: db}",
        "`a` must not reach `db`: a -> db (policy.yaml:3)",
    ),
    "denied to some who fit": (
        "ns/*/sa/x: {db: [search]}",
        "{subject: ns/a/sa/*, resource: db, action: '*'}",
        "{from: ns/*/sa/x, must_not_reach: db}",
        "`ns/*/sa/x` must not reach `db`: ns/*/sa/x -> db (policy.yaml:3)",
    ),
    "denied to all who fit": (
        "ns/*/sa/x: {db: [search]}",
        "{subject: ns/*/sa/*, resource: db, action: search}",
        "{from: ns/*/sa/x, must_not_reach: db}",
        None,
    ),
    "others fit": ("ns/*/sa/x: {db: [search]}", "", "{from: ns/a/b/sa/x, must_not_reach: db}", None),
}


@pytest.mark.parametrize(("rows", "denial", "invariant", "problem"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_invariants_see_wildcards(rows: str, denial: str, invariant: str, problem: str | None) -> None:
    """A grant to a wildcard is a step of everyone who fits it; a violation prints the way, with the wildcard's line."""
    text = f"{HEAD}matrix: {{{rows}}}\ndeny: [{denial}]\ninvariants: [{invariant}]\n{ACTIONS}"
    if problem is None:
        written_policy(text)
    else:
        assert [f"policy.yaml:5:14: {problem}"] == problems_with(text)
