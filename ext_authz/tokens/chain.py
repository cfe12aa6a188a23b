"""Verification of a delegation chain: every hop's signature, authority that only shrinks, the last link bound to the caller.

1. `verify_chain` does all of it, and `verify_received_chain` for the workload that a chain was shown to; there is no other
   way from a header to a Delegation.
2. What is remembered is that a link's signature holds, for as long as the certificates behind it do; time, revocation,
   the chain and its presentation are checked every time.
3. A refusal names the link by its index, 0 for the root, and never repeats what the token says.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from cryptography import x509

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.memo import TextCache
from ext_authz.tokens.claims import MAX_TTL_SECONDS, ClaimError, Claims, Origin
from ext_authz.tokens.jws import UnverifiedToken, decode_link, encode_base64url, malformed, split_chain
from ext_authz.tokens.keys import NO_KEYS, TrustedKeys
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations
from ext_authz.tokens.signature import VerificationKey
from ext_authz.tokens.svid import SigningSvid, SvidError

TOKEN_TYPE = "dlg+jwt"  # noqa: S105
# Seconds that issuers' clocks may run ahead of ours. Expiry has no leeway.
LEEWAY_SECONDS = 30

_KEY_ID, _CERTIFICATES, _THUMBPRINT = "kid", "x5c", "x5t#S256"
_REFERENCES = frozenset({_KEY_ID, _CERTIFICATES, _THUMBPRINT})


class RootLimit(NamedTuple):
    """For whom and for what a root issuer may start chains."""

    subject: str  # the whole `sub`, or its beginning
    is_exact: bool
    scopes: frozenset[str] | None  # None: any
    targets: frozenset[SpiffeId] | None = None  # None: any

    def covers(self, root: Claims) -> bool:
        """Whether the root stays inside the limit."""
        if not self.covers_subject(root.on_behalf_of):
            return False
        if self.scopes is not None and not root.scopes <= self.scopes:
            return False
        return self.targets is None or root.allowed_targets <= self.targets

    def covers_subject(self, on_behalf_of: str) -> bool:
        """Whether chains may be started for this user."""
        return on_behalf_of == self.subject if self.is_exact else on_behalf_of.startswith(self.subject)


@dataclass(frozen=True, slots=True)
class DelegationTrust:
    """Who may start chains, who may mint for others, and how far chains may go."""

    keys: TrustedKeys
    root_issuers: frozenset[SpiffeId]
    minters: frozenset[SpiffeId] = frozenset()
    max_depth: int = 5
    max_ttl_seconds: int = MAX_TTL_SECONDS
    root_limits: Mapping[SpiffeId, RootLimit] = field(default_factory=dict)


class Presentation(NamedTuple):
    """Who shows the chain to whom, as the connection proves it."""

    presenter: SpiffeId
    destination: SpiffeId
    now: float  # seconds since 1970
    certificate_sha256: bytes | None = None  # of the presenter's certificate
    certificate: x509.Certificate | None = None


class Receipt(NamedTuple):
    """Who says that it received a chain, as the connection proves it."""

    recipient: SpiffeId
    now: float  # seconds since 1970


class Delegation(NamedTuple):
    """The authority of a verified chain."""

    on_behalf_of: str
    session_id: str | None
    scopes: frozenset[str]
    allowed_targets: frozenset[SpiffeId]
    depth: int  # hops that remain
    hops: int  # workload-to-workload calls so far, this one included
    actors: tuple[SpiffeId, ...]  # holders, root first
    root_issuer: SpiffeId
    token_ids: tuple[str, ...]
    expires_at: int  # seconds since 1970
    once: bool


class ReceivedChain(NamedTuple):
    """A verified chain in the hands of the workload that it was made for."""

    delegation: Delegation
    leaf: Claims
    leaf_hash: str  # of its signing input
    origin: Origin  # every link, in the words of a checkpoint that replaces them
    oldest_issued_at: int  # seconds since 1970


class _Signer(NamedTuple):
    """Whose key made a signature."""

    key: VerificationKey
    holds_from: float  # the span in which what vouches for the key does, in seconds since 1970
    holds_until: float
    key_id: str | None = None
    svid: SigningSvid | None = None
    is_presented: bool = False  # the key is that of the connection's certificate


class _Link(NamedTuple):
    """A link whose signature holds, with what every use of it looks at: one look-up each, and strings for SPIFFE IDs."""

    claims: Claims
    signing_hash: str
    signer: _Signer
    is_presented: bool  # signed with the certificate of the connection, which the next one does not have
    holder: str
    audience: str
    targets: frozenset[str]
    workloads: tuple[SpiffeId, ...]  # all that acted or signed
    not_before: int  # seconds since 1970; the later of `iat` and `nbf`
    holds_from: float  # the span in which the certificates or the key set behind the signature count
    holds_until: float


def verify_chain(
    header: str,
    presentation: Presentation,
    trust: DelegationTrust,
    cache: "LinkCache | None" = None,
    revocations: Revocations = NO_REVOCATIONS,
) -> Delegation:
    """Verify the value of x-delegation-token. Raises Refusal."""
    links = _verified_links(header, presentation, trust, cache, revocations)
    _check_presentation(links, presentation)
    _check_ids(links)
    return _delegation(links, trust)


def verify_received_chain(
    header: str,
    receipt: Receipt,
    trust: DelegationTrust,
    cache: "LinkCache | None" = None,
    revocations: Revocations = NO_REVOCATIONS,
) -> ReceivedChain:
    """Verify a chain for the workload that it was shown to, which wants one to show in turn. Raises Refusal.

    All steps are those of `verify_chain` but the presentation, which is over: the recipient must be the audience of the last
    link. `cnf` bound that link to the certificate of whoever showed it, and was looked at then. A link signed by thumbprint
    is refused, because its certificate is not seen any more.
    """
    showing = Presentation(receipt.recipient, receipt.recipient, receipt.now)
    links = _verified_links(header, showing, trust, cache, revocations)
    if links[-1].audience != receipt.recipient.uri:
        raise Refusal(Reason.TOKEN_AUDIENCE, "the chain was made for another workload")
    _check_ids(links)
    leaf = links[-1]
    return ReceivedChain(
        _delegation(links, trust),
        leaf.claims,
        leaf.signing_hash,
        _origin_of(links),
        min(link.claims.issued_at for link in links),
    )


def _verified_links(
    header: str,
    presentation: Presentation,
    trust: DelegationTrust,
    cache: "LinkCache | None",
    revocations: Revocations,
) -> list[_Link]:
    """Check everything but who shows the chain to whom."""
    links = [_verified(text, index, presentation, trust, cache) for index, text in enumerate(split_chain(header))]
    _check_root(links[0].claims, trust)
    for index, (parent, child) in enumerate(pairwise(links), start=1):
        _check_lineage(index, parent, child)
        _check_shrinking(index, parent, child)
    for index, link in enumerate(links):
        _check_policy(index, link.claims, trust)
        _check_time(index, link, presentation.now)
        if revocations is not NO_REVOCATIONS and _is_revoked(link, revocations):
            raise Refusal(Reason.TOKEN_REVOKED, f"link {index} was revoked")
    return links


class LinkCache(TextCache[_Link]):
    """Links whose signature was verified with the keys of one DelegationTrust, by their text.

    Make a new one when keys or bundles change.
    """

    __slots__ = ()


def _verified(
    text: str, index: int, presentation: Presentation, trust: DelegationTrust, cache: LinkCache | None
) -> _Link:
    known = cache.get(text) if cache is not None else None
    if known is not None and known.holds_from <= presentation.now <= known.holds_until:
        return known
    link = _verify_link(decode_link(text, index), index, presentation, trust.keys)
    if cache is not None and not link.is_presented:  # that one holds for this caller's certificate only
        cache.put(text, link)
    return link


def _verify_link(link: UnverifiedToken, index: int, presentation: Presentation, keys: TrustedKeys) -> _Link:
    """Check header, claims and signature of one link."""
    reference = link.header.keys() & _REFERENCES
    if link.header.keys() != {"alg", "typ", *reference} or len(reference) != 1:
        raise malformed(index, "has other header parameters than alg, typ and one key reference")
    if link.header["typ"] != TOKEN_TYPE:
        raise malformed(index, f"is not of type {TOKEN_TYPE}")
    try:
        claims = Claims.parse(link.claims)
    except ClaimError as error:
        raise malformed(index, f"has a claim that is not allowed: {error}") from None
    (name,) = reference
    try:
        signer = _signer(name, link.header[name], claims.issuer, presentation, keys)
        _check_validity(claims, signer.svid)
    except SvidError as error:
        raise Refusal(Reason.TOKEN_KEY, f"the key of link {index} does not count: {error}") from None
    if not signer.key.verify(link.header["alg"], link.signing_input, link.signature):
        raise Refusal(Reason.TOKEN_SIGNATURE, f"the signature of link {index} does not hold")
    return _Link(
        claims=claims,
        signing_hash=link.signing_hash,
        signer=signer,
        is_presented=signer.is_presented,
        holder=claims.holder.uri,
        audience=claims.audience.uri,
        targets=frozenset(target.uri for target in claims.allowed_targets),
        workloads=tuple({claims.issuer, claims.holder, *(claims.origin.actors if claims.origin else ())}),
        not_before=max(claims.issued_at, claims.not_before or 0),
        holds_from=signer.holds_from,
        holds_until=signer.holds_until,
    )


def _signer(name: str, reference: Any, issuer: SpiffeId, presentation: Presentation, keys: TrustedKeys) -> _Signer:
    """Find the key that a link refers to, among those of its issuer. Raises SvidError."""
    if name == _KEY_ID:
        registered = keys.of(issuer, presentation.now)
        key = registered.keys.get(reference) if isinstance(reference, str) else None
        if key is None:
            raise SvidError("it is not registered for the issuer")
        return _Signer(key, -math.inf, registered.usable_until, key_id=reference)
    if name == _CERTIFICATES:
        svid = SigningSvid.verify(reference, issuer, keys.bundles, presentation.now)
        return _Signer(svid.key, svid.path_not_before, svid.path_not_after, svid=svid)
    known = keys.by_issuer.get(issuer, NO_KEYS).certificates.get(reference) if isinstance(reference, str) else None
    if known is not None:
        svid = SigningSvid.verify_path(known.path, issuer, keys.bundles, presentation.now)
        return _Signer(svid.key, svid.path_not_before, svid.path_not_after, svid=svid, key_id=known.key_id)
    svid = _presented_svid(reference, issuer, presentation)
    return _Signer(svid.key, svid.path_not_before, svid.path_not_after, svid=svid, is_presented=True)


def _presented_svid(thumbprint: Any, issuer: SpiffeId, presentation: Presentation) -> SigningSvid:
    """Return the presenter's own certificate when the link refers to it."""
    certificate = presentation.certificate
    if certificate is None:
        raise SvidError("the presenter's certificate is not known")
    svid = SigningSvid.of([certificate], issuer)
    if thumbprint != encode_base64url(svid.sha256):
        raise SvidError("it is not the presented one")
    if not svid.not_before <= presentation.now <= svid.not_after:
        raise SvidError("the presented certificate is not valid now")
    return svid


def _check_validity(claims: Claims, svid: SigningSvid | None) -> None:
    """Check that the link lies inside the validity of the certificate that signed it."""
    if svid is None:
        return
    if claims.issued_at < svid.not_before - LEEWAY_SECONDS or claims.expires_at > svid.not_after:
        raise SvidError("the link is not inside the validity of the certificate that signed it")


def _check_root(root: Claims, trust: DelegationTrust) -> None:
    if root.issuer not in trust.root_issuers:
        raise Refusal(Reason.TOKEN_ISSUER, "the issuer of link 0 may not start delegation chains")
    limit = trust.root_limits.get(root.issuer)
    if limit is not None and not limit.covers(root):
        raise Refusal(Reason.TOKEN_ISSUER, "link 0 goes beyond the subjects, scopes and targets of its issuer")
    if root.parent_hash is not None:
        raise Refusal(Reason.TOKEN_CHAIN, "link 0 names a parent: the chain is incomplete")
    if root.origin is not None and root.issuer not in trust.minters:
        raise Refusal(Reason.TOKEN_CHAIN, "link 0 is a checkpoint of an issuer that may not make one")


def _check_lineage(index: int, parent: _Link, child: _Link) -> None:
    """Check that a link continues the one before it: the same session, passed on by the workload that received it."""
    if child.claims.parent_hash != parent.signing_hash:
        raise _broken(index, "does not name the link before it as its parent")
    if child.claims.on_behalf_of != parent.claims.on_behalf_of:
        raise _broken(index, "is on behalf of somebody else")
    if child.claims.session_id != parent.claims.session_id:
        raise _broken(index, "belongs to another session")
    if child.holder != parent.audience:
        raise _broken(index, "was not made by the workload that received the link before it")


def _check_shrinking(index: int, parent: _Link, child: _Link) -> None:
    """Check that a link gives nothing that the one before it does not."""
    given, claims = parent.claims, child.claims
    if not claims.scopes <= given.scopes:
        raise _broken(index, "has scopes that the link before it has not")
    if not child.targets <= parent.targets:
        raise _broken(index, "has targets that the link before it has not")
    if claims.max_depth != given.max_depth:
        raise _broken(index, "changes the maximal depth")
    if claims.depth >= given.depth:
        raise _broken(index, "does not lower the depth")
    if claims.expires_at > given.expires_at:
        raise _broken(index, "outlives the link before it")
    if claims.issued_at < given.issued_at - LEEWAY_SECONDS:
        raise _broken(index, "is older than the link before it")


def _broken(index: int, how: str) -> Refusal:
    return Refusal(Reason.TOKEN_CHAIN, f"link {index} {how}")


def _check_policy(index: int, claims: Claims, trust: DelegationTrust) -> None:
    """Check what policy says about any link."""
    if claims.actor is not None and claims.issuer not in trust.minters:
        raise Refusal(Reason.TOKEN_CHAIN, f"the issuer of link {index} may not name an actor")
    if claims.max_depth > trust.max_depth:
        raise _broken(index, "allows more hops than the policy")
    if claims.expires_at - claims.issued_at > trust.max_ttl_seconds:
        raise Refusal(Reason.TOKEN_EXPIRED, f"link {index} lives longer than {trust.max_ttl_seconds} s")


def _check_time(index: int, link: _Link, now: float) -> None:
    if now >= link.claims.expires_at:
        raise Refusal(Reason.TOKEN_EXPIRED, f"link {index} has expired")
    if link.not_before > now + LEEWAY_SECONDS:
        raise Refusal(Reason.TOKEN_NOT_YET_VALID, f"link {index} is not valid yet")


def _is_revoked(link: _Link, revocations: Revocations) -> bool:
    claims, signer = link.claims, link.signer
    return (
        claims.token_id in revocations.token_ids
        or claims.session_id in revocations.session_ids
        or signer.key_id in revocations.key_ids
        or (signer.svid is not None and signer.svid.sha256 in revocations.certificates)
        or claims.issued_at <= revocations.subjects.get(claims.on_behalf_of, -1)
        or (bool(revocations.workloads) and _is_revoked_by_workload(link, revocations.workloads))
        or (claims.origin is not None and _is_revoked_by_ancestor(claims.origin, revocations))
    )


def _is_revoked_by_workload(link: _Link, marks: Mapping[SpiffeId, int]) -> bool:
    """Whether somebody who took part was revoked after the link, or the key that signed it, was made."""
    if any(link.claims.issued_at <= marks.get(workload, -1) for workload in link.workloads):
        return True
    if link.signer.svid is None:
        return link.claims.issuer in marks  # until the issuer registers another key
    # A compromised signer chooses its own `iat`, but not the `notBefore` of its certificate.
    return link.signer.svid.not_before <= marks.get(link.claims.issuer, -1)


def _is_revoked_by_ancestor(origin: Origin, revocations: Revocations) -> bool:
    """Whether a link that a checkpoint replaced was revoked; its actor is among the workloads.

    A signer counts as revoked whenever its links were made: when its key or certificate was, is not known any more.
    """
    return (
        not revocations.token_ids.isdisjoint(origin.token_ids)
        or not revocations.key_ids.isdisjoint(origin.keys)
        or any(encode_base64url(digest) in origin.keys for digest in revocations.certificates)
        or any(signer in revocations.workloads for signer in origin.signers if signer is not None)
    )


def _check_presentation(links: list[_Link], presentation: Presentation) -> None:
    """Bind the chain to the connection that it came over."""
    leaf = links[-1]
    if leaf.holder != presentation.presenter.uri:
        raise Refusal(Reason.TOKEN_PRESENTER, "the chain was made for another caller")
    if leaf.audience != presentation.destination.uri:
        raise Refusal(Reason.TOKEN_AUDIENCE, "the chain was made for another workload")
    certificate_hash = leaf.claims.certificate_hash
    if certificate_hash is not None and certificate_hash != presentation.certificate_sha256:
        raise Refusal(Reason.TOKEN_PRESENTER, "the chain is bound to another certificate")


def _check_ids(links: list[_Link]) -> None:
    """Check what no two links may share, and that only the last one refers to a certificate that others never see."""
    if len({link.claims.token_id for link in links}) != len(links):
        raise Refusal(Reason.TOKEN_CHAIN, "two links have the same id")
    if any([link.is_presented for link in links[:-1]]):  # noqa: C419  (a generator costs more than six links)
        raise Refusal(Reason.TOKEN_CHAIN, "only the last link may refer to the presented certificate")


def _delegation(links: list[_Link], trust: DelegationTrust) -> Delegation:
    claims = [link.claims for link in links]
    root, leaf = claims[0], claims[-1]
    is_grant = root.actor is None and root.issuer in trust.minters
    holders = [each.holder for each in claims[is_grant:]]
    token_ids = [each.token_id for each in claims]
    hops = len(holders)
    if root.origin is not None:
        # A grant that a checkpoint replaced is listed, so that it can be revoked; as in a chain, its minter did not act.
        acted = root.origin.actors[root.origin.actors[0] in trust.minters :]
        holders = [*acted, *holders]
        token_ids = [*root.origin.token_ids, *token_ids]
        hops += len(acted)
    return Delegation(
        on_behalf_of=leaf.on_behalf_of,
        session_id=leaf.session_id,
        scopes=leaf.scopes,
        allowed_targets=leaf.allowed_targets,
        depth=leaf.depth,
        hops=hops,
        actors=tuple(holders),
        root_issuer=root.issuer,
        token_ids=tuple(token_ids),
        expires_at=leaf.expires_at,
        once=True in [each.once for each in claims],  # a caveat holds for everything below it
    )


def _origin_of(links: list[_Link]) -> Origin:
    """Name every link, those that an earlier checkpoint replaced included."""
    earlier = links[0].claims.origin or Origin(0, (), (), ())
    count = earlier.count + len(links)
    return Origin(
        count,
        (*earlier.token_ids, *(link.claims.token_id for link in links)),
        (*earlier.actors, *(link.claims.holder for link in links)),
        # A minter may have left out the keys; their places stay empty.
        (*(earlier.keys or ("",) * earlier.count), *(_reference_of(link.signer) for link in links)),
        (*(earlier.signers or (None,) * earlier.count), *map(_signer_beside, links)),
    )


def _signer_beside(link: _Link) -> SpiffeId | None:
    """Return who signed, where the actor and the thumbprint of a certificate do not say it."""
    is_told = link.signer.svid is not None and link.signer.key_id is None and link.claims.actor is None
    return None if is_told else link.claims.issuer


def _reference_of(signer: _Signer) -> str:
    """Return the name by which a key can be revoked: its `kid`, or the thumbprint of its certificate."""
    return signer.key_id or (encode_base64url(signer.svid.sha256) if signer.svid else "")
