"""The limits stage: what a decision looks at before it is made, and what is counted once it is.

1. Looking (`admit`, `admit_tokens`) belongs to the decision and changes nothing. Counting (`charge`) happens once, after
   the decision and before its answer, never when a decision is only explained or tried out.
2. Outbound calls are not counted: what is limited is who asks agents, and there the caller is the listener's own workload.
3. A failure while counting is `internal_error`: what cannot be counted is not allowed.
"""

from collections.abc import Sequence

from ext_authz.decision.model import Decision
from ext_authz.errors import NotAllowed, Outcome, Reason
from ext_authz.faults import place_of
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.limits.limiter import Limiter, Wanted
from ext_authz.policy.compile import Policy
from ext_authz.policy.verdict import Grant

# A token that ends in one of these did not hold, as opposed to one that holds and does not fit the call.
FAILED_VERIFICATIONS = frozenset(
    {
        *(Reason.TOKEN_MALFORMED, Reason.TOKEN_SIGNATURE, Reason.TOKEN_EXPIRED, Reason.TOKEN_NOT_YET_VALID),
        *(Reason.TOKEN_ISSUER, Reason.TOKEN_KEY, Reason.TOKEN_REVOKED, Reason.TOKEN_CHAIN),
        *(Reason.TOKEN_AUDIENCE, Reason.TOKEN_PRESENTER),
        *(Reason.OIDC_MALFORMED, Reason.OIDC_SIGNATURE, Reason.OIDC_EXPIRED, Reason.OIDC_ISSUER),
        *(Reason.OIDC_AUDIENCE, Reason.OIDC_LIFETIME, Reason.OIDC_BINDING),
    }
)


def admit(principal: str, policy: Policy, limiter: Limiter, now_ns: int) -> None:
    """Raise RateExceeded for one whom no cell knows and who asked too often. `principal` is what Envoy verified."""
    limits = policy.limits
    if limits is not None and limits.unknown_callers is not None and not policy.matrix.knows(principal):
        limiter.check_unknown(principal, limits.unknown_callers, now_ns)


def admit_tokens(caller: SpiffeId, policy: Policy, limiter: Limiter, now_ns: int) -> None:
    """Raise RateExceeded for a caller of whose tokens too many did not hold; before a signature is verified."""
    limits = policy.limits
    if limits is not None and limits.failed_verifications is not None:
        limiter.check_verifications(caller, limits.failed_verifications, now_ns)


def wanted(caller: SpiffeId, choices: Sequence[Grant], policy: Policy) -> Wanted | None:
    """Return what a would-be allow counts towards, None when that is nothing."""
    rate = None if policy.limits is None else policy.limits.of(caller)
    return None if rate is None and not choices else Wanted(caller.uri, rate, choices)


def has_room(decision: Decision, policy: Policy, limiter: Limiter, now_ns: int) -> Decision:
    """Return a would-be allow, or a refusal when it would find no place. Counts nothing."""
    if decision.attributes.is_outbound:
        return decision
    found = _wanted(decision, policy)
    if found is None:
        return decision
    try:
        limiter.check(found, now_ns)
    except Exception as error:  # noqa: BLE001  rule 3
        return _overruled(decision, error)
    return decision


def charge(decision: Decision, policy: Policy, limiter: Limiter, now_ns: int) -> Decision:
    """Count a decision, and return it, or a refusal when a would-be allow found no place."""
    if (policy.limits is None and not decision.choices) or decision.attributes.is_outbound:
        return decision
    try:
        if decision.reason is not Reason.ALLOWED:
            _note(decision, policy, limiter, now_ns)
        elif found := _wanted(decision, policy):
            grant = limiter.charge(found, now_ns)
            if grant is not None:
                return _granted_by(grant, decision)
    except Exception as error:  # noqa: BLE001  rule 3
        return _overruled(decision, error)
    return decision


def _granted_by(grant: Grant, decision: Decision) -> Decision:
    """Return a would-be allow as that of this grant: what it does not ask for adds nothing to it."""
    if decision.access_token is not None and not grant.asks_for_access_token:
        return decision._replace(rule=grant.rule, access_token=None)
    return decision if grant.rule is decision.rule else decision._replace(rule=grant.rule)


def _wanted(decision: Decision, policy: Policy) -> Wanted | None:
    if decision.identity is None:
        raise ValueError("an allow names its caller")
    return wanted(decision.identity.subject, decision.choices, policy)


def _note(decision: Decision, policy: Policy, limiter: Limiter, now_ns: int) -> None:
    """Count a denial towards the limits at admission."""
    limits, principal = policy.limits, decision.attributes.principal
    if limits is None or decision.meaning.outcome is not Outcome.DENY:
        return
    if limits.unknown_callers is not None and not policy.matrix.knows(principal):
        limiter.note_unknown(principal, limits.unknown_callers, now_ns)
    if limits.failed_verifications is not None and decision.reason in FAILED_VERIFICATIONS and decision.identity:
        limiter.note_failed_verification(decision.identity.subject, limits.failed_verifications, now_ns)


def _overruled(decision: Decision, error: Exception) -> Decision:
    if isinstance(error, NotAllowed):
        return decision.refused(error)
    return decision.overruled(Reason.INTERNAL_ERROR, fault=place_of(error))
