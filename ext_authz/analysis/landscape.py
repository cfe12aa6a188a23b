"""Who can get where: the calls that a policy allows, and how far one agent's would carry whoever takes it over.

1. Calls are those that some grant allows and no rule denies, whatever else the grant asks (`policy/reach.py`).
2. What a taken-over agent can do at the end of a path is what the last step allows; the way there is a shortest one.
3. A subject with wildcards stands here as an agent of its own: one that fits it and that no more exact rule is about. Who is
   written by name has also the calls of the wildcards that it fits.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ext_authz.analysis.survey import Survey
from ext_authz.policy.engine import Matrix
from ext_authz.policy.reach import Graph, path_to, reach, reversed_graph
from ext_authz.policy.verdict import Rule, Verdict


class Call(NamedTuple):
    """What one agent may ask of another, in names."""

    subject: str
    resource: str
    actions: tuple[str, ...]
    rules: tuple[str, ...]  # file:line of the cells


class Way(NamedTuple):
    """How one agent gets to another, in names."""

    path: tuple[str, ...]  # both ends and everyone between
    actions: tuple[str, ...]  # of the last step

    @property
    def is_direct(self) -> bool:
        """Whether nobody is between."""
        return len(self.path) == 2


class Radius(NamedTuple):
    """How far one agent reaches, and who reaches it; nearest first, then by name."""

    agent: str
    reaches: tuple[Way, ...]
    reached_by: tuple[Way, ...]


class Landscape:
    """The calls of a policy."""

    def __init__(self, calls: Mapping[tuple[str, str], Call], forward: Graph) -> None:
        self._calls = calls
        self._forward = forward
        self._back = reversed_graph(forward)

    @classmethod
    def of(cls, survey: Survey, besides: Iterable[str] = ()) -> "Landscape":
        """Return the landscape of a policy; `besides` are SPIFFE IDs to look at that may be written nowhere in it."""
        matrix, name_of = survey.policy.matrix, survey.names.name_of
        granted: dict[str, set[tuple[str, str]]] = {}  # by subject as written: resource and action
        for subject, resource, action in matrix.grants:
            granted.setdefault(subject, set()).add((resource, action))
        agents = {*granted, *(resource for _, resource, _ in matrix.grants), *besides}
        calls: dict[tuple[str, str], Call] = {}
        forward: dict[str, dict[str, Rule]] = {}
        for agent in agents:
            for resource, verdicts in _allowed(matrix, granted, agent).items():
                rules = dict.fromkeys(grant.rule for verdict in verdicts.values() for grant in verdict.grants)
                where = tuple(dict.fromkeys(rule.where for rule in rules))
                call = Call(name_of(agent), name_of(resource), tuple(verdicts), where)
                calls[call.subject, call.resource] = call
                forward.setdefault(call.subject, {})[call.resource] = next(iter(rules))
        return cls(calls, forward)

    @property
    def calls(self) -> list[Call]:
        """Every call, by subject and resource."""
        return sorted(self._calls.values())

    @property
    def agents(self) -> list[str]:
        """Everyone who calls or is called, by name."""
        return sorted(self._forward.keys() | self._back.keys())

    @property
    def subjects(self) -> list[str]:
        """Everyone who calls, by name."""
        return sorted(self._forward)

    def call(self, subject: str, resource: str) -> Call | None:
        """Return what one agent may ask of another, None when nothing."""
        return self._calls.get((subject, resource))

    def reaches(self, agent: str) -> frozenset[str]:
        """Return everyone whom an agent reaches."""
        return frozenset(reach(self._forward, [agent]))

    def radius(self, agent: str) -> Radius:
        """Return how far an agent reaches, and who reaches it."""
        forward, back = reach(self._forward, [agent]), reach(self._back, [agent])
        reaches = [(agent, *(step.resource for step in path_to(forward, [agent], goal))) for goal in forward]
        reached_by = [(*reversed([step.resource for step in path_to(back, [agent], start)]), agent) for start in back]
        return Radius(agent, self._ways(reaches), self._ways(reached_by))

    def around(self, agent: str) -> "Landscape":
        """Return the part that an agent reaches: its calls, and those of everyone it reaches."""
        inside = {agent} | self.reaches(agent)
        calls = {pair: call for pair, call in self._calls.items() if pair[0] in inside}
        return Landscape(calls, {subject: steps for subject, steps in self._forward.items() if subject in inside})

    def _ways(self, paths: Iterable[tuple[str, ...]]) -> tuple[Way, ...]:
        ways = (Way(path, self._calls[path[-2], path[-1]].actions) for path in paths)
        return tuple(sorted(ways, key=lambda way: (len(way.path), way.path)))


def _allowed(
    matrix: Matrix, granted: Mapping[str, Iterable[tuple[str, str]]], agent: str
) -> Mapping[str, Mapping[str, Verdict]]:
    """Return the verdicts on all calls of an agent that can be allowed, by resource and action in order."""
    asked = {call for subject in matrix.about(agent) for call in granted.get(subject, ())}
    found: dict[str, dict[str, Verdict]] = {}
    for resource, action in sorted(asked):
        verdict = matrix.verdict((agent, resource, action))
        if verdict.grants:
            found.setdefault(resource, {})[action] = verdict
    return found
