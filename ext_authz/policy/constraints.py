"""What rules ask beside subject, resource and action: delegation, access token, time and conditions.

1. Each grant stands alone; the first that is satisfied allows.
2. When none is, the reason is that of the first, in the order of the documents; but one whose condition failed might
   have allowed, so that nobody knows: `condition_error`.
3. A deny rule applies unless its condition is false: one that is not known denies too.
"""

from collections.abc import Iterable, Sequence

from ext_authz.errors import InsufficientScope, Reason, Refusal, Undecided
from ext_authz.policy.conditions import Truth
from ext_authz.policy.facts import Facts
from ext_authz.policy.verdict import Denial, Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation

# What a condition that is not true makes of a grant.
_UNMET = {
    Truth.FALSE: Reason.CONDITION_FALSE,
    Truth.MISSING: Reason.CONDITION_FALSE,
    Truth.FAILED: Reason.CONDITION_ERROR,
}


def denied(denials: Sequence[Denial], facts: Facts) -> tuple[Reason, Rule] | None:
    """Return the reason and the deny rule that applies to the facts, None when none does."""
    failed = None
    for denial in denials:
        truth = denial.when.evaluate(facts)
        if truth in {Truth.TRUE, Truth.MISSING}:
            return Reason.DENIED_BY_RULE, denial.rule
        if truth is Truth.FAILED:
            failed = failed or (Reason.CONDITION_ERROR, denial.rule)
    return failed


def satisfied(grants: Sequence[Grant], facts: Facts) -> Grant:
    """Return the first grant that the facts satisfy. Raises NotAllowed."""
    reasons = []
    for grant in grants:
        reason = _unmet(grant, facts)
        if reason is None:
            return grant
        reasons.append(reason)
    if Reason.CONDITION_ERROR in reasons:
        raise Undecided(Reason.CONDITION_ERROR)
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
        reason = Reason.OUTSIDE_WINDOW
    if reason is None and grant.when is not None:
        # A token that the grant does not ask for adds nothing to it.
        shown = facts if grant.asks_for_access_token else facts._replace(access_token=None)
        reason = _UNMET.get(grant.when.evaluate(shown))
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
