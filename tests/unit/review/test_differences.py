"""Differences between two policies, compared with an evaluator that is slow and obvious."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.authorizers import DEFAULT_POLICY
from unit.policy.test_policy_properties import (
    CALLS,
    GROUPS,
    REGISTRY,
    Call,
    Matrix,
    actions,
    agent_of,
    denials,
    names,
    obvious,
    subjects,
    who,
)

from ext_authz.documents.loader import load_policy
from ext_authz.errors import Reason
from ext_authz.policy.compile import compile_policy
from ext_authz.review.differences import Differences, Side, compare

cells = st.lists(actions, min_size=1, max_size=2) | st.fixed_dictionaries(
    {"actions": st.lists(actions, min_size=1, max_size=2)},
    optional={
        "delegation": st.sampled_from(["required", "optional", "forbidden"]),
        "max_hops": st.sampled_from([1, 2]),
        "scopes": st.permutations(["a", "b"]),
    },
)
matrices = st.fixed_dictionaries(
    {
        "kind": st.just("PermissionMatrix"),
        "trust_domain": st.just("agents.example.com"),
        "groups": st.fixed_dictionaries({group: st.lists(names, max_size=2) for group in GROUPS}),
        "matrix": st.dictionaries(subjects, st.dictionaries(names, cells, max_size=3), max_size=3),
        "deny": st.lists(denials, max_size=1),
    }
)
policies = st.lists(matrices, min_size=1, max_size=2)


def compared(*policies_: list[Matrix]) -> Differences:
    """Write two policies and return what differs."""
    with tempfile.TemporaryDirectory() as name:
        sides = []
        for number, matrices_ in enumerate(policies_):
            directory = Path(name, str(number))
            directory.mkdir()
            for index, document in enumerate([REGISTRY, *matrices_]):
                (directory / f"{index}.yaml").write_text(json.dumps(document))
            documents = load_policy(directory)
            sides.append(Side(documents, compile_policy(documents)))
        return compare(*sides)


def allowed(documents: list[Matrix]) -> set[Call]:
    return {call for call in CALLS if obvious(documents, call) is Reason.ALLOWED}


def asked(documents: list[Matrix], call: Call) -> set[tuple[Any, ...]]:
    """Return what the cells that grant a call ask, by reading all documents from top to bottom."""
    return set(_asked(documents, call))


def _asked(documents: list[Matrix], call: Call) -> Iterator[tuple[Any, ...]]:
    for document in documents:
        for subject, row in document["matrix"].items():
            for resource, cell in row.items():
                long = cell if isinstance(cell, dict) else {"actions": cell}
                if call[0] in who(document, subject) and call[1] == agent_of(resource) and call[2] in long["actions"]:
                    yield long.get("delegation", "optional"), long.get("max_hops"), frozenset(long.get("scopes", ()))


@settings(max_examples=200, deadline=None)
@given(policies, policies)
def test_triples_are_exactly_those_that_differ(old: list[Matrix], new: list[Matrix]) -> None:
    """Newly allowed, newly denied, and asked for something else: each triple that is, and no other."""
    found = compared(old, new)
    before, after = allowed(old), allowed(new)
    assert after - before == {tuple(change.triple) for change in found.allowed}
    assert before - after == {tuple(change.triple) for change in found.denied}
    otherwise = {call for call in before & after if asked(old, call) != asked(new, call)}
    assert otherwise == {tuple(change.triple) for change in found.asked}
    assert len(found.allowed + found.denied) == len(before ^ after)
    for change in found.asked:
        assert change.changes


@settings(max_examples=100, deadline=None)
@given(policies, st.randoms(use_true_random=False))
def test_order_is_no_difference(old: list[Matrix], chance: Any) -> None:
    """Documents and entries may stand in any order."""
    documents = [{**document, "matrix": dict(reversed(document["matrix"].items()))} for document in old]
    chance.shuffle(documents)
    found = compared(old, documents)
    assert not found, found


def test_nothing_differs_from_itself() -> None:
    """The default policy does not differ from itself, whatever its documents hold."""
    documents = load_policy(DEFAULT_POLICY)
    side = Side(documents, compile_policy(documents))
    assert not compare(side, side)
