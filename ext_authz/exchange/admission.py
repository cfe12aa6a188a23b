"""Who may use the exchange, and what an exchange rests on."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ext_authz.decision.controls import NO_CONTROLS, Controls
from ext_authz.errors import NotAllowed, Reason, Refusal, Undecided
from ext_authz.exchange.keys import KeyRing
from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, unavailable
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.compile import Policy
from ext_authz.policy.constraints import denied, satisfied
from ext_authz.policy.facts import Facts
from ext_authz.policy.request import AuthorizationRequest, Context
from ext_authz.tokens.chain import DelegationTrust, LinkCache
from ext_authz.tokens.keys import NO_KEYS, KeySet, TrustedKeys

# The action that the matrix grants to clients of the exchange, on its own SPIFFE ID.
EXCHANGE_ACTION = "token.exchange"

_NO_OTHER_KEYS = KeySet({})


@dataclass(frozen=True, slots=True)
class ExchangeSnapshot:
    """Everything that an exchange rests on, swapped as a whole when any of it changes."""

    own: SpiffeId
    policy: Policy
    keys: KeyRing
    controls: Controls = NO_CONTROLS
    cache: LinkCache = field(default_factory=LinkCache, repr=False, compare=False)

    def trust(self, now: float) -> DelegationTrust:
        """Return whose chains count: as the policy says, and our own keys whatever it knows of them.

        Raises ExchangeRefusal when the policy says nothing about delegation.
        """
        delegation = self.policy.delegation
        if delegation is None:
            raise unavailable("the policy says nothing about delegation")
        trust = delegation.verifier.trust
        by_issuer = dict(trust.keys.by_issuer)
        known = by_issuer.get(self.own, NO_KEYS)
        # Another process of this exchange has keys of its own. A link that they verify is remembered as long as they count.
        others = known if now <= known.usable_until else _NO_OTHER_KEYS
        by_issuer[self.own] = KeySet({**others.keys, **self.keys.verification_keys}, others.usable_until)
        return replace(trust, keys=TrustedKeys(by_issuer, trust.keys.bundles))


class Client(NamedTuple):
    """Who asks, as the sidecar of the exchange saw it."""

    spiffe_id: SpiffeId
    certificate_sha256: bytes


def problems_of(own: SpiffeId, policy: Policy) -> list[str]:
    """Return why a policy does not let the exchange work: every problem, for its operator."""
    if policy.delegation is None:
        return ["the policy has no Delegation document: no chain can be verified"]
    trust = policy.delegation.verifier.trust
    problems = [
        f"the Delegation document does not name `{own}` among its {name}"
        for name, named in (("minters", trust.minters), ("root_issuers", trust.root_issuers))
        if own not in named
    ]
    if EXCHANGE_ACTION not in policy.registry.actions:
        problems.append(f"no ActionRegistry document has the action `{EXCHANGE_ACTION}`")
    return problems


def check_client(client: SpiffeId, snapshot: ExchangeSnapshot, now: float) -> None:
    """Raise ExchangeRefusal unless the client may use the exchange. The sidecar asked the same of the server before."""
    controls, policy = snapshot.controls, snapshot.policy
    try:
        controls.check_caller(client, now)
        controls.check_freshness(now)
        if policy.windows.closed and policy.windows.closed_by(now) is not None:
            raise Refusal(Reason.OUTSIDE_WINDOW)
        request = AuthorizationRequest(client, EXCHANGE_ACTION, snapshot.own, Context(now))
        verdict = policy.matrix.evaluate(request)
        action = policy.registry.actions.get(EXCHANGE_ACTION)
        if verdict.reason is not Reason.ALLOWED or action is None:
            raise Refusal(verdict.reason if action else Reason.ACTION_UNREGISTERED)
        facts = Facts(request, action.scope, None, policy_digest=policy.digest)
        denial = denied(verdict.denials, facts)
        if denial is not None:
            raise Undecided(denial[0]) if denial[0] is Reason.CONDITION_ERROR else Refusal(denial[0])
        satisfied(verdict.grants, facts)
    except Refusal as refusal:
        raise ExchangeRefusal(ErrorCode.UNAUTHORIZED_CLIENT, refusal.detail) from None
    except NotAllowed as undecided:
        raise unavailable(undecided.detail) from None
