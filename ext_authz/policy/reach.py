"""Who can reach whom: the matrix as a graph, with a step from each subject to each resource that it may ask for something.

1. There is a step where some grant is not denied. What a grant asks beside that (windows, conditions, delegation, scopes)
   is left out: reach is what could come about, not what happens now.
2. Reach is transitive: whoever takes over an agent can make it use its own grants.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ext_authz.policy.engine import EVERY_ACTION, Matrix
from ext_authz.policy.verdict import Rule


class Step(NamedTuple):
    """One call that some grant allows. Both ends are SPIFFE IDs."""

    subject: str
    resource: str
    rule: Rule  # of the first grant, in the order of the documents


# By subject, then by resource.
Graph = Mapping[str, Mapping[str, Rule]]
# Who was reached, and by which last step.
Reached = Mapping[str, Step]


def grant_graph(matrix: Matrix) -> Graph:
    """Return the steps of a matrix."""
    denials = matrix.denials
    graph: dict[str, dict[str, Rule]] = {}
    for key, grants in matrix.grants.items():
        subject, resource, _ = key
        if denials and (key in denials or (subject, resource, EVERY_ACTION) in denials):
            continue
        steps = graph.get(subject)
        if steps is None:
            steps = graph[subject] = {}
        if resource not in steps:
            steps[resource] = grants[0].rule
    return graph


def reversed_graph(graph: Graph) -> Graph:
    """Return the graph with every step turned round: who is reached, by whom."""
    turned: dict[str, dict[str, Rule]] = {}
    for subject, steps in graph.items():
        for resource, rule in steps.items():
            turned.setdefault(resource, {})[subject] = rule
    return turned


def reach(graph: Graph, starts: Collection[str]) -> Reached:
    """Return everyone that can be reached from `starts` in one step or more, nearest first, by a shortest path.

    A start is among them when a step leads back to it.
    """
    found: dict[str, Step] = {}
    left = list(dict.fromkeys(starts))
    expanded = set(left)
    for subject in left:  # grows while it is read
        for resource, rule in graph.get(subject, {}).items():
            if resource not in found:
                found[resource] = Step(subject, resource, rule)
                if resource not in expanded:
                    expanded.add(resource)
                    left.append(resource)
    return found


def path_to(reached: Reached, starts: Collection[str], goal: str) -> tuple[Step, ...]:
    """Return the steps that lead from one of `starts` to `goal`, which was reached from them."""
    return tuple(reversed(list(_steps_back(reached, starts, goal))))


def _steps_back(reached: Reached, starts: Collection[str], goal: str) -> Iterator[Step]:
    step = reached[goal]
    yield step
    while step.subject not in starts:
        step = reached[step.subject]
        yield step
