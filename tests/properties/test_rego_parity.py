"""The exported Rego, the engine and a slow obvious evaluator agree on every verdict."""

import json
import os
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regopy import Interpreter

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.constraints import satisfied
from ext_authz.policy.export.rego import to_rego
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.tokens.chain import Delegation

AGENTS = ("a", "b", "n/a", "n/b", "n/a/b")
RESOURCES = ("a", "n/b")
WILDCARDS = ("*", "n/*", "*/a", "*/*", "*/a/*")
ACTIONS = ("read", "write")
SCOPES = {"read": "kb:read", "write": "write"}
CALLS = list(product(AGENTS, RESOURCES, ACTIONS))

Document = dict[str, Any]
Call = tuple[str, str, str]
Shown = tuple[frozenset[str], int] | None  # scopes and hops of a chain
Question = tuple[Call, Shown]

names = st.sampled_from(AGENTS)
resources = st.sampled_from(RESOURCES)
actions = st.sampled_from(ACTIONS)
scopes = st.lists(st.sampled_from(["kb:read", "write", "hr"]), unique=True, max_size=3)
members = names | st.sampled_from(WILDCARDS)
subjects = members | st.just("@g")
cells = st.fixed_dictionaries(
    {"actions": st.lists(actions, min_size=1, max_size=2)},
    optional={
        "delegation": st.sampled_from(["optional", "required", "forbidden"]),
        "scopes": scopes,
        "max_hops": st.integers(1, 3),
    },
)
denials = st.fixed_dictionaries({"subject": subjects, "resource": resources, "action": actions | st.just("*")})
matrices = st.fixed_dictionaries(
    {
        "kind": st.just("PermissionMatrix"),
        "trust_domain": st.just("agents.example.com"),
        "groups": st.fixed_dictionaries({"g": st.lists(members, max_size=2)}),
        "matrix": st.dictionaries(subjects, st.dictionaries(resources, cells, max_size=2), max_size=4),
        "deny": st.lists(denials, max_size=2),
    }
)
chains = st.none() | st.tuples(scopes.map(frozenset), st.integers(1, 4))


def compiled(documents: list[Document]) -> Policy:
    """Load documents that stand in one file, each key on a line of its own."""
    registry = {
        "kind": "ActionRegistry",
        "actions": {name: {"asserted": True, "scope": SCOPES[name]} for name in ACTIONS},
    }
    # A cell that says nothing about delegation means the same as without this document.
    delegation = {
        "kind": "Delegation",
        "root_issuers": ["sts"],
        "required": False,
        "keys": {"sts": "https://sts.example.com/jwks"},
    }
    with tempfile.TemporaryDirectory() as name:
        text = "\n---\n".join(json.dumps(each, indent=1) for each in (registry, delegation, *documents))
        Path(name, "policy.yaml").write_text(text)
        return load(Path(name))


def workload(name: str) -> SpiffeId:
    return SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}")


def by_engine(policy: Policy, call: Call, shown: Shown) -> tuple[str, str]:
    """Return reason and rule as the decision gets them."""
    request = AuthorizationRequest(workload(call[0]), call[2], workload(call[1]), Context(0))
    reason, rule, grants, _ = policy.matrix.evaluate(request)
    if reason is Reason.ALLOWED:
        chain = None if shown is None else chain_of(*shown)
        try:
            rule = satisfied(grants, Facts(request, policy.registry.actions[call[2]].scope, chain)).rule
        except Refusal as refusal:
            reason = refusal.reason
    return reason.value, rule.where if rule else ""


def chain_of(shown_scopes: frozenset[str], hops: int) -> Delegation:
    """Return the authority of a chain with these scopes and hops."""
    agents = (workload("a"),) * hops
    return Delegation("user:1", None, shown_scopes, frozenset(), 0, hops, agents, workload("sts"), (), 0, once=False)


def by_rego(policy: Policy, questions: list[Question]) -> Iterator[tuple[str, str]]:
    """Yield reasons and rules as a Rego interpreter does, which compiles the module once."""
    interpreter = Interpreter()
    interpreter.add_module("policy", to_rego(policy).text)
    bundle = interpreter.build("data.ext_authz.decision")
    for question in questions:
        interpreter.set_input(asked(*question))
        [answer] = json.loads(str(interpreter.query_bundle(bundle)))["expressions"]
        assert answer["allow"] is (answer["reason"] == "allowed")
        yield answer["reason"], answer["rule"]


def asked(call: Call, shown: Shown) -> dict[str, Any]:
    """Return a question in the form that the module documents."""
    delegation = None if shown is None else {"scopes": sorted(shown[0]), "hops": shown[1]}
    question = {"subject": workload(call[0]).uri, "resource": workload(call[1]).uri, "action": call[2]}
    return {**question, "delegation": delegation}


def by_reading(documents: list[Document], call: Call, shown: Shown) -> str:
    """Return the reason by reading all documents from top to bottom."""
    subject, resource, action = call
    for document in documents:
        for denial in document["deny"]:
            if (
                any(fits(each, subject) for each in who(document, denial["subject"]))
                and denial["resource"] == resource
                and denial["action"] in (action, "*")
            ):
                return "denied_by_rule"
    # The caller's own cells say first why not, then those with the fewest wildcards, then those with them further left.
    cells = sorted(cells_about(documents, call), key=lambda found: stars(found[0]))
    reasons = [unmet(cell, action, shown) for _, cell in cells]
    return "allowed" if None in reasons else next(iter(reasons), None) or "not_in_matrix"


def who(document: Document, subject: str) -> list[str]:
    return document["groups"]["g"] if subject == "@g" else [subject]


def fits(subject: str, agent: str) -> bool:
    """Compare two paths segment by segment."""
    ours, theirs = subject.split("/"), agent.split("/")
    return len(ours) == len(theirs) and all(our in ("*", their) for our, their in zip(ours, theirs, strict=True))


def stars(subject: str) -> tuple[int, list[int]]:
    places = [place for place, segment in enumerate(subject.split("/")) if segment == "*"]
    return len(places), places


def cells_about(documents: list[Document], call: Call) -> Iterator[tuple[str, Document]]:
    """Yield the cells that grant a call, each with the subject by which it does."""
    for document in documents:
        for subject, row in document["matrix"].items():
            for resource, cell in row.items():
                for each in who(document, subject):
                    if fits(each, call[0]) and resource == call[1] and call[2] in cell["actions"]:
                        yield each, cell


def unmet(cell: Document, action: str, shown: Shown) -> str | None:
    mode = cell.get("delegation", "optional")
    if shown is None:
        return "token_missing" if mode == "required" else None
    if mode == "forbidden":
        return "token_forbidden"
    if not {SCOPES[action], *cell.get("scopes", [])} <= shown[0]:
        return "token_scope"
    return "hops_exceeded" if shown[1] > cell.get("max_hops", 99) else None


def check_agreement(documents: list[Document], shown: list[Shown]) -> None:
    """Compare the three on every call with each of these chains."""
    policy = compiled(documents)
    questions = list(product(CALLS, shown))
    answers = [by_engine(policy, *question) for question in questions]
    assert answers == list(by_rego(policy, questions))
    assert [reason for reason, _ in answers] == [by_reading(documents, *question) for question in questions]


policies = st.lists(matrices, min_size=1, max_size=2)
two_chains = st.lists(chains, min_size=2, max_size=2)


@settings(max_examples=160, deadline=None)
@given(policies, two_chains)
def test_three_evaluators_agree(documents: list[Document], shown: list[Shown]) -> None:
    """On 40 questions to each of 160 policies, reasons agree three ways and rules between engine and Rego."""
    check_agreement(documents, shown)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=int(os.environ.get("FUZZ_INPUTS", "100000")) // 400, deadline=None)
@given(policies, two_chains)
def test_three_evaluators_agree_for_long(documents: list[Document], shown: list[Shown]) -> None:
    """The same on a tenth of FUZZ_INPUTS questions."""
    check_agreement(documents, shown)
