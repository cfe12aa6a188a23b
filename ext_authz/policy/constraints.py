"""What a grant asks beside subject, resource and action: whether a verified delegation satisfies it.

1. Each grant stands alone; the first that is satisfied allows.
2. When none is, the reason is that of the first: the order is that of the documents.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ext_authz.errors import Reason, Refusal
from ext_authz.policy.request import AuthorizationRequest
from ext_authz.policy.verdict import Grant
from ext_authz.tokens.chain import Delegation


class Facts(NamedTuple):
    """The verified facts that constraints look at."""

    request: AuthorizationRequest
    scope: str  # the action's own
    delegation: Delegation | None


def satisfied(grants: Sequence[Grant], facts: Facts) -> Grant:
    """Return the first grant that the facts satisfy. Raises Refusal."""
    reasons = []
    for grant in grants:
        reason = _unmet(grant, facts)
        if reason is None:
            return grant
        reasons.append(reason)
    raise Refusal(reasons[0])


def all_satisfied(grants: Sequence[Grant], facts: Facts) -> tuple[Grant, ...]:
    """Return every grant that the facts satisfy: where one counts calls and is used up, another may allow."""
    return tuple(grant for grant in grants if _unmet(grant, facts) is None)


def _unmet(grant: Grant, facts: Facts) -> Reason | None:
    return _unmet_by_delegation(grant, facts.scope, facts.delegation)


def _unmet_by_delegation(grant: Grant, scope: str, delegation: Delegation | None) -> Reason | None:
    if delegation is None:
        return Reason.TOKEN_MISSING if grant.delegation == "required" else None
    if grant.delegation == "forbidden":
        return Reason.TOKEN_FORBIDDEN
    if not _has(delegation, (scope, *grant.scopes)):
        return Reason.TOKEN_SCOPE
    if grant.max_hops is not None and delegation.hops > grant.max_hops:
        return Reason.HOPS_EXCEEDED
    return None


def _has(delegation: Delegation, scopes: Iterable[str]) -> bool:
    return all(scope in delegation.scopes for scope in scopes)
