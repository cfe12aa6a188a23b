"""Patterns: what they are, and what they have in common, compared with an evaluator that lists all workloads."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.identity.names import Names
from ext_authz.identity.patterns import Patterns, Shape, SubjectPattern, covers, meet
from ext_authz.identity.spiffe_id import MAX_ID_BYTES, SpiffeId, SpiffeIdError

NAMES = Names("agents.example.com", "ns/agents/sa/{name}")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("ns/*/sa/x", "/ns/*/sa/x"),
        ("/ns/*/sa/x", "/ns/*/sa/x"),
        ("spiffe://agents.example.com/ns/*/sa/x", "/ns/*/sa/x"),
        ("*", "/ns/agents/sa/*"),
        ("/*", "/*"),
        ("*/*", "/*/*"),
    ],
)
def test_subjects_with_wildcards(written: str, path: str) -> None:
    """Each way to name a workload can leave whole segments open; the shortest one is what people are shown."""
    pattern = NAMES.resolve_subject(written)
    assert SubjectPattern(f"spiffe://agents.example.com{path}", "agents.example.com", path) == pattern
    assert pattern == NAMES.resolve_subject(NAMES.name_of(pattern.uri))


NOT_WHOLE = [
    "team-*",
    "ns/team-*/sa/x",
    "**",
    "ns/**/x",
    "*x/*",
    "spiffe://*/x",
    "spiffe://a.*/x",
    "spiffe://*",
    "x/*\n",
]
NOT_CANONICAL = [
    "*/",
    "/*/",
    "//*",
    "*//x",
    "ns/*/../x",
    "ns/*/./x",
    "ns/*/a b",
    "spiffe:///*",
    "a/*/%2a",
    "http://a/*",
]
NOT_CANONICAL += [
    "spiffe://A/*",
    "spiffe://a:1/*",
    "spiffe://a/x?/*",
    "SPIFFE://a/*",
    "x/é/*",
    "ns/*/a\0b",
    "*/" + MAX_ID_BYTES * "a",
]


@pytest.mark.parametrize("name", NOT_WHOLE + NOT_CANONICAL)
def test_what_is_no_pattern(name: str) -> None:
    """Parts of segments, several segments and trust domains cannot be left open, and the rest has to be canonical."""
    with pytest.raises(SpiffeIdError) as caught:
        NAMES.resolve_subject(name)
    assert (name in NOT_WHOLE) is ("one whole segment" in str(caught.value))


def test_nobody_is_a_pattern() -> None:
    """No workload can have the ID that a pattern has, and a plain name is no pattern."""
    with pytest.raises(SpiffeIdError):
        SpiffeId.parse("spiffe://agents.example.com/ns/*/sa/x")
    with pytest.raises(SpiffeIdError):
        SubjectPattern.parse("spiffe://agents.example.com/ns/a/sa/x")
    with pytest.raises(SpiffeIdError):
        SubjectPattern.parse("agents.example.com/ns/*/sa/x")
    with pytest.raises(SpiffeIdError):
        NAMES.resolve("ns/*/sa/x")


# With segments that nothing names: what holds for these holds for all there could be.
WORKLOADS = ["spiffe://td/" + "/".join(path) for length in (1, 2, 3) for path in product("abyz", repeat=length)]
subjects = st.lists(st.sampled_from("ab*"), min_size=1, max_size=3).map(lambda path: "spiffe://td/" + "/".join(path))


def fitting(subject: str) -> set[str]:
    """List the workloads that a subject stands for, segment by segment."""
    ours = subject.split("/")
    return {
        workload
        for workload in WORKLOADS
        if len(ours) == len(workload.split("/"))
        and all(our in ("*", their) for our, their in zip(ours, workload.split("/"), strict=True))
    }


@given(subjects, subjects)
def test_cover_and_meet(one: str, other: str) -> None:
    """One covers another when it stands for all of its workloads; what they have in common is a subject, or nobody."""
    assert (fitting(one) >= fitting(other)) is covers(one, other)
    common = meet(one, other)
    assert fitting(one) & fitting(other) == (set() if common is None else fitting(common))
    assert common == meet(other, one)


@given(st.sets(subjects), subjects)
def test_patterns_that_cover(written: set[str], subject: str) -> None:
    """The look-ups find every pattern that covers, and no other; fewer wildcards first, of as many those further left."""
    found = Patterns.among(written).covering(subject)
    assert {each for each in written - {subject} if "*" in each and covers(each, subject)} == set(found)
    assert sorted(found, key=Shape.of) == found


def test_cost_is_that_of_the_shapes() -> None:
    """Ten thousand patterns of one shape are looked up like one: what is looped over is the shapes."""
    many = Patterns.among(f"spiffe://td/ns/*/sa/{number}" for number in range(10_000))
    assert Patterns.among(["spiffe://td/ns/*/sa/7"]).shapes == many.shapes
    assert ["spiffe://td/ns/*/sa/7"] == many.covering("spiffe://td/ns/x/sa/7")
