"""Which rules of a policy its tests exercise.

A cell counts once for each subject, resource and action, when a test was allowed by it; a deny rule when it denied one.
A subject with wildcards counts once, when a test of anyone who fits it was allowed by it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ext_authz.errors import Reason
from ext_authz.policy.compile import Policy
from ext_authz.policy.engine import Key
from ext_authz.policy.verdict import Rule
from ext_authz.review.rules import denials_of, grants_of
from ext_authz.review.suites import Trial


class Part(NamedTuple):
    """A part of a policy that a test can exercise."""

    where: str  # file:line
    text: str  # for people
    is_covered: bool


class Coverage(NamedTuple):
    """All parts of a policy, by their place."""

    cells: tuple[Part, ...]
    denials: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Cells and denials together."""
        return self.cells + self.denials

    @property
    def missing(self) -> tuple[Part, ...]:
        """What no test exercises."""
        return tuple(part for part in self.parts if not part.is_covered)

    @property
    def percent(self) -> float:
        """How much is exercised; 100 for a policy that holds nothing."""
        return 100 * (1 - len(self.missing) / len(self.parts)) if self.parts else 100.0


def coverage_of(policy: Policy, trials: Iterable[Trial]) -> Coverage:
    """Return what the trials exercised of a policy."""
    exercised = set(_exercised(policy, trials))
    names = policy.names.name_of
    cells = tuple(
        Part(
            grant.rule.where,
            f"{names(key[0])} -> {names(key[1])}: {key[2]}",
            is_covered=(grant.rule, key) in exercised,
        )
        for key, grant in grants_of(policy)
    )
    denials = tuple(Part(rule.where, rule.text, is_covered=(rule, None) in exercised) for rule in denials_of(policy))
    return Coverage(cells, denials)


def _exercised(policy: Policy, trials: Iterable[Trial]) -> Iterator[tuple[Rule, Key | None]]:
    for trial in trials:
        decision = trial.decision
        if decision.rule is None or decision.identity is None or decision.action is None:
            continue
        if decision.reason is Reason.ALLOWED:
            identity = decision.identity
            key = identity.subject.uri, identity.resource.uri, decision.action.name
            yield decision.rule, _granting(policy, key, decision.rule)
        elif decision.reason is Reason.DENIED_BY_RULE:
            yield decision.rule, None


def _granting(policy: Policy, key: Key, rule: Rule) -> Key | None:
    """Return the key by which a rule grants a call: the caller's own, or that of a pattern which it fits."""
    subject, resource, action = key
    keys = ((each, resource, action) for each in policy.matrix.about(subject))
    return next((each for each in keys if rule in (grant.rule for grant in policy.matrix.grants.get(each, ()))), None)
