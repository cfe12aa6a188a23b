"""Which subjects two matrices have to be compared for, so that the answer holds for every workload there could be.

1. Two workloads that are written nowhere and fit the same patterns are treated alike by both matrices. So it is enough to look at
   every subject as it is written, and at what patterns have in common.
2. That can be far more than what is written. It is bounded, and past the bound there is no answer.
"""

from collections.abc import Iterable

from ext_authz.errors import ConfigurationError
from ext_authz.identity.patterns import Shape, meet
from ext_authz.policy.engine import Key, Matrix

# Pairs of patterns that are looked at: some seconds. A hundred patterns of each of eight shapes have fewer.
MAX_PAIRS = 1_000_000


def keys_to_compare(one: Matrix, other: Matrix) -> set[Key]:
    """Return subjects with the resources and actions that one of the matrices grants them. Raises ConfigurationError."""
    keys = set(one.grants.keys() | other.grants.keys())
    patterns = one.patterns.uris | other.patterns.uris
    if not patterns:
        return keys
    subjects = regions(patterns)
    for matrix in (one, other):
        for rules in (matrix.grants, matrix.denials, matrix.conditional):
            subjects.update(subject for subject, _, _ in rules)
    for matrix in (one, other):
        granted: dict[str, set[tuple[str, str]]] = {}
        for subject, resource, action in matrix.grants:
            granted.setdefault(subject, set()).add((resource, action))
        for subject in subjects:
            about = matrix.about(subject)
            keys.update((subject, *call) for each in about for call in granted.get(each, ()))
    return keys


def regions(patterns: Iterable[str]) -> set[str]:
    """Return the patterns, and all that some of them have in common. Raises ConfigurationError when that is too much.

    Patterns of one shape are the same or have nothing in common, so what is found is taken together with each shape in turn.
    """
    by_shape: dict[Shape, list[str]] = {}
    for pattern in patterns:
        by_shape.setdefault(Shape.of(pattern), []).append(pattern)
    found: dict[int, set[str]] = {}  # by length: those of different lengths have nothing in common
    pairs = 0
    for shape, ours in by_shape.items():
        before = found.setdefault(shape.length, set())
        pairs += len(before) * len(ours)
        if pairs > MAX_PAIRS:
            raise ConfigurationError(["too many wildcards overlap to compare: name workloads in their place"])
        common = {meet(one, other) for one in before for other in ours}
        before.update(ours, (each for each in common if each is not None))
    return {region for regions_of_length in found.values() for region in regions_of_length}
