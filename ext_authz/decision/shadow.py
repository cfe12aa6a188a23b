"""What another policy would have said of the same request.

1. The answer does not depend on it: a candidate that fails, or takes too long, is passed over.
2. It runs the same stages as the active policy, through the same code. What does not depend on the policy, or rests on
   the same trust, is not done twice: identity, signatures, screening.
3. It has no effects and counts nothing: rates of the candidate are not looked at.
"""

from collections.abc import Iterator
from dataclasses import replace

from ext_authz.decision.decide import Call, Snapshot, judge
from ext_authz.decision.model import Decision, ShadowVerdict
from ext_authz.errors import Reason
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy
from ext_authz.tokens.compile import DelegationPolicy
from ext_authz.tokens.keys import NO_KEYS, KeySet, KeySource
from ext_authz.tokens.providers import ProviderPolicy

# How long a candidate may take between two stages before it is given up. The answer waits for it.
MAX_SHADOW_NS = 5_000_000


class Shadow:
    """Holds the candidate and compares it with the active policy. `candidate` may be replaced at any time."""

    def __init__(self, candidate: Policy | None = None) -> None:
        self.candidate = candidate  # None: it could not be loaded
        self.newly_allowed = self.newly_denied = self.other_reason = 0
        self.given_up = 0  # comparisons that took too long, or could not be made
        self._paired: tuple[Snapshot, Policy, Snapshot] | None = None

    def compared(self, decision: Decision, active: Snapshot, call: Call) -> Decision:
        """Return the decision, with what the candidate says where that differs. Never raises."""
        candidate = self.candidate
        # Ends that say nothing of a policy: of time, and of calls that were counted.
        if candidate is None or decision.reason is Reason.DEADLINE or decision.reason is Reason.RATE_EXCEEDED:
            return decision
        stopwatch = call.stopwatch.again(MAX_SHADOW_NS)
        beside = Call(call.decision_id, call.now, stopwatch, call.peer, call.seen)
        try:
            snapshot = self._snapshot(active, candidate)
        except Exception:  # noqa: BLE001  rule 1
            self.given_up += 1
            return decision
        reason, rule = judge(decision.attributes, snapshot, beside)
        if reason is decision.reason:
            return decision
        if reason is Reason.DEADLINE:
            self.given_up += 1
            return decision
        self._count(decision.reason, reason)
        return decision._replace(shadow=ShadowVerdict(reason, rule, candidate.digest))

    def _snapshot(self, active: Snapshot, candidate: Policy) -> Snapshot:
        """Return the active snapshot with the candidate in it; made anew when either was replaced."""
        paired = self._paired
        if paired is None or paired[0] is not active or paired[1] is not candidate:
            policy = replace(_with_trust_of(candidate, active.policy), limits=None)
            paired = self._paired = active, candidate, replace(active, policy=policy)
        return paired[2]

    def _count(self, reason: Reason, other: Reason) -> None:
        if reason is Reason.ALLOWED:
            self.newly_denied += 1
        elif other is Reason.ALLOWED:
            self.newly_allowed += 1
        else:
            self.other_reason += 1


def _with_trust_of(candidate: Policy, active: Policy) -> Policy:
    """Give the candidate the fetched keys of the active policy, and its verifier where both trust the same."""
    candidate = candidate.with_keys(dict(_fetched(active)))
    theirs, ours = candidate.delegation, active.delegation
    if theirs is not None and ours is not None and list(_trusted(theirs)) == list(_trusted(ours)):
        candidate = replace(candidate, delegation=replace(theirs, verifier=ours.verifier))
    if candidate.providers and active.providers and _accepted(candidate.providers) == _accepted(active.providers):
        candidate = replace(candidate, providers=active.providers)
    return candidate


def _fetched(policy: Policy) -> Iterator[tuple[KeySource, KeySet]]:
    """Yield the keys that a policy has from addresses."""
    if policy.delegation is not None:
        by_issuer = policy.delegation.verifier.trust.keys.by_issuer
        yield from ((source, by_issuer[issuer]) for issuer, source in policy.delegation.sources.items())
    if policy.providers is not None:
        providers = policy.providers.trust.providers
        yield from ((source, providers[issuer].keys) for issuer, source in policy.providers.sources.items())


def _trusted(delegation: DelegationPolicy) -> Iterator[object]:
    """Yield all that a verification rests on, keys by the digests of what they were read from, in the order of reading."""
    trust = delegation.verifier.trust
    yield delegation.digest
    yield [(issuer, _digest(delegation, issuer)) for issuer in trust.keys.by_issuer]
    yield list(trust.keys.bundles)
    yield from (trust.root_issuers, trust.minters, trust.max_depth, trust.max_ttl_seconds, dict(trust.root_limits))


def _digest(delegation: DelegationPolicy, issuer: SpiffeId) -> tuple[object, str]:
    return delegation.sources.get(issuer), delegation.verifier.trust.keys.by_issuer[issuer].digest


def _accepted(policy: ProviderPolicy) -> tuple[object, ...]:
    """Return all that the verification of an access token rests on, as above."""
    providers = [
        (issuer, policy.sources.get(issuer), provider.keys.digest, replace(provider, keys=NO_KEYS))
        for issuer, provider in policy.trust.providers.items()
    ]
    return policy.digest, providers
