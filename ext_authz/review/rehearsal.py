"""Decisions on requests that nobody sent, by the very stages that decide on real ones.

1. The identity stage believes `source.principal`, as it does when Envoy verified a certificate: there is none to check.
2. A delegation stands for a chain that holds, and an access token for one that does. Presence, scopes, hops and for whom they
   are is decided on; signatures, issuers and clients are not.
3. Effects never run, and nothing is remembered or recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ext_authz.attributes.compose import compose_check_request
from ext_authz.attributes.request import AUTHORIZATION, DELEGATION_TOKEN, Attributes, parse_attributes
from ext_authz.attributes.salvage import salvage_attributes
from ext_authz.decision.decide import Call, Snapshot, decide, refuse
from ext_authz.decision.model import Decision
from ext_authz.decision.stopwatch import Stopwatch
from ext_authz.identity.identify import Identifier, Identity
from ext_authz.injection.screen import Screen
from ext_authz.policy.compile import Policy
from ext_authz.review.requests import PolicyRequest
from ext_authz.tokens.access_token import AccessToken
from ext_authz.tokens.chain import Delegation
from ext_authz.tokens.providers import ProviderPolicy
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations
from ext_authz.tokens.verifier import ChainVerifier

DECISION_ID = "rehearsal"
# Stands in the headers of a chain and of an access token; no verifier reads it.
_ASSUMED = "assumed"

ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True)
class AssumedDelegations(ChainVerifier):
    """Takes whatever chain comes for this one, verified. Never part of a server."""

    assumed: Delegation = field(kw_only=True)

    def verify(
        self, attributes: Attributes, identity: Identity, now: float, revocations: Revocations = NO_REVOCATIONS
    ) -> Delegation:
        """Return the assumed delegation."""
        del attributes, identity, now, revocations
        return self.assumed


@dataclass(frozen=True)
class AssumedAccessTokens(ProviderPolicy):
    """Takes whatever access token comes for this one, verified. Never part of a server."""

    assumed: AccessToken = field(kw_only=True)

    def verify(
        self, header: str, identity: Identity, now: float, revocations: Revocations = NO_REVOCATIONS
    ) -> AccessToken:
        """Return the assumed access token."""
        del header, identity, now, revocations
        return self.assumed


def rehearse(request: PolicyRequest, policy: Policy, screen: Screen) -> Decision:
    """Return the decision on a request. Never raises."""
    snapshot = assuming(policy, screen, request)
    return reading(to_bytes(request), snapshot, request.at, lambda attributes, call: decide(attributes, snapshot, call))


def reading(
    data: bytes, snapshot: Snapshot, at: float, ask: Callable[[Attributes, Call], ReturnT]
) -> ReturnT | Decision:
    """Return what `ask` makes of a CheckRequest, or the refusal of one that breaks the request contract."""
    call = Call(DECISION_ID, at, Stopwatch(lambda: 0))
    try:
        attributes = parse_attributes(data)
    except Exception as error:  # noqa: BLE001  as the authorizer does
        return refuse(salvage_attributes(data), snapshot, call, error)
    return ask(attributes, call)


def assuming(policy: Policy, screen: Screen, request: PolicyRequest) -> Snapshot:
    """Return a snapshot in which the chain and the access token that come are those of the request, verified."""
    if request.delegation is not None and policy.delegation is not None:
        verifier = AssumedDelegations(policy.delegation.verifier.trust, assumed=request.delegation)
        policy = replace(policy, delegation=replace(policy.delegation, verifier=verifier))
    if request.access_token is not None and policy.providers is not None:
        providers = policy.providers
        assumed = AssumedAccessTokens(providers.trust, providers.digest, assumed=request.access_token)
        policy = replace(policy, providers=assumed)
    return Snapshot(policy, Identifier(require_xfcc=False), screen)


def to_bytes(request: PolicyRequest) -> bytes:
    """Return the CheckRequest that a sidecar would send."""
    chain = {DELEGATION_TOKEN: _ASSUMED} if request.delegation is not None else {}
    access_token = {AUTHORIZATION: f"Bearer {_ASSUMED}"} if request.access_token is not None else {}
    return compose_check_request(
        (request.subject.uri, request.resource.uri),
        (request.method, request.path),
        {**request.headers, **chain, **access_token},
        request.body,
    )
