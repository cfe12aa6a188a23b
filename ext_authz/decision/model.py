"""The decision: the one frozen value from which both the answer and the audit record are made."""

from typing import NamedTuple

from ext_authz.action.jsonrpc import RpcCall
from ext_authz.action.registry import Action
from ext_authz.attributes.request import Attributes
from ext_authz.errors import Meaning, NotAllowed, Reason
from ext_authz.identity.identify import Identity
from ext_authz.injection.screen import Finding
from ext_authz.policy.egress import OutboundCall
from ext_authz.policy.verdict import Grant, Rule
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation


class ShadowVerdict(NamedTuple):
    """What the shadow policy says where it differs."""

    reason: Reason
    rule: Rule | None
    policy_digest: str


class Decision(NamedTuple):
    """What became of one request, and everything that anybody may ask about it later."""

    decision_id: str
    decided_at: float  # seconds since 1970
    reason: Reason
    detail: str  # for people; see the rules in errors.py
    attributes: Attributes
    identity: Identity | None  # None: the caller could not be identified
    action: Action | None
    rule: Rule | None
    delegation: Delegation | None  # on whose behalf, verified; None: the caller acts on its own authority
    findings: tuple[Finding, ...]
    policy_digest: str
    durations_ns: tuple[tuple[str, int], ...]  # each finished stage, nanoseconds since the one before
    elapsed_ns: int  # from the call to the decision, the stage that refused included
    fault: str  # what failed inside when the reason is internal_error: type and place, never values
    access_token: AccessToken | None = None  # verified, and asked for by the rule
    needed_scopes: tuple[str, ...] = ()  # what the access token should have had, when the reason is oidc_scope
    rpc: RpcCall | None = None  # None: the request came to no JSON-RPC endpoint, or nobody knows to which workload
    choices: tuple[Grant, ...] = ()  # the satisfied grants, where calls are counted: one with room allows
    retry_after_seconds: int = 0  # of a refusal that ends by itself
    shadow: ShadowVerdict | None = None  # None: nothing differs, or there is no shadow policy
    outbound: OutboundCall | None = None  # of an outbound call, which has neither identity nor action

    @property
    def meaning(self) -> Meaning:
        """Outcome, statuses and sentence of the reason."""
        return self.reason.meaning

    def refused(self, refusal: NotAllowed) -> "Decision":
        """Return this decision as something after it refused it."""
        overruled = self.overruled(refusal.reason, refusal.detail)
        return overruled._replace(retry_after_seconds=refusal.retry_after_seconds)

    @property
    def on_behalf_of(self) -> str:
        """For whom the caller acts, verified; empty when it acts on its own authority."""
        token = self.delegation or self.access_token
        return token.on_behalf_of if token else ""

    @property
    def scopes(self) -> frozenset[str]:
        """What the caller may do for them: with a chain and an access token, what both allow."""
        if self.delegation is None:
            return self.access_token.scopes if self.access_token else frozenset()
        return self.delegation.scopes & self.access_token.scopes if self.access_token else self.delegation.scopes

    def overruled(self, reason: Reason, detail: str = "", fault: str = "") -> "Decision":
        """Return this decision with another outcome, for what fails after it was made."""
        detail = detail or reason.meaning.sentence
        return self._replace(reason=reason, detail=detail, fault=fault, retry_after_seconds=0)
