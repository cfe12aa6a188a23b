"""The caller's certificate as Envoy forwards it, read for what an X.509-SVID must hold (X509-SVID.md).

Envoy has verified the chain. What is checked here are the rules that its validators have been seen to let through: two
URI names, a CA certificate as leaf, and a certificate that expired while its connection lived on.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256

from ext_authz.errors import Reason, Refusal
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError

# Seconds that a certificate may start in the future: the spread of clocks that SPIRE itself allows for is 10.
NOT_BEFORE_LEEWAY_SECONDS = 30
# What `cryptography` raises for bytes that are no certificate, or one that nobody should have signed.
_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

# RFC 7468 section 3, one certificate and nothing around it.
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\s*")


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What is needed of a leaf certificate; the certificate itself is not kept."""

    spiffe_id: SpiffeId
    not_before: float  # seconds since 1970
    not_after: float
    sha256: str  # of the DER bytes, lower-case hexadecimal: the Hash of XFCC

    @classmethod
    def parse(cls, encoded: str) -> Self:
        """Read a URL-encoded PEM certificate. Raises Refusal when it is no X.509-SVID of a workload."""
        pem = unquote_to_bytes(encoded)
        try:
            if _PEM.fullmatch(pem) is None:
                raise Refusal(Reason.IDENTITY_INVALID, "the certificate is not one PEM block")
            certificate = x509.load_pem_x509_certificate(pem)
            _refuse_signing(certificate)
            return cls(
                spiffe_id=_only_uri(certificate),
                not_before=certificate.not_valid_before_utc.timestamp(),
                not_after=certificate.not_valid_after_utc.timestamp(),
                sha256=certificate.fingerprint(SHA256()).hex(),
            )
        except _UNREADABLE as error:
            raise Refusal(Reason.IDENTITY_INVALID, f"the certificate cannot be read: {type(error).__name__}") from None

    def refuse_unless_valid(self, now: float) -> None:
        """Raise Refusal when the certificate is not valid at `now`, in seconds since 1970."""
        if now >= self.not_after:
            raise Refusal(Reason.IDENTITY_INVALID, f"the certificate expired at {_utc(self.not_after)}")
        if now < self.not_before - NOT_BEFORE_LEEWAY_SECONDS:
            raise Refusal(Reason.IDENTITY_INVALID, f"the certificate is valid from {_utc(self.not_before)}")


def _only_uri(certificate: x509.Certificate) -> SpiffeId:
    """Return the one URI name (X509-SVID.md section 2: more than one must be rejected)."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Refusal(Reason.IDENTITY_INVALID, f"the certificate has {len(uris)} URI names, an X.509-SVID has one")
    try:
        return SpiffeId.parse_workload(uris[0])
    except SpiffeIdError as error:
        raise Refusal(Reason.IDENTITY_INVALID, f"the certificate: {error}") from None


def _refuse_signing(certificate: x509.Certificate) -> None:
    """Refuse a leaf that could sign others (X509-SVID.md sections 4.1 and 4.3)."""
    for extension in certificate.extensions:
        value = extension.value
        signs = (isinstance(value, x509.BasicConstraints) and value.ca) or (
            isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign)
        )
        if signs:
            raise Refusal(Reason.IDENTITY_INVALID, "the certificate may sign others, so it names no workload")


def _utc(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, tz=UTC).isoformat()
