"""Reach over grants, compared with an evaluator that is slow and obvious."""

from collections.abc import Set as AbstractSet
from itertools import pairwise, product

from hypothesis import given
from hypothesis import strategies as st

from ext_authz.policy.engine import Matrix
from ext_authz.policy.reach import grant_graph, path_to, reach, reversed_graph
from ext_authz.policy.verdict import Grant, Rule

AGENTS = "abcde"
ACTIONS = ("read", "write")

Call = tuple[str, str, str]

agents = st.sampled_from(AGENTS)
calls = st.tuples(agents, agents, st.sampled_from(ACTIONS))
grants = st.sets(calls, max_size=14)
denials = st.sets(st.tuples(agents, agents, st.sampled_from([*ACTIONS, "*"])), max_size=4)


def matrix_of(granted: AbstractSet[Call], denied: AbstractSet[Call] = frozenset()) -> Matrix:
    """Return the matrix of these grants and denials; each rule's text is its call."""
    rules = {call: Rule("matrix.yaml:1", "->".join(call)) for call in granted | denied}
    return Matrix(
        {call: (Grant(rules[call], "optional", frozenset(), None),) for call in sorted(granted)},
        {call: rules[call] for call in denied},
    )


def reachable(granted: AbstractSet[Call], denied: AbstractSet[Call]) -> set[tuple[str, str]]:
    """Return who can reach whom, by Warshall's algorithm over single calls."""
    pairs = {
        (subject, resource)
        for subject, resource, action in granted
        if (subject, resource, action) not in denied and (subject, resource, "*") not in denied
    }
    for middle, start, end in product(AGENTS, repeat=3):
        if (start, middle) in pairs and (middle, end) in pairs:
            pairs.add((start, end))
    return pairs


@given(grants, denials)
def test_reach_is_the_transitive_closure(granted: AbstractSet[Call], denied: AbstractSet[Call]) -> None:
    """From every agent exactly those are reached to whom some chain of calls leads, itself only by a cycle."""
    graph = grant_graph(matrix_of(granted, denied))
    expected = reachable(granted, denied)
    assert expected == {(start, end) for start in AGENTS for end in reach(graph, [start])}
    assert expected == {(start, end) for end in AGENTS for start in reach(reversed_graph(graph), [end])}


@given(grants, denials, st.sets(agents, min_size=1, max_size=3))
def test_paths_lead_from_a_start_to_the_goal(
    granted: AbstractSet[Call], denied: AbstractSet[Call], starts: set[str]
) -> None:
    """A path begins at a start, each step is a call that is allowed, and no path through fewer agents exists."""
    graph = grant_graph(matrix_of(granted, denied))
    reached = reach(graph, sorted(starts))
    distance = dict.fromkeys(starts, 0)
    for goal in reached:
        path = path_to(reached, starts, goal)
        assert path[0].subject in starts
        assert goal == path[-1].resource
        assert all(one.resource == other.subject for one, other in pairwise(path))
        assert all(step.resource in graph[step.subject] for step in path)
        assert len(path) == 1 + min(
            distance[subject]
            for subject in (*starts, *reached)
            if goal in graph.get(subject, {}) and subject in distance
        )
        distance.setdefault(goal, len(path))


def test_step_carries_the_first_grant_that_is_not_denied() -> None:
    """What leads from one agent to the next is shown by the grant that is in force, not by one that is denied."""
    matrix = matrix_of({("a", "b", "read"), ("a", "b", "write")}, {("a", "b", "read")})
    assert "a->b->write" == grant_graph(matrix)["a"]["b"].text


def test_long_chain() -> None:
    """Length costs no stack: a chain of a hundred thousand agents is followed to its end."""
    names = [str(number) for number in range(100_000)]
    graph = {one: {other: Rule("matrix.yaml:1", "")} for one, other in pairwise(names)}
    reached = reach(graph, ["0"])
    assert 99_999 == len(path_to(reached, ["0"], names[-1]))
