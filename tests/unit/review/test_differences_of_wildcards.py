"""Differences between two policies with wildcards, compared with an evaluator that looks at every workload there could be."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from support.written_policies import ACTIONS
from unit.policy.test_wildcards import CALLS, Call, Document, fits, matrices, obvious

from ext_authz.documents.loader import load_policy
from ext_authz.errors import ConfigurationError, Reason
from ext_authz.policy.compile import compile_policy
from ext_authz.review.differences import Differences, Side, compare
from ext_authz.review.regions import regions


def compared(*documents: Document) -> Differences:
    """Write two policies and return what differs."""
    sides = []
    with tempfile.TemporaryDirectory() as name:
        for document in documents:
            written = {"kind": "PermissionMatrix", "trust_domain": "agents.example.com", **document}
            Path(name, "policy.yaml").write_text(f"{json.dumps(written)}\n{ACTIONS}")
            loaded = load_policy(Path(name))
            sides.append(Side(loaded, compile_policy(loaded)))
    return compare(*sides)


def subjects_of(document: Document) -> set[str]:
    """Return every subject of a rule, members in the place of a group."""
    subjects = {*document["matrix"], *(rule["subject"] for rule in document["deny"])}
    return {each for subject in subjects for each in (document["groups"]["g"] if subject == "@g" else [subject])}


def speaker(caller: str, written: set[str]) -> str:
    """Return the subject whose triple speaks for a workload: itself, or what all wildcards that it fits have in common."""
    fitting = [subject.split("/") for subject in written if fits({}, subject, caller)]
    if caller in written or not fitting:
        return caller
    return "/".join(next((each for each in segments if each != "*"), "*") for segments in zip(*fitting, strict=True))


@settings(max_examples=200, deadline=None)
@given(matrices, matrices)
def test_triples_say_what_differs_for_everyone(old: Document, new: Document) -> None:
    """Each workload, also one that is written nowhere, has exactly one triple for each call that it newly may or may not make."""
    found = compared(old, new)
    written = subjects_of(old) | subjects_of(new)
    allowed: set[Call] = set()
    denied: set[Call] = set()
    for call in CALLS:
        before, after = (obvious(document, call)[0] is Reason.ALLOWED for document in (old, new))
        if before is not after:
            (allowed if after else denied).add((speaker(call[0], written), *call[1:]))
    assert allowed == {paths(change.triple) for change in found.allowed}
    assert denied == {paths(change.triple) for change in found.denied}


def paths(triple: tuple[str, str, str]) -> tuple[str, str, str]:
    """Write names as paths."""
    return f"/{triple[0]}", f"/{triple[1]}", triple[2]


def test_what_wildcards_have_in_common() -> None:
    """A denial of one wildcard takes away what it has in common with another, and the triple names that."""
    grants = {"groups": {}, "matrix": {"ns/*/sa/x": {"store": ["search"]}}, "deny": []}
    denial = {"subject": "ns/a/sa/*", "resource": "store", "action": "*"}
    [change] = compared(grants, {**grants, "deny": [denial]}).denied
    assert ("ns/a/sa/x", "store", "search") == change.triple


def test_too_much_in_common() -> None:
    """Wildcards that overlap in millions of ways have no answer, instead of one that leaves some of it out."""
    one, other = ([form.format(number) for number in range(1_001)] for form in ("td/*/{}", "td/{}/*"))
    with pytest.raises(ConfigurationError, match="too many wildcards overlap"):
        regions([*one, *other])
    assert 2_002 == len(regions([*one, *(f"{each}/x" for each in other)]))
