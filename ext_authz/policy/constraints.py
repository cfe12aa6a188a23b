"""What a grant asks beside subject, resource and action: whether a verified delegation satisfies it.

1. Each grant stands alone; the first that is satisfied allows.
2. When none is, the reason is that of the first: the order is that of the documents.
"""

from collections.abc import Iterable, Sequence

from ext_authz.errors import Reason, Refusal
from ext_authz.policy.verdict import Grant
from ext_authz.tokens.chain import Delegation


def satisfied(grants: Sequence[Grant], scope: str, delegation: Delegation | None) -> Grant:
    """Return the first grant that the delegation satisfies. `scope` is the action's own. Raises Refusal."""
    reasons = []
    for grant in grants:
        reason = _unmet(grant, scope, delegation)
        if reason is None:
            return grant
        reasons.append(reason)
    raise Refusal(reasons[0])


def _unmet(grant: Grant, scope: str, delegation: Delegation | None) -> Reason | None:
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
