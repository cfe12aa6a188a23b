"""Who can reach whom: the matrix as a graph, with a step from each subject to each resource that it may ask for something.

1. There is a step where some grant is not denied. What a grant asks beside that (windows, conditions, delegation, scopes)
   is left out: reach is what could come about, not what happens now.
2. Reach is transitive: whoever takes over an agent can make it use its own grants.
3. A subject with wildcards stands for every workload that fits it, also for those that are written nowhere: there is a step
   where one of them can go. A denial takes a step from a pattern away when it denies all of them.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from ext_authz.identity.patterns import WILDCARD, meet
from ext_authz.policy.engine import Key, Matrix
from ext_authz.policy.verdict import Rule


class Step(NamedTuple):
    """One call that some grant allows. Both ends are SPIFFE IDs; that of the subject may be a pattern."""

    subject: str
    resource: str
    rule: Rule  # of the first grant, in the order of the documents


# By subject, then by resource.
Graph = Mapping[str, Mapping[str, Rule]]
# Who was reached, and by which last step.
Reached = Mapping[str, Step]


def grant_graph(matrix: Matrix) -> Graph:
    """Return the steps of a matrix. Any subject may be asked about, also a pattern or one that only patterns are about."""
    return _GrantGraph(matrix)


class _GrantGraph(Mapping[str, Mapping[str, Rule]]):
    """The steps of a matrix, found when they are asked for."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self._found: dict[str, Mapping[str, Rule]] = {}
        self._granted: dict[str, list[Key]] = {}  # by the subject as it is written
        for key in matrix.grants:
            self._granted.setdefault(key[0], []).append(key)

    def __getitem__(self, subject: str) -> Mapping[str, Rule]:
        if subject not in self._found:
            self._found[subject] = self._steps(subject)
        return self._found[subject]

    def __iter__(self) -> Iterator[str]:
        return iter(self._granted)

    def __len__(self) -> int:
        return len(self._granted)

    def _steps(self, subject: str) -> Mapping[str, Rule]:
        steps: dict[str, Rule] = {}
        for granted, who in self._meets(subject):
            for key in self._granted[granted]:
                _, resource, action = key
                if resource not in steps and self._matrix.denial((who, resource, action)) is None:
                    steps[resource] = self._matrix.grants[key][0].rule
        return steps

    def _meets(self, subject: str) -> Iterator[tuple[str, str]]:
        """Yield each subject that is granted something and has workloads in common with this one, and which."""
        if WILDCARD not in subject:
            yield from ((each, subject) for each in self._matrix.about(subject) if each in self._granted)
            return
        for granted in self._granted:
            who = meet(subject, granted)
            if who is not None:
                yield granted, who


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
