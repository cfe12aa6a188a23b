"""Evaluate a request against the compiled matrix.

1. Deny rules beat every grant. Those with a condition come with the verdict: it is looked at when the facts are known.
2. One grant is enough; without one the verdict is `not_in_matrix`.
3. The cost is that of three dictionary look-ups, whatever the size of the matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ext_authz.errors import Reason
from ext_authz.policy.request import AuthorizationRequest
from ext_authz.policy.verdict import Denial, Grant, Rule, Verdict

EVERY_ACTION = "*"

# (subject URI, resource URI, action name)
Key = tuple[str, str, str]

_NO_GRANT = Verdict(Reason.NOT_IN_MATRIX, None)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Grants and denials by exact key. An empty one allows nothing."""

    grants: Mapping[Key, tuple[Grant, ...]] = field(default_factory=dict)
    denials: Mapping[Key, Rule] = field(default_factory=dict)
    conditional: Mapping[Key, tuple[Denial, ...]] = field(default_factory=dict)
    subjects: frozenset[str] = field(init=False)  # URIs of all that some cell grants something

    def __post_init__(self) -> None:
        object.__setattr__(self, "subjects", frozenset(subject for subject, _, _ in self.grants))

    def knows(self, subject: str) -> bool:
        """Whether some cell grants this SPIFFE ID anything. Any text may be asked about."""
        return subject in self.subjects

    def evaluate(self, request: AuthorizationRequest) -> Verdict:
        """Return the verdict on one request."""
        subject, resource = request.subject.uri, request.resource.uri
        key = (subject, resource, request.action)
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
