"""Delegation chains, made: how a root is minted, and how its holder passes on less than it has.

1. Asking for more than the chain gives is an error that names what; nothing is dropped in silence.
2. Lifetimes are the exception: they end, unasked, with the chain and with the certificate that signs.
3. Nothing is verified here but one's own request: whoever receives a chain verifies all of it.
"""

import logging
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from ext_authz.client.signing import LinkSigner, MintingError
from ext_authz.errors import Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.chain import LEEWAY_SECONDS, ReceivedChain
from ext_authz.tokens.claims import MAX_DEPTH, MAX_TTL_SECONDS, ClaimError, Claims
from ext_authz.tokens.jws import MAX_CHAIN_BYTES, MAX_LINKS, decode_link, encode_base64url, split_chain

# Bytes of a chain above which it is time for a checkpoint: many gRPC and HTTP stacks refuse more than 8192 for all headers.
COMFORTABLE_CHAIN_BYTES = 6144
# Seconds that a root lives unless its minter says otherwise: a task of an agent.
ROOT_LIFETIME_SECONDS = 900
# Random bytes in a `jti`.
_TOKEN_ID_BYTES = 16

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What the first link of a chain says.

    Grant form: `audience` is the agent that gets the grant, and one of the targets; it signs a link for each call.
    Act form: `actor` is the agent, which need not sign, and `audience` the workload that it calls; only minters make it.
    """

    on_behalf_of: str
    audience: SpiffeId
    scopes: Collection[str]
    allowed_targets: Collection[SpiffeId]
    session_id: str | None = None
    actor: SpiffeId | None = None
    depth: int = MAX_DEPTH  # hops below this link
    lifetime_seconds: int = ROOT_LIFETIME_SECONDS
    not_before: int | None = None  # seconds since 1970
    issued_at: int | None = None  # of the token that it is made from, which it is then as old as; None: now
    certificate_sha256: bytes | None = None  # binds the link to this certificate of its presenter
    once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What the next holder gets of a chain. None: all that there is."""

    scopes: Collection[str] | None = None
    allowed_targets: Collection[SpiffeId] | None = None
    depth: int | None = None  # hops below the new link
    lifetime_seconds: int | None = None
    actor: SpiffeId | None = None  # the holder for whom a minter signs
    certificate_sha256: bytes | None = None  # binds the link to this certificate of its presenter
    once: bool = False


class LastLink(NamedTuple):
    """The end of a chain, decoded and not verified."""

    position: int  # 0 for the root
    claims: Claims
    signing_hash: str

    @classmethod
    def of(cls, chain: str) -> Self:
        """Decode the last link of a chain. Raises MintingError."""
        try:
            *before, text = split_chain(chain)
            link = decode_link(text, len(before))
            return cls(len(before), Claims.parse(link.claims), link.signing_hash)
        except Refusal as refusal:
            raise MintingError(refusal.detail) from None
        except ClaimError as error:
            raise MintingError(f"the last link has a claim that is not allowed: {error}") from None


def mint_root(signer: LinkSigner, root: Root, now: float) -> str:
    """Return a chain of one link. `now` is in seconds since 1970. Raises MintingError."""
    if signer.ends_chains and root.depth > 0:
        raise MintingError("a link signed by thumbprint ends the chain: ask for depth 0")
    claims = {
        "iss": signer.issuer.uri,
        "sub": root.on_behalf_of,
        "sid": root.session_id,
        "act": _actor(root.actor),
        "aud": root.audience.uri,
        **_authority(root.scopes, root.allowed_targets),
        "delegation_depth": root.depth,
        "max_delegation_depth": root.depth,
        **_times(signer, now, root.lifetime_seconds),
        **({} if root.issued_at is None else {"iat": root.issued_at}),
        "nbf": root.not_before,
        "jti": _new_token_id(),
        **_restrictions(root.certificate_sha256, once=root.once),
    }
    return _within_budget(signer.sign(_without_none(claims)))


def attenuate(signer: LinkSigner, chain: str, audience: SpiffeId, narrowing: Narrowing, now: float) -> str:
    """Return the chain with one more link, for `audience`. `now` is in seconds since 1970. Raises MintingError."""
    return _within_budget(extended(signer, chain, audience, narrowing, now))


def extended(signer: LinkSigner, chain: str, audience: SpiffeId, narrowing: Narrowing, now: float) -> str:
    """Return the chain with one more link, however long it gets. Raises MintingError."""
    last = LastLink.of(chain)
    parent = last.claims
    holder = narrowing.actor or signer.issuer
    if holder != parent.audience:
        raise MintingError(f"the chain was made for `{parent.audience}`: `{holder}` cannot pass it on")
    if last.position + 1 == MAX_LINKS:
        raise MintingError(f"the chain has {MAX_LINKS} links already, the most that there may be")
    if now < parent.issued_at - LEEWAY_SECONDS:
        raise MintingError("the chain was issued in the future: check the clock")
    claims = {
        "iss": signer.issuer.uri,
        "sub": parent.on_behalf_of,
        "sid": parent.session_id,
        "act": _actor(narrowing.actor),
        "aud": audience.uri,
        **_narrowed_authority(parent, audience, narrowing),
        "delegation_depth": _narrowed_depth(signer, parent, narrowing.depth),
        "max_delegation_depth": parent.max_depth,
        **_times(signer, now, narrowing.lifetime_seconds, parent.expires_at),
        "jti": _new_token_id(),
        "par_hash": last.signing_hash,
        **_restrictions(narrowing.certificate_sha256, once=narrowing.once),
    }
    return f"{chain}~{signer.sign(_without_none(claims))}"


def checkpoint(
    signer: LinkSigner, replaced: ReceivedChain, audience: SpiffeId, narrowing: Narrowing, now: float
) -> str:
    """Return one link in place of a chain, for `narrowing.actor` to show to `audience`. Only minters make it.

    It is as old as the oldest link that it replaces: what is revoked by a mark in time stays revoked. Raises MintingError.
    """
    parent, origin = replaced.leaf, replaced.origin
    latest = min(parent.expires_at, replaced.oldest_issued_at + MAX_TTL_SECONDS)
    claims = {
        "iss": signer.issuer.uri,
        "sub": parent.on_behalf_of,
        "sid": parent.session_id,
        "act": _actor(narrowing.actor),
        "aud": audience.uri,
        **_narrowed_authority(parent, audience, narrowing),
        "delegation_depth": _narrowed_depth(signer, parent, narrowing.depth),
        "max_delegation_depth": parent.max_depth,
        **_times(signer, now, narrowing.lifetime_seconds, latest),
        "iat": replaced.oldest_issued_at,
        "jti": _new_token_id(),
        "orig": {
            "h": replaced.leaf_hash,
            "n": origin.count,
            "jti": list(origin.token_ids),
            "act": list(map(str, origin.actors)),
            "key": list(origin.keys),
            "iss": [str(signer) if signer else "" for signer in origin.signers],
        },
        **_restrictions(narrowing.certificate_sha256, once=narrowing.once or replaced.delegation.once),
    }
    return signer.sign(_without_none(claims))


def _narrowed_authority(parent: Claims, audience: SpiffeId, narrowing: Narrowing) -> Mapping[str, Any]:
    scopes = parent.scopes if narrowing.scopes is None else narrowing.scopes
    targets = parent.allowed_targets if narrowing.allowed_targets is None else narrowing.allowed_targets
    _refuse_more("scope", scopes, parent.scopes)
    _refuse_more("target", map(str, targets), map(str, parent.allowed_targets))
    _refuse_more("target", [str(audience)], map(str, targets))
    return _authority(scopes, targets)


def _refuse_more(what: str, asked: Iterable[str], given: Iterable[str]) -> None:
    beyond = sorted(set(asked) - set(given))
    if beyond:
        raise MintingError(f"the chain does not give {what} {', '.join(f'`{each}`' for each in beyond)}")


def _narrowed_depth(signer: LinkSigner, parent: Claims, asked: int | None) -> int:
    if parent.depth == 0:
        raise MintingError("the chain allows no further hop")
    deepest = 0 if signer.ends_chains else parent.depth - 1
    depth = deepest if asked is None else asked
    if not 0 <= depth <= deepest:
        raise MintingError(f"depth `{depth}` is not possible: expected 0 to {deepest}")
    return depth


def _times(signer: LinkSigner, now: float, lifetime: int | None, latest: int | None = None) -> Mapping[str, int]:
    """Return `iat` and `exp`: as asked, but neither after the parent ends nor after the certificate that signs."""
    issued_at = int(now)
    if lifetime is not None and not 1 <= lifetime <= MAX_TTL_SECONDS:
        raise MintingError(f"a lifetime of `{lifetime}` s is not possible: expected 1 to {MAX_TTL_SECONDS}")
    if signer.not_before is not None and issued_at < signer.not_before - LEEWAY_SECONDS:
        raise MintingError("the certificate is not valid yet: check the clock")
    expires_at = issued_at + (lifetime or MAX_TTL_SECONDS)
    for end, whose in ((latest, "chain"), (signer.not_after, "certificate")):
        if end is not None:
            if end <= issued_at:
                raise MintingError(f"the {whose} has expired")
            expires_at = min(expires_at, int(end))
    return {"iat": issued_at, "exp": expires_at}


def _actor(actor: SpiffeId | None) -> Mapping[str, str] | None:
    return {"sub": actor.uri} if actor else None


def _authority(scopes: Collection[str], targets: Collection[SpiffeId]) -> Mapping[str, Any]:
    return {"scope": sorted(set(scopes)), "allowed_targets": sorted({target.uri for target in targets})}


def _restrictions(certificate_sha256: bytes | None, *, once: bool) -> Mapping[str, Any]:
    return {
        "cnf": {"x5t#S256": encode_base64url(certificate_sha256)} if certificate_sha256 is not None else None,
        "caveats": {"once": True} if once else None,
    }


def _new_token_id() -> str:
    return secrets.token_urlsafe(_TOKEN_ID_BYTES)


def _without_none(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not said: to a verifier, null is a value and a wrong one."""
    return {name: value for name, value in claims.items() if value is not None}


def _within_budget(chain: str) -> str:
    if len(chain) > MAX_CHAIN_BYTES:
        raise MintingError(f"the chain would have {len(chain)} bytes, at most {MAX_CHAIN_BYTES} are accepted")
    if len(chain) > COMFORTABLE_CHAIN_BYTES:
        _logger.warning(
            "a delegation chain has %d bytes: above %d, exchange it for a checkpoint",
            len(chain),
            COMFORTABLE_CHAIN_BYTES,
        )
    return chain
