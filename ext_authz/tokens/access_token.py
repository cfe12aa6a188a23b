"""Verification of an OAuth access token: of a registered issuer, made for us, short-lived, and shown by who may show it.

1. `verify_access_token` does all of it; there is no other way from a header to an AccessToken.
2. What is remembered is that a token's signature holds, for as long as its issuer's keys are the same; age of the keys,
   audience, time, revocation and who shows it are checked every time.
3. A refusal never repeats what the token says.

The format is RFC 9068, the habits are those of RFC 8725, the header is that of RFC 6750 section 2.1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ext_authz.errors import Reason, Refusal, Undecided
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.memo import TextCache
from ext_authz.tokens.access_claims import MAX_DEPTH, AccessClaims, Actor
from ext_authz.tokens.chain import LEEWAY_SECONDS, Presentation
from ext_authz.tokens.claims import ClaimError
from ext_authz.tokens.jws import TokenFormatError, UnverifiedToken, decode_token, encode_base64url
from ext_authz.tokens.keys import MAX_KEY_ID_CHARACTERS, KeysById, KeySet
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations

# Characters of a token: one with many roles or groups takes some 4,000; most servers take 8,192 for all headers.
MAX_TOKEN_CHARACTERS = 8192
# Characters of `on_behalf_of`, as delegation chains have it.
MAX_ON_BEHALF_OF_CHARACTERS = 255

# credentials = "Bearer" SP token          ; RFC 6750 section 2.1; RFC 9110 section 11.1: the scheme in any letter case
_SCHEME = "bearer "
# A thumbprint of a key that is found by its `kid` says nothing more. All else is refused: keys in the header, `crit`, `zip`.
_PARAMETERS = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})
_THUMBPRINT = "x5t#S256"


@dataclass(frozen=True, slots=True)
class Provider:
    """An issuer of access tokens, and what its tokens count for."""

    issuer: str
    audiences: frozenset[str]  # one of them must be in the token
    keys: KeySet
    token_types: frozenset[str] = frozenset({"at+jwt"})  # lower case, without `application/`
    max_ttl_seconds: int = 900
    clients: Mapping[str, frozenset[SpiffeId]] | None = None  # who may show a client's tokens; None: everybody
    before_sub: str = "user:"  # `on_behalf_of` is these two around the token's `sub`
    after_sub: str = ""
    scope_claim: str = "scope"
    scopes: Mapping[str, frozenset[str]] | None = None  # scopes of ours by the issuer's; None: they are the same

    def usable_keys(self, now: float) -> KeysById:
        """Return the keys of the issuer. Raises Undecided when they could not be fetched."""
        if now > self.keys.usable_until:
            raise Undecided(Reason.KEYS_UNAVAILABLE, "the keys of the access token's issuer could not be fetched")
        return self.keys.keys

    def is_shown_by(self, client: str | None, caller: SpiffeId) -> bool:
        """Whether a workload may show the tokens of a client."""
        if self.clients is None:
            return True
        return client is not None and caller in self.clients.get(client, ())

    def knows_as(self, actor: Actor, caller: SpiffeId) -> bool:
        """Whether an actor is this workload: by its SPIFFE ID, or as a client of this issuer that is mapped to it."""
        if actor.name == caller.uri:
            return True
        is_ours = actor.issuer in {None, self.issuer}
        return is_ours and self.clients is not None and caller in self.clients.get(actor.name, ())


@dataclass(frozen=True, slots=True)
class AccessTrust:
    """Whose access tokens count, by issuer, and what was revoked."""

    providers: Mapping[str, Provider]
    revocations: Revocations = field(default_factory=lambda: NO_REVOCATIONS)


class AccessToken(NamedTuple):
    """The authority of a verified access token."""

    issuer: str
    subject: str  # the issuer's name for whom it counts: `sub`
    on_behalf_of: str  # ours
    scopes: frozenset[str]  # ours
    client: str | None  # to whom it was issued
    actors: tuple[str, ...]  # of `act`, the first one first; only the last one was compared with the caller
    token_id: str | None
    session_id: str | None
    issued_at: int  # seconds since 1970
    expires_at: int


class _Signed(NamedTuple):
    """A token whose signature holds, and what it says in our words."""

    claims: AccessClaims
    key_id: str
    token: AccessToken


class AccessTokenCache(TextCache[_Signed]):
    """Access tokens whose signature was verified with the keys of one AccessTrust, by their text.

    Make a new one when a key or a provider changes.
    """

    __slots__ = ()


def verify_access_token(
    header: str, presentation: Presentation, trust: AccessTrust, cache: AccessTokenCache | None = None
) -> AccessToken:
    """Verify the value of the authorization header. Raises NotAllowed."""
    text = _bearer(header)
    signed = cache.get(text) if cache is not None else None
    if signed is None:
        signed = _verify_signature(text, trust, presentation.now)
        if cache is not None:
            cache.put(text, signed)
    claims, provider = signed.claims, trust.providers[signed.claims.issuer]
    provider.usable_keys(presentation.now)
    _check_policy(claims, provider)
    _check_time(claims, presentation.now)
    _check_presenter(signed, provider, presentation)
    if trust.revocations is not NO_REVOCATIONS and _is_revoked(signed, presentation.presenter, trust.revocations):
        raise Refusal(Reason.TOKEN_REVOKED, "the access token was revoked")
    return signed.token


def _bearer(header: str) -> str:
    """Return the token of the header; `decode_token` looks at its letters."""
    if header[: len(_SCHEME)].lower() != _SCHEME:
        raise Refusal(Reason.OIDC_MALFORMED, "authorization is not `Bearer`, one space and a token")
    if len(header) - len(_SCHEME) > MAX_TOKEN_CHARACTERS:
        raise _malformed(f"has more than {MAX_TOKEN_CHARACTERS} characters")
    return header[len(_SCHEME) :]


def _verify_signature(text: str, trust: AccessTrust, now: float) -> _Signed:
    """Take a token apart, find its issuer and key, and check form and signature."""
    try:
        token = decode_token(text, MAX_DEPTH)
    except TokenFormatError as error:
        raise _malformed(str(error)) from None
    if not {"alg", "typ"} <= token.header.keys() <= _PARAMETERS:
        raise _malformed("has other header parameters than alg, typ and kid")
    issuer = token.claims.get("iss")
    if type(issuer) is not str:
        raise _malformed("has no iss that is a string")
    provider = trust.providers.get(issuer)
    if provider is None:
        raise Refusal(Reason.OIDC_ISSUER)
    if _media_type(token.header["typ"]) not in provider.token_types:
        raise _malformed("is of a type that its issuer's access tokens are not")
    try:
        claims = AccessClaims.parse(token.claims, provider.scope_claim)
    except ClaimError as error:
        raise _malformed(f"has a claim that is not allowed: {error}") from None
    key_id = _verify_key(token, provider.usable_keys(now))
    return _Signed(claims, key_id, _access_token(claims, provider))


def _media_type(value: Any) -> str:
    """Return a `typ` as RFC 7515 section 4.1.9 compares it: in lower case, and without `application/`."""
    return value.lower().removeprefix("application/") if type(value) is str else ""


def _verify_key(token: UnverifiedToken, keys: KeysById) -> str:
    """Return the name of the key that signed a token, of all keys of its issuer."""
    key_id = token.header.get("kid")
    if key_id is None and "kid" not in token.header and len(keys) == 1:
        (key_id,) = keys
    if type(key_id) is not str or not 1 <= len(key_id) <= MAX_KEY_ID_CHARACTERS:
        raise _malformed("does not name its key")
    key = keys.get(key_id)
    if key is None or not key.verify(token.header["alg"], token.signing_input, token.signature):
        raise Refusal(Reason.OIDC_SIGNATURE)
    return key_id


def _access_token(claims: AccessClaims, provider: Provider) -> AccessToken:
    """Translate the claims of a token: whom and what its issuer means, in our words."""
    on_behalf_of = f"{provider.before_sub}{claims.subject}{provider.after_sub}"
    if len(on_behalf_of) > MAX_ON_BEHALF_OF_CHARACTERS:
        raise _malformed("is for somebody whose name is too long")
    if provider.scopes is None:
        scopes = claims.scopes
    else:
        scopes = frozenset(ours for theirs in claims.scopes for ours in provider.scopes.get(theirs, ()))
    return AccessToken(
        issuer=claims.issuer,
        subject=claims.subject,
        on_behalf_of=on_behalf_of,
        scopes=scopes,
        client=min(claims.clients, default=None),
        actors=tuple(actor.name for actor in reversed(claims.actors)),
        token_id=claims.token_id,
        session_id=claims.session_id,
        issued_at=claims.issued_at,
        expires_at=claims.expires_at,
    )


def _check_policy(claims: AccessClaims, provider: Provider) -> None:
    if provider.audiences.isdisjoint(claims.audiences):
        raise Refusal(Reason.OIDC_AUDIENCE)
    if claims.expires_at - claims.issued_at > provider.max_ttl_seconds:
        raise Refusal(Reason.OIDC_LIFETIME, f"the access token lives longer than {provider.max_ttl_seconds} s")


def _check_time(claims: AccessClaims, now: float) -> None:
    if now >= claims.expires_at:
        raise Refusal(Reason.OIDC_EXPIRED, "the access token has expired")
    if max(claims.issued_at, claims.not_before or 0) > now + LEEWAY_SECONDS:
        raise Refusal(Reason.OIDC_EXPIRED, "the access token is not valid yet")


def _check_presenter(signed: _Signed, provider: Provider, presentation: Presentation) -> None:
    """Bind the token to the connection that it came over, as far as it can be bound."""
    claims, caller = signed.claims, presentation.presenter
    if len(claims.clients) > 1:
        raise Refusal(Reason.OIDC_BINDING, "azp and client_id of the access token contradict each other")
    if not provider.is_shown_by(signed.token.client, caller):
        raise Refusal(Reason.OIDC_BINDING, "the access token was issued to a client that the caller is not")
    if claims.confirmation is not None and not _is_confirmed(claims.confirmation, presentation.certificate_sha256):
        raise Refusal(Reason.OIDC_BINDING, "the access token is bound to a key or certificate that was not shown")
    if claims.actors and not provider.knows_as(claims.actors[0], caller):
        raise Refusal(Reason.OIDC_SUBJECT, "another than the caller acts with the access token")


def _is_confirmed(confirmation: Mapping[str, Any], certificate_sha256: bytes | None) -> bool:
    """RFC 8705 section 3.1. Other confirmations, such as RFC 9449's `jkt`, need proofs that are not looked at here."""
    if confirmation.keys() != {_THUMBPRINT} or certificate_sha256 is None:
        return False
    return bool(confirmation[_THUMBPRINT] == encode_base64url(certificate_sha256))


def _is_revoked(signed: _Signed, presenter: SpiffeId, revocations: Revocations) -> bool:
    token = signed.token
    return (
        token.token_id in revocations.token_ids
        or token.session_id in revocations.session_ids
        or signed.key_id in revocations.key_ids
        or token.issued_at <= revocations.subjects.get(token.on_behalf_of, -math.inf)
        or token.issued_at <= revocations.workloads.get(presenter, -math.inf)
    )


def _malformed(what: str) -> Refusal:
    return Refusal(Reason.OIDC_MALFORMED, f"the access token {what}")
