"""The development CA: signs X.509-SVIDs and JWT-SVIDs as a SPIRE server does, with keys that live in memory only.

1. `issue` gives nothing but a valid X.509-SVID of its own trust domain; what breaks the rules is made by
   `issue_unchecked`, for tests and for attacks in the demo.
2. The clock comes in as an argument.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jose import jwk, jws, jwt
from jose.exceptions import JOSEError

from ext_authz.errors import ExtAuthzError
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.local.svid import Bundle, KeyedCertificate, X509Svid, to_pem, trust_domain_id

Clock = Callable[[], datetime]

# SPIRE's own defaults (ca_ttl, default_x509_svid_ttl, default_jwt_svid_ttl).
CA_TTL = timedelta(hours=24)
X509_SVID_TTL = timedelta(hours=1)
JWT_SVID_TTL = timedelta(minutes=5)

# For peers whose clock is a little behind. SPIRE dates back by as much.
BACKDATING = timedelta(seconds=10)

# A JWT-SVID of ours has about 500 bytes; the limit leaves room for 16 long audiences.
MAX_JWT_SVID_BYTES = 8192

# RFC 7515 section 7.1, compact serialization. The signature of ES256 has 64 bytes (RFC 7518 section 3.4): 86 characters,
# of which the last carries 2 bits. Nothing else is let near the library, which would take longer ones.
_JWT_SVID = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]")


class CaError(ExtAuthzError):
    """The development CA will not sign this."""


class JwtSvidError(ValueError):
    """The text is no JWT-SVID that this authority vouches for."""


def utc_now() -> datetime:
    """Read the system's clock."""
    return datetime.now(UTC)


def check_trust_domain(name: str) -> None:
    """Raise CaError unless this is the name of a trust domain (SPIFFE-ID.md section 2.1)."""
    try:
        spiffe_id = SpiffeId.parse(trust_domain_id(name))
    except SpiffeIdError as error:
        raise CaError(f"`{name}` is no trust domain: {error}") from error
    if spiffe_id.path:
        raise CaError(f"`{name}` is no trust domain: it has a path")


@dataclass(frozen=True, slots=True)
class DevelopmentCa:
    """A throw-away root for one trust domain."""

    trust_domain: str
    certificate: x509.Certificate
    now: Clock = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, trust_domain: str, now: Clock = utc_now, ttl: timedelta = CA_TTL) -> Self:
        """Make a new root with a new key. Raises CaError for a name that is no trust domain."""
        check_trust_domain(trust_domain)
        key = ec.generate_private_key(ec.SECP256R1())
        serial_number = x509.random_serial_number()
        subject = _subject("SPIFFE-like", serial_number)
        certificate = (
            _builder(subject, key.public_key(), [trust_domain_id(trust_domain)], is_ca=True)
            .issuer_name(subject)
            .serial_number(serial_number)
            .not_valid_before(now() - BACKDATING)
            .not_valid_after(now() + ttl)
            .sign(key, hashes.SHA256())
        )
        return cls(trust_domain, certificate, now, key)

    @property
    def bundle(self) -> Bundle:
        """What peers need to verify this CA's SVIDs."""
        return (self.certificate,)

    @property
    def bundle_pem(self) -> bytes:
        """The bundle as PEM."""
        return to_pem(self.bundle)

    @property
    def expires_at(self) -> datetime:
        """Until when the root is valid, in UTC."""
        return self.certificate.not_valid_after_utc

    def issue(self, spiffe_id: SpiffeId, ttl: timedelta = X509_SVID_TTL) -> X509Svid:
        """Sign an X.509-SVID with a new key; it lives no longer than the root.

        Raises CaError for an ID of another trust domain, for one without a path, and when the root has expired.
        """
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise CaError(f"`{spiffe_id}` is no workload of trust domain `{self.trust_domain}`")
        now = self.now()
        if now >= self.expires_at:
            raise CaError(f"the development CA expired at {self.expires_at:%Y-%m-%d %H:%M} UTC: start anew")
        issued = self.issue_unchecked([spiffe_id.uri], expires_at=min(now + ttl, self.expires_at))
        return X509Svid(spiffe_id=spiffe_id, certificate=issued.certificate, private_key=issued.private_key)

    def issue_unchecked(
        self,
        uris: Sequence[str],
        *,
        ca: bool = False,
        not_before: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> KeyedCertificate:
        """Sign whatever is asked: no URI, several, a foreign one, a leaf that is a CA, one that has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_subject("SPIRE-like"), key.public_key(), uris, is_ca=ca)
            .issuer_name(self.certificate.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or self.now() - BACKDATING)
            .not_valid_after(expires_at or self.now() + X509_SVID_TTL)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return KeyedCertificate(certificate=certificate, private_key=key)


@dataclass(frozen=True, slots=True)
class JwtAuthority:
    """Signs and verifies the JWT-SVIDs of one trust domain (JWT-SVID.md)."""

    trust_domain: str
    now: Clock = field(repr=False)
    public_jwk: Mapping[str, str]
    _key_pem: bytes = field(repr=False)

    @classmethod
    def create(cls, trust_domain: str, now: Clock = utc_now) -> Self:
        """Make an authority with a new ES256 key."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public = jwk.construct(public_pem, "ES256").to_dict()
        coordinates = {"kty": "EC", "crv": "P-256", "x": str(public["x"]), "y": str(public["y"])}
        return cls(trust_domain, now, {"use": "jwt-svid", "kid": _thumbprint(coordinates), **coordinates}, key_pem)

    @property
    def jwks(self) -> bytes:
        """The bundle of this trust domain: a JWK Set with the one public key."""
        return json.dumps({"keys": [self.public_jwk]}).encode()

    def issue(self, spiffe_id: SpiffeId, audiences: Sequence[str]) -> str:
        """Sign a JWT-SVID that lives five minutes. Raises CaError without an audience or for a foreign ID."""
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            raise CaError(f"`{spiffe_id}` is no workload of trust domain `{self.trust_domain}`")
        if not any(audiences):
            raise CaError("a JWT-SVID needs an audience")
        issued_at = int(self.now().timestamp())
        claims = {
            "sub": spiffe_id.uri,
            "aud": [audience for audience in audiences if audience],
            "iat": issued_at,
            "exp": issued_at + int(JWT_SVID_TTL.total_seconds()),
        }
        return str(jwt.encode(claims, self._key_pem.decode(), algorithm="ES256", headers=self._own_headers))

    def verify(self, token: str, audience: str) -> dict[str, Any]:
        """Check form, signature, audience, expiry and subject of a JWT-SVID, without leeway; return its claims.

        Raises JwtSvidError. The error does not repeat the token.
        """
        if len(token) > MAX_JWT_SVID_BYTES or _JWT_SVID.fullmatch(token) is None:
            raise JwtSvidError("not an ES256 token in compact serialization")
        claims = self._verify_signature(token)
        if audience not in claims["aud"]:
            raise JwtSvidError("the token is meant for another audience")
        if self.now().timestamp() >= claims["exp"]:
            raise JwtSvidError("the token has expired")
        if SpiffeId.parse_workload(claims["sub"]).trust_domain != self.trust_domain:
            raise JwtSvidError("the token's subject belongs to another trust domain")
        return claims

    def _verify_signature(self, token: str) -> dict[str, Any]:
        try:
            # The header is what this authority writes, or the token is not its own: no algorithm to choose, no key to name.
            if jwt.get_unverified_header(token) != {"alg": "ES256", "typ": "JWT", **self._own_headers}:
                raise JwtSvidError("the token was not signed by this trust domain")
            claims: dict[str, Any] = json.loads(jws.verify(token, dict(self.public_jwk), algorithms=["ES256"]))
        except JOSEError as error:
            raise JwtSvidError("the token's signature is not valid") from error
        return claims

    @property
    def _own_headers(self) -> dict[str, str]:
        return {"kid": self.public_jwk["kid"]}


def _subject(organization: str, serial_number: int | None = None) -> x509.Name:
    """Name a certificate as SPIRE does (C=US, O=SPIRE), and so that nobody takes it for a real one.

    A root also carries its serial number, so that two roots never have the same name.
    """
    attributes = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "development only"),
    ]
    if serial_number is not None:
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial_number)))
    return x509.Name(attributes)


def _builder(
    subject: x509.Name, public_key: ec.EllipticCurvePublicKey, uris: Sequence[str], *, is_ca: bool
) -> x509.CertificateBuilder:
    """Lay out what roots and leaves have in common (X509-SVID.md sections 3 and 4)."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if not uris:  # an empty extension would be malformed
        return builder
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    return builder.add_extension(x509.SubjectAlternativeName(names), critical=False)


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _thumbprint(key: Mapping[str, str]) -> str:
    """Digest a public key as RFC 7638 does, in hex."""
    canonical = json.dumps(dict(sorted(key.items())), separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
