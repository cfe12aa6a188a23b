"""Invariants: what no grant may ever bring about, checked over the whole directory when it is loaded.

1. `{from: A, must_not_reach: B}` holds when no chain of steps leads from A to B (`policy/reach.py`); with wildcards, from
   none of those that fit A to any that fits B.
2. Every document's invariants see the grants and denials of all documents.
3. A violation is an error of the policy like any other: nothing of the directory is served.
"""

from collections.abc import Iterator

from ext_authz.documents.loader import PolicyDocuments, Source
from ext_authz.documents.models import PermissionMatrix
from ext_authz.documents.problems import suggestion
from ext_authz.documents.reader import quoted
from ext_authz.identity.names import GROUP_SIGN, Names
from ext_authz.identity.patterns import WILDCARD, covers
from ext_authz.identity.spiffe_id import SpiffeIdError
from ext_authz.policy.engine import Matrix
from ext_authz.policy.reach import Reached, Step, grant_graph, path_to, reach


def check_invariants(documents: PolicyDocuments, names: Names, matrix: Matrix, problems: list[str]) -> None:
    """Add every violated invariant to `problems`, with the path that violates it."""
    sources = [source for source in documents.of(PermissionMatrix) if source.model.invariants]
    if not sources:
        return
    graph = grant_graph(matrix)
    seen: dict[frozenset[str], Reached] = {}  # the same agent may stand in many invariants
    for source in sources:
        for index, invariant in enumerate(source.model.invariants):
            steps = ("invariants", index)
            members = _Members(source, names, problems)
            starts = members.of(invariant.from_, source.locate(*steps, "from"))
            goals = members.of(invariant.must_not_reach, source.locate(*steps, "must_not_reach"))
            if starts not in seen:
                seen[starts] = reach(graph, sorted(starts))
            reached = seen[starts]
            problems.extend(
                f"{source.locate(*steps)}: {quoted(invariant.from_)} must not reach {quoted(invariant.must_not_reach)}: "
                + describe_path(names, path_to(reached, starts, goal))
                for goal in sorted(_reached_goals(goals, reached))
            )


def _reached_goals(goals: frozenset[str], reached: Reached) -> set[str]:
    patterns = [goal for goal in goals if WILDCARD in goal]
    fitting = {each for each in reached if any(covers(pattern, each) for pattern in patterns)} if patterns else set()
    return fitting | (goals & reached.keys())


def describe_path(names: Names, steps: tuple[Step, ...]) -> str:
    """Return `a -> b (matrix.yaml:7) -> c (matrix.yaml:9)`: each arrow's grant stands behind the workload it leads to."""
    arrows = (f" -> {names.name_of(step.resource)} ({step.rule.where})" for step in steps)
    return names.name_of(steps[0].subject) + "".join(arrows)


class _Members:
    """What the names of one document's invariants stand for."""

    def __init__(self, source: Source[PermissionMatrix], names: Names, problems: list[str]) -> None:
        self._groups = source.model.groups
        self._names = names
        self._problems = problems

    def of(self, name: str, here: str) -> frozenset[str]:
        """Return the SPIFFE IDs of a workload, pattern or group."""
        if not name.startswith(GROUP_SIGN):
            return frozenset(self._resolved([name], here))
        group = name.removeprefix(GROUP_SIGN)
        if group not in self._groups:
            self._problems.append(f"{here}: unknown group {quoted(group)}{suggestion(group, self._groups)}")
            return frozenset()
        return frozenset(self._resolved(self._groups[group], None))

    def _resolved(self, written: list[str], here: str | None) -> Iterator[str]:
        for name in written:
            try:
                yield self._names.resolve_subject(name).uri
            except SpiffeIdError as error:
                if here is not None:  # a group's members are told of where the group stands
                    self._problems.append(f"{here}: {quoted(name)} names no workload: {error}")
