"""Evaluate a request against the compiled matrix.

1. Deny rules beat every grant. Those with a condition come with the verdict: it is looked at when the facts are known.
2. One grant is enough; without one the verdict is `not_in_matrix`.
3. The cost is that of three dictionary look-ups, whatever the size of the matrix; with wildcards in subjects, of one more for
   each shape that they have, and of three for each that fits (`identity/patterns.py`).
4. What names the caller comes before wildcards that it fits, and of these those with fewer `*` before others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.errors import Reason
from ext_authz.identity.patterns import Patterns
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.policy.request import AuthorizationRequest
from ext_authz.policy.verdict import Denial, Grant, Rule, Verdict

EVERY_ACTION = "*"

# (URI of the subject, which may be a pattern, URI of the resource, action name)
Key = tuple[str, str, str]

_NO_GRANT = Verdict(Reason.NOT_IN_MATRIX, None)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Grants and denials by exact key. An empty one allows nothing."""

    grants: Mapping[Key, tuple[Grant, ...]] = field(default_factory=dict)
    denials: Mapping[Key, Rule] = field(default_factory=dict)
    conditional: Mapping[Key, tuple[Denial, ...]] = field(default_factory=dict)
    subjects: frozenset[str] = field(init=False)  # URIs of all that some cell grants something, patterns too
    patterns: Patterns = field(init=False)  # of every rule

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", frozenset(subject for subject, _, _ in self.grants))
        denied = {subject for rules in (self.denials, self.conditional) for subject, _, _ in rules}
        object.__setattr__(self, "patterns", Patterns.among(self.subjects | denied))

    def knows(self, subject: str) -> bool:
        """Whether some cell grants this SPIFFE ID anything. Any text may be asked about."""
        if not self.patterns.uris:
            return subject in self.subjects
        try:
            SpiffeId.parse_workload(subject)
        except SpiffeIdError:
            return False  # what is no ID fits nothing, also where only a segment of it is wrong
        return any(each in self.subjects for each in self.about(subject))

    def about(self, subject: str) -> tuple[str, ...]:
        """Return the subjects whose rules count for one, a workload or a pattern: itself, then the patterns that cover it.

        For a pattern this is what counts for a workload that fits it and that no more exact rule is about.
        """
        if not self.patterns.uris:
            return (subject,)
        return (subject, *self.patterns.covering(subject))

    def verdict(self, key: Key) -> Verdict:
        """Return the verdict on the calls of a workload, or of one that fits a pattern and no more exact rule."""
        subject, resource, action = key
        subjects = self.about(subject)
        denial = self._denial(subjects, key) if self.denials else None
        if denial is not None:
            return Verdict(Reason.DENIED_BY_RULE, denial)
        grants: tuple[Grant, ...] = ()
        for each in subjects:
            grants += self.grants.get((each, resource, action), ())
        if not grants:
            return _NO_GRANT
        return Verdict(Reason.ALLOWED, grants[0].rule, grants, self.denials_when(key) if self.conditional else ())

    def denial(self, key: Key) -> Rule | None:
        """Return the deny rule without a condition that counts for a call; for a pattern, for all calls of those that fit."""
        return self._denial(self.about(key[0]), key)

    def denials_when(self, key: Key) -> tuple[Denial, ...]:
        """Return the deny rules with conditions that count for a call."""
        subject, resource, action = key
        keys = [(each, resource, name) for each in self.about(subject) for name in (action, EVERY_ACTION)]
        return tuple(denial for each in keys for denial in self.conditional.get(each, ()))

    def evaluate(self, request: AuthorizationRequest) -> Verdict:
        """Return the verdict on one request."""
        subject, resource = request.subject.uri, request.resource.uri
        key = (subject, resource, request.action)
        if self.patterns.uris:
            return self.verdict(key)
        denial = self.denials.get(key) or self.denials.get((subject, resource, EVERY_ACTION))
        if denial is not None:
            return Verdict(Reason.DENIED_BY_RULE, denial)
        grants = self.grants.get(key)
        if not grants:
            return _NO_GRANT
        denials: tuple[Denial, ...] = ()
        if self.conditional:
            denials = self.conditional.get(key, ()) + self.conditional.get((subject, resource, EVERY_ACTION), ())
        return Verdict(Reason.ALLOWED, grants[0].rule, grants, denials)

    def _denial(self, subjects: tuple[str, ...], key: Key) -> Rule | None:
        _, resource, action = key
        for subject in subjects:
            rule = self.denials.get((subject, resource, action)) or self.denials.get((subject, resource, EVERY_ACTION))
            if rule is not None:
                return rule
        return None
