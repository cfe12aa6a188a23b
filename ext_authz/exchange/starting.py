"""From a user's access token to the first link of a chain (contract A.4, "Safety of the exchange").

An agent that merely received a user's token must not mint with it, so all of this must hold:

1. The token is for the exchange itself: its `aud` names the exchange's SPIFFE ID.
2. It was issued to the client that asks: the provider's `clients` say which workload its `azp` is. A provider without
   `clients` starts nothing.
3. The client names the scopes that it wants; they lie within the token's, in our words, and within what the policy lets the
   exchange start.
4. The link ends with the token, and is as old as the token: what is revoked by a mark in time stays revoked.
"""

import re
from dataclasses import replace

from ext_authz.client.minting import ROOT_LIFETIME_SECONDS, Root, mint_root
from ext_authz.client.signing import LinkSigner, MintingError
from ext_authz.errors import NotAllowed, Reason, Refusal
from ext_authz.exchange.admission import Client, ExchangeSnapshot
from ext_authz.exchange.form import ExchangeRequest
from ext_authz.exchange.issuing import Issued, verified
from ext_authz.exchange.refusal import ErrorCode, ExchangeRefusal, bad_subject_token, invalid_request, unavailable
from ext_authz.tokens.access_token import AccessToken, AccessTrust, verify_access_token
from ext_authz.tokens.chain import (
    Delegation,
    DelegationTrust,
    Presentation,
    Receipt,
    verify_received_chain,
)
from ext_authz.tokens.exchange_names import ROOT

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")


def start_chain(asked: ExchangeRequest, client: Client, snapshot: ExchangeSnapshot, now: float) -> Issued:
    """Return a first link for the user of an access token. `now` is in seconds since 1970. Raises ExchangeRefusal.

    Where the audience is the client itself it is a grant, which the client passes on; else the client shows it as it is.
    """
    trust = snapshot.trust(now)
    token = _verified_token(asked, client, snapshot, now)
    scopes = asked.scopes or frozenset()
    if not scopes <= token.scopes:
        raise ExchangeRefusal(ErrorCode.INVALID_SCOPE, "the access token does not give a scope that was asked for")
    limit = trust.root_limits.get(snapshot.own)
    if limit is not None and not limit.covers_subject(token.on_behalf_of):
        raise invalid_request("the exchange may not start chains for this user")
    if limit is not None and limit.scopes is not None and not scopes <= limit.scopes:
        raise ExchangeRefusal(
            ErrorCode.INVALID_SCOPE, "the exchange may not start chains with a scope that was asked for"
        )
    if limit is not None and limit.targets is not None and not (asked.targets or {asked.audience}) <= limit.targets:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, "the exchange may not start chains for such a target")
    if asked.targets is not None and asked.audience not in asked.targets:
        raise ExchangeRefusal(ErrorCode.INVALID_TARGET, "the audience is not among the resources")
    signer = snapshot.keys.signer(snapshot.own, now)
    if signer is None:
        raise unavailable("no key of the exchange signs yet")
    chain = _minted(_root(asked, client, token, trust, now), signer, now)
    return Issued(chain, ROOT, _granted(chain, asked, client, snapshot, now), None)


def _verified_token(asked: ExchangeRequest, client: Client, snapshot: ExchangeSnapshot, now: float) -> AccessToken:
    """Verify the token as a server does, but for the exchange as its one audience, and for a client that is mapped."""
    policy = snapshot.policy.providers
    if policy is None:
        raise invalid_request("unsupported subject_token_type: the policy names no identity provider")
    ours = frozenset({snapshot.own.uri})
    providers = {
        issuer: replace(provider, audiences=ours)
        for issuer, provider in policy.trust.providers.items()
        if provider.clients is not None
    }
    presentation = Presentation(client.spiffe_id, snapshot.own, now, client.certificate_sha256)
    trust = AccessTrust(providers, snapshot.controls.revocations)
    try:
        token = verify_access_token(f"Bearer {asked.subject_token}", presentation, trust)
        _check_session(token, snapshot, now)
    except NotAllowed as refusal:
        raise bad_subject_token(refusal) from None
    return token


def _check_session(token: AccessToken, snapshot: ExchangeSnapshot, now: float) -> None:
    """Refuse a session in quarantine, and one whose id no chain can carry: it could not be revoked."""
    if token.session_id is None:
        return
    if _SESSION_ID.fullmatch(token.session_id) is None:
        raise Refusal(Reason.OIDC_MALFORMED, "the session of the access token has an id that no chain can carry")
    if now < snapshot.controls.quarantined_sessions.get(token.session_id, 0):
        raise Refusal(Reason.REVOKED)


def _root(asked: ExchangeRequest, client: Client, token: AccessToken, trust: DelegationTrust, now: float) -> Root:
    ends_at = min(token.expires_at, token.issued_at + trust.max_ttl_seconds)
    seconds = min(asked.lifetime_seconds or ROOT_LIFETIME_SECONDS, int(ends_at - now))
    if seconds < 1:
        raise invalid_request("the access token is about to expire")
    return Root(
        on_behalf_of=token.on_behalf_of,
        audience=asked.audience,
        scopes=asked.scopes or (),
        allowed_targets=asked.targets or {asked.audience},
        session_id=token.session_id,
        actor=None if asked.audience == client.spiffe_id else client.spiffe_id,
        depth=trust.max_depth if asked.depth is None else min(asked.depth, trust.max_depth),
        lifetime_seconds=seconds,
        issued_at=token.issued_at,
        once=asked.once,
    )


def _minted(root: Root, signer: LinkSigner, now: float) -> str:
    try:
        return mint_root(signer, root, now)
    except MintingError:
        raise invalid_request("the access token cannot be turned into a chain as asked") from None


def _granted(chain: str, asked: ExchangeRequest, client: Client, snapshot: ExchangeSnapshot, now: float) -> Delegation:
    """Verify what was just signed, as whoever sees it next will."""
    trust, revocations = snapshot.trust(now), snapshot.controls.revocations
    if asked.audience != client.spiffe_id:
        return verified(chain, Presentation(client.spiffe_id, asked.audience, now), trust, revocations)
    try:
        return verify_received_chain(chain, Receipt(client.spiffe_id, now), trust, revocations=revocations).delegation
    except Refusal as refusal:
        raise unavailable(f"the policy does not accept what this exchange signs: {refusal.reason}") from None
