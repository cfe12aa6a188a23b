"""The certificate that signed a link: an X.509-SVID of the issuer, from the bundle of the issuer's own trust domain.

Never a merged pool of roots: a partner's CA must not sign names of ours.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.signature import VerificationKey, usual_algorithm

# Certificates in one `x5c`: leaf, intermediate CA, and one more.
MAX_CERTIFICATES = 3
MAX_CERTIFICATE_CHARACTERS = 8192

# What `cryptography` raises for certificates that it cannot read; those of its own are no ValueErrors.
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# Roots by trust domain.
Bundles = Mapping[str, Sequence[x509.Certificate]]


class SvidError(ValueError):
    """The certificates are no X.509-SVID of the issuer."""


@dataclass(frozen=True, slots=True)
class SigningSvid:
    """The key of a verified X.509-SVID and what limits its use."""

    spiffe_id: SpiffeId
    key: VerificationKey
    sha256: bytes
    not_before: float  # seconds since 1970
    not_after: float
    path_not_before: float  # of all certificates up to the root that it was verified with
    path_not_after: float

    @classmethod
    def verify(cls, x5c: Any, issuer: SpiffeId, bundles: Bundles, now: float) -> Self:
        """Verify an `x5c` header (RFC 7515 section 4.1.6) against the issuer's bundle. Raises SvidError."""
        return cls.verify_path(decode_certificates(x5c), issuer, bundles, now)

    @classmethod
    def verify_path(
        cls, certificates: Sequence[x509.Certificate], issuer: SpiffeId, bundles: Bundles, now: float
    ) -> Self:
        """Verify certificates, leaf first, against the issuer's bundle. Raises SvidError."""
        leaf, *intermediates = certificates
        roots = bundles.get(issuer.trust_domain, ())
        if not roots:
            raise SvidError("there is no bundle of the issuer's trust domain")
        return cls.of(_verified_path(leaf, intermediates, roots, now), issuer)

    @classmethod
    def of(cls, path: Sequence[x509.Certificate], issuer: SpiffeId) -> Self:
        """Read a verified path, leaf first. Raises SvidError unless the leaf names `issuer` and nothing else."""
        leaf = path[0]
        try:
            names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if names.get_values_for_type(x509.UniformResourceIdentifier) != [issuer.uri]:
                raise SvidError("the certificate names another than the issuer")
            public_key = leaf.public_key()
            key = VerificationKey.register(public_key, usual_algorithm(public_key))
            return cls(
                spiffe_id=issuer,
                key=key,
                sha256=leaf.fingerprint(hashes.SHA256()),
                not_before=leaf.not_valid_before_utc.timestamp(),
                not_after=leaf.not_valid_after_utc.timestamp(),
                path_not_before=max(each.not_valid_before_utc.timestamp() for each in path),
                path_not_after=min(each.not_valid_after_utc.timestamp() for each in path),
            )
        except _UNREADABLE as error:
            raise error if isinstance(error, SvidError) else SvidError("the certificate cannot sign") from None


def decode_certificates(x5c: Any) -> list[x509.Certificate]:
    """Read an `x5c` list, leaf first, without verifying it. Raises SvidError."""
    if type(x5c) is not list or not 1 <= len(x5c) <= MAX_CERTIFICATES:
        raise SvidError(f"x5c is no list of 1 to {MAX_CERTIFICATES} certificates")
    return [_certificate(encoded) for encoded in x5c]


def _certificate(encoded: Any) -> x509.Certificate:
    """Decode standard base64 DER, in its one spelling: a reader that skips line breaks would see another token."""
    if type(encoded) is not str or len(encoded) > MAX_CERTIFICATE_CHARACTERS:
        raise SvidError("x5c has an entry that is no certificate")
    try:
        der = base64.b64decode(encoded, validate=True)
        if base64.b64encode(der).decode("ascii") != encoded:
            raise SvidError("x5c has an entry that is not canonical base64")
        return x509.load_der_x509_certificate(der)
    except _UNREADABLE as error:
        raise error if isinstance(error, SvidError) else SvidError("x5c has an entry that is no certificate") from None


def _verified_path(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], roots: Sequence[x509.Certificate], now: float
) -> list[x509.Certificate]:
    """Return the certificates from the leaf to the root that vouches for it."""
    policies = {"ca_policy": _CA_POLICY, "ee_policy": _LEAF_POLICY}
    builder = (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(datetime.fromtimestamp(now, UTC))
        .max_chain_depth(MAX_CERTIFICATES)
    )
    try:
        return builder.extension_policies(**policies).build_client_verifier().verify(leaf, intermediates).chain
    except (VerificationError, *_UNREADABLE):
        raise SvidError("the certificate was not issued by the issuer's trust domain, or is not valid now") from None


def _check_leaf_constraints(_: Any, __: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    """X509-SVID.md section 4.1: a leaf is no CA."""
    if constraints is not None and constraints.ca:
        raise ValueError("the leaf is a CA")


def _check_leaf_usage(_: Any, __: x509.Certificate, usage: x509.KeyUsage) -> None:
    """X509-SVID.md section 4.3: a leaf signs data, never certificates or lists."""
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise ValueError("the leaf's key usage is not a workload's")


# Extended key usage is left open, as go-spiffe leaves it: SVIDs sign tokens as well as they open connections.
_LEAF_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _check_leaf_constraints)
    .require_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_leaf_usage)
)
_CA_POLICY = ExtensionPolicy.webpki_defaults_ca()
