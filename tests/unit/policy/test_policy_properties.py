"""What holds for every policy, compared with an evaluator that is slow and obvious."""

import json
import random
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ext_authz.errors import Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy, load
from ext_authz.policy.request import AuthorizationRequest, Context

AGENTS = ("a", "b", "c")
GROUPS = ("g", "h")
ACTIONS = ("read", "write")
CALLS = list(product(AGENTS, AGENTS, ACTIONS))
REGISTRY = {"kind": "ActionRegistry", "actions": {action: {"asserted": True} for action in ACTIONS}}

Call = tuple[str, str, str]
Matrix = dict[str, Any]  # a PermissionMatrix document as plain values

EXAMPLES = settings(max_examples=150, deadline=None)

# One agent has three spellings.
names = st.builds(
    lambda name, spelling: spelling.format(name),
    st.sampled_from(AGENTS),
    st.sampled_from(["{}", "/{}", "spiffe://agents.example.com/{}"]),
)
subjects = names | st.sampled_from([f"@{group}" for group in GROUPS])
actions = st.sampled_from(ACTIONS)
cells = st.lists(actions, min_size=1, max_size=2) | st.builds(
    lambda granted: {"actions": granted}, st.lists(actions, min_size=1, max_size=2)
)
denials = st.fixed_dictionaries({"subject": subjects, "resource": names, "action": actions | st.just("*")})
matrices = st.fixed_dictionaries(
    {
        "kind": st.just("PermissionMatrix"),
        "trust_domain": st.just("agents.example.com"),
        "groups": st.fixed_dictionaries({group: st.lists(names, max_size=2) for group in GROUPS}),
        "matrix": st.dictionaries(subjects, st.dictionaries(names, cells, max_size=3), max_size=3),
        "deny": st.lists(denials, max_size=2),
    }
)
policies = st.lists(matrices, min_size=1, max_size=3)


def compiled(documents: list[Matrix], files: int = 1) -> Policy:
    """Write documents into so many files, dealt out in turn, and load the directory."""
    with tempfile.TemporaryDirectory() as name:
        for number in range(files):
            dealt = [json.dumps(document) for document in (REGISTRY, *documents)[number::files]]
            Path(name, f"{number}.yaml").write_text("---\n" + "\n---\n".join(dealt))
        return load(Path(name))


def verdicts(policy: Policy) -> dict[Call, Reason]:
    """Return the reasons for every call there is."""
    workloads = {name: SpiffeId.parse_workload(f"spiffe://agents.example.com/{name}") for name in AGENTS}
    return {
        call: policy.matrix.evaluate(
            AuthorizationRequest(workloads[call[0]], call[2], workloads[call[1]], Context(0))
        ).reason
        for call in CALLS
    }


def allowed(policy: Policy) -> set[Call]:
    """Return the calls that a policy allows."""
    return {call for call, reason in verdicts(policy).items() if reason is Reason.ALLOWED}


def agent_of(name: str) -> str:
    """Return the agent that a spelling means."""
    return name.rpartition("/")[2]


def who(document: Matrix, subject: str) -> set[str]:
    """Return the agents that a subject of a document means."""
    members = document["groups"][subject[1:]] if subject.startswith("@") else [subject]
    return {agent_of(member) for member in members}


def granted(document: Matrix) -> Iterator[Call]:
    """Yield every call that a document grants."""
    for subject, row in document["matrix"].items():
        for resource, cell in row.items():
            for action in cell["actions"] if isinstance(cell, dict) else cell:
                yield from ((agent, agent_of(resource), action) for agent in who(document, subject))


def is_denied(document: Matrix, call: Call) -> bool:
    """Whether a denial of a document is about a call."""
    return any(
        call[0] in who(document, rule["subject"])
        and call[1] == agent_of(rule["resource"])
        and rule["action"] in (call[2], "*")
        for rule in document["deny"]
    )


def obvious(documents: list[Matrix], call: Call) -> Reason:
    """Return the reason for a call by reading all documents from top to bottom."""
    if any(is_denied(document, call) for document in documents):
        return Reason.DENIED_BY_RULE
    if any(call in granted(document) for document in documents):
        return Reason.ALLOWED
    return Reason.NOT_IN_MATRIX


@settings(max_examples=300, deadline=None)
@given(policies)
def test_matrix_agrees_with_the_obvious_evaluator(documents: list[Matrix]) -> None:
    """Compiling changes the cost of a verdict, never the verdict; a verdict with a rule names one that says so."""
    policy = compiled(documents)
    assert {call: obvious(documents, call) for call in CALLS} == verdicts(policy)
    assert len({call for document in documents for call in granted(document)}) == policy.grant_count


@EXAMPLES
@given(policies, st.integers(1, 3), st.randoms(use_true_random=False))
def test_order_never_matters(documents: list[Matrix], files: int, chance: random.Random) -> None:
    """Documents, files, keys and lists may come in any order: there is no first match."""
    shuffled = [shuffle(document, chance) for document in documents]
    chance.shuffle(shuffled)
    assert verdicts(compiled(documents)) == verdicts(compiled(shuffled, files))


def shuffle(value: Any, chance: random.Random) -> Any:
    """Return a value with its keys and lists in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffle(value[key], chance) for key in keys}
    if isinstance(value, list):
        items = [shuffle(item, chance) for item in value]
        chance.shuffle(items)
        return items
    return value


@EXAMPLES
@given(policies, denials, st.data())
def test_added_denial_never_allows(documents: list[Matrix], denial: dict[str, str], data: st.DataObject) -> None:
    """One denial more takes away what it names and gives nothing."""
    before = compiled(documents)
    document = data.draw(st.sampled_from(documents))
    document["deny"].append(denial)
    after = compiled(documents)
    named = {call for call in CALLS if is_denied({**document, "deny": [denial]}, call)}
    assert allowed(before) - named == allowed(after)


@EXAMPLES
@given(policies, st.data())
def test_removed_grant_never_allows(documents: list[Matrix], data: st.DataObject) -> None:
    """One cell less may take calls away and gives nothing."""
    before = allowed(compiled(documents))
    cells_of_all = [
        (row, resource) for document in documents for row in document["matrix"].values() for resource in row
    ]
    if cells_of_all:
        row, resource = data.draw(st.sampled_from(cells_of_all))
        del row[resource]
    assert allowed(compiled(documents)) <= before


@EXAMPLES
@given(policies, matrices)
def test_added_document_takes_back_no_denial(documents: list[Matrix], more: Matrix) -> None:
    """Whatever is added, what a rule denies stays denied."""
    before = {call for call, reason in verdicts(compiled(documents)).items() if reason is Reason.DENIED_BY_RULE}
    assert not before & allowed(compiled([*documents, more]))
