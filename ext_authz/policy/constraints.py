"""What a grant asks beside subject, resource and action: whether delegation, access token and time satisfy it.

1. Each grant stands alone; the first that is satisfied allows.
2. When none is, the reason is that of the first: the order is that of the documents.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ext_authz.errors import InsufficientScope, Reason, Refusal
from ext_authz.policy.request import AuthorizationRequest
from ext_authz.policy.verdict import Grant
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation


class Facts(NamedTuple):
    """The verified facts that constraints look at."""

    request: AuthorizationRequest
    scope: str  # the action's own
    delegation: Delegation | None
    access_token: AccessToken | None = None
    has_authorization: bool = False  # whether the header came, verified or not


def satisfied(grants: Sequence[Grant], facts: Facts) -> Grant:
    """Return the first grant that the facts satisfy. Raises Refusal."""
    reasons = []
    for grant in grants:
        reason = _unmet(grant, facts)
        if reason is None:
            return grant
        reasons.append(reason)
    if reasons[0] is Reason.OIDC_SCOPE:
        raise InsufficientScope([facts.scope, *sorted(grants[0].scopes - {facts.scope})])
    raise Refusal(reasons[0])


def all_satisfied(grants: Sequence[Grant], facts: Facts) -> tuple[Grant, ...]:
    """Return every grant that the facts satisfy: where one counts calls and is used up, another may allow."""
    return tuple(grant for grant in grants if _unmet(grant, facts) is None)


def any_asks(grants: Sequence[Grant]) -> bool:
    """Whether an access token that comes is verified for one of the grants."""
    return any([grant.asks_for_access_token for grant in grants])  # noqa: C419  a generator costs more than two grants


def _unmet(grant: Grant, facts: Facts) -> Reason | None:
    reason = _unmet_by_delegation(grant, facts.scope, facts.delegation)
    if reason is None and grant.access_token is not None:
        reason = _unmet_by_access_token(grant, facts)
    if reason is None and grant.times is not None and not grant.times.include(facts.request.context.now):
        return Reason.OUTSIDE_WINDOW
    return reason


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


def _unmet_by_access_token(grant: Grant, facts: Facts) -> Reason | None:
    if not grant.asks_for_access_token:
        return Reason.TOKEN_FORBIDDEN if facts.has_authorization else None
    if facts.access_token is None:
        return Reason.OIDC_MISSING if grant.access_token == "required" else None  # noqa: S105
    return None if _has(facts.access_token, (facts.scope, *grant.scopes)) else Reason.OIDC_SCOPE


def _has(token: Delegation | AccessToken, scopes: Iterable[str]) -> bool:
    return all(scope in token.scopes for scope in scopes)
