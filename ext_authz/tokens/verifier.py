"""The tokens stage of a decision: a header and a connection to the authority of a chain."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote_to_bytes

from cryptography import x509

from ext_authz.attributes.request import DELEGATION_TOKEN, Attributes
from ext_authz.identity.identify import MAX_REMEMBERED, MAX_REMEMBERED_CHARACTERS, Identity
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.memo import Memo
from ext_authz.tokens.chain import Delegation, DelegationTrust, LinkCache, Presentation, verify_chain
from ext_authz.tokens.keys import KeySet, TrustedKeys
from ext_authz.tokens.revocation import NO_REVOCATIONS, Revocations


def _load(encoded: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(unquote_to_bytes(encoded))


@dataclass(frozen=True)
class ChainVerifier:
    """Verifies chains under one DelegationTrust and remembers the links whose signatures hold."""

    trust: DelegationTrust
    _cache: LinkCache = field(default_factory=LinkCache, repr=False, compare=False)
    _certificate: Memo[x509.Certificate] = field(
        default_factory=lambda: Memo(_load, max_entries=MAX_REMEMBERED, max_characters=MAX_REMEMBERED_CHARACTERS),
        repr=False,
        compare=False,
    )

    def with_keys(self, fetched: Mapping[SpiffeId, KeySet]) -> "ChainVerifier":
        """Return a verifier with other keys for some issuers; what is remembered stays when no key differs."""
        old = self.trust.keys
        keys = TrustedKeys({**old.by_issuer, **fetched}, old.bundles)
        is_same = all(
            issuer in old.by_issuer and old.by_issuer[issuer].digest == new.digest for issuer, new in fetched.items()
        )
        cache = self._cache if is_same else LinkCache()
        return ChainVerifier(replace(self.trust, keys=keys), cache, self._certificate)

    def verify(
        self, attributes: Attributes, identity: Identity, now: float, revocations: Revocations = NO_REVOCATIONS
    ) -> Delegation:
        """Return the authority of the chain that the request carries. Raises Refusal."""
        presentation = Presentation(
            presenter=identity.subject,
            destination=identity.resource,
            now=now,
            certificate_sha256=bytes.fromhex(identity.certificate_sha256) or None,
            certificate=self._certificate(attributes.certificate) if attributes.certificate else None,
        )
        return verify_chain(attributes.headers[DELEGATION_TOKEN], presentation, self.trust, self._cache, revocations)
