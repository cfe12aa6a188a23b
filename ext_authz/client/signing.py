"""Who signs links: a private key, the workload that it belongs to, and how a verifier finds its public half.

1. A signer is built only when the key fits its algorithm, its certificate and its workload.
2. No error and no repr holds a key.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from jose.backends import ECKey, RSAKey

from ext_authz.errors import ExtAuthzError
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.tokens.chain import TOKEN_TYPE
from ext_authz.tokens.claims import ClaimError, Claims
from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import MAX_KEY_ID_CHARACTERS
from ext_authz.tokens.signature import KeyTypeError, VerificationKey, usual_algorithm
from ext_authz.tokens.svid import MAX_CERTIFICATES

Certificate = x509.Certificate

_CURVES: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class MintingError(ExtAuthzError):
    """The link cannot be made; the text says what was asked for and what is possible."""


@dataclass(frozen=True, slots=True)
class LinkSigner:
    """Signs the links of one workload. Build it with one of the class methods."""

    issuer: SpiffeId
    algorithm: str
    reference: Mapping[str, Any]  # the one header parameter that names the key: kid, x5c or x5t#S256
    not_before: float | None  # seconds since 1970; of the certificate, where there is one
    not_after: float | None
    _sign: Callable[[bytes], bytes] = field(repr=False, compare=False)

    @classmethod
    def with_key_id(cls, issuer: SpiffeId, key_id: str, private_key: PrivateKey, algorithm: str | None = None) -> Self:
        """Sign with a key that verifiers know by its name.

        `algorithm` is what the key is registered for, unless it is the usual one of its type. Raises MintingError.
        """
        if not 1 <= len(key_id) <= MAX_KEY_ID_CHARACTERS:
            raise MintingError(f"a key id has 1 to {MAX_KEY_ID_CHARACTERS} characters")
        name, sign = _signing(private_key, algorithm)
        return cls(issuer, name, {"kid": key_id}, None, None, sign)

    @classmethod
    def with_svid(cls, certificates: Sequence[x509.Certificate], private_key: PrivateKey) -> Self:
        """Sign with the key of an X.509-SVID that travels in the link: leaf first, without the root. Raises MintingError."""
        if not 1 <= len(certificates) <= MAX_CERTIFICATES:
            raise MintingError(f"an SVID has 1 to {MAX_CERTIFICATES} certificates without the root")
        encoded = [base64.b64encode(each.public_bytes(Encoding.DER)).decode("ascii") for each in certificates]
        return cls._with_certificate(certificates[0], private_key, {"x5c": encoded})

    @classmethod
    def with_presented_svid(cls, certificate: x509.Certificate, private_key: PrivateKey) -> Self:
        """Sign with the key of the X.509-SVID that the connection will show: only its thumbprint travels.

        Such a link ends a chain, for nobody behind the next workload sees that certificate. Raises MintingError.
        """
        thumbprint = encode_base64url(certificate_sha256(certificate))
        return cls._with_certificate(certificate, private_key, {"x5t#S256": thumbprint})

    @classmethod
    def _with_certificate(cls, leaf: x509.Certificate, private_key: PrivateKey, reference: Mapping[str, Any]) -> Self:
        if _encoded_key(leaf.public_key()) != _encoded_key(private_key.public_key()):
            raise MintingError("the private key does not belong to the certificate")
        name, sign = _signing(private_key)
        not_before, not_after = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        return cls(_workload_of(leaf), name, reference, not_before, not_after, sign)

    @property
    def ends_chains(self) -> bool:
        """Whether its links can only be the last ones."""
        return "x5t#S256" in self.reference

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a link with these claims. Raises MintingError unless the profile allows them."""
        try:
            Claims.parse(claims)
        except ClaimError as error:
            raise MintingError(str(error)) from None
        header = {"alg": self.algorithm, "typ": TOKEN_TYPE, **self.reference}
        signing_input = f"{_encoded(header)}.{_encoded(claims)}"
        return f"{signing_input}.{encode_base64url(self._sign(signing_input.encode('ascii')))}"


def generate_private_key(algorithm: str) -> PrivateKey:
    """Make a key for Ed25519, ES256 or ES384. Raises MintingError for any other algorithm."""
    if algorithm == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm not in _CURVES:
        raise MintingError(f"no key is made for `{algorithm}`: expected Ed25519, ES256 or ES384")
    return ec.generate_private_key(_CURVES[algorithm])


def private_key_pem(key: PrivateKey) -> bytes:
    """Write a private key: PKCS #8, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_jwk(key: PrivateKey, key_id: str | None = None) -> dict[str, str]:
    """Write the public half as a JWK; its name is its thumbprint (RFC 7638) unless one is given. Raises MintingError."""
    algorithm, _ = _signing(key)
    members = _key_members(key.public_key())
    if key_id is None:
        canonical = json.dumps(dict(sorted(members.items())), separators=(",", ":"))
        key_id = encode_base64url(hashlib.sha256(canonical.encode("ascii")).digest())
    return {"kid": key_id, "alg": algorithm, "use": "sig", **members}


def load_private_key(pem: bytes) -> PrivateKey:
    """Read an unencrypted private key. Raises MintingError."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise MintingError("not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise MintingError("a private key of a type that signs no links: expected EC, Ed25519 or RSA")
    return key


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Read certificates in their order. Raises MintingError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, x509.InvalidVersion):
        raise MintingError("not a list of certificates in PEM") from None


def certificate_sha256(certificate: x509.Certificate) -> bytes:
    """Return the digest by which a link is bound to a certificate."""
    return certificate.fingerprint(hashes.SHA256())


def _signing(private_key: PrivateKey, algorithm: str | None = None) -> tuple[str, Callable[[bytes], bytes]]:
    """Return the algorithm of a key and what signs with it, in the form of RFC 7518 section 3."""
    public_key = private_key.public_key()
    try:
        name = VerificationKey.register(public_key, algorithm or usual_algorithm(public_key)).algorithm
    except KeyTypeError as error:
        raise MintingError(f"the key cannot sign links: {error}") from None
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return name, private_key.sign
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return name, ECKey(private_key, name).sign
    return name, RSAKey(private_key, name).sign if name == "RS256" else _pss(private_key)


def _pss(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    """RFC 7518 section 3.5: the salt is as long as the hash."""
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
    return lambda data: key.sign(data, scheme, hashes.SHA256())


def _key_members(public_key: Any) -> dict[str, str]:
    """Return what makes a public key (RFC 7518 section 6, RFC 8037 section 2)."""
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(public_key.public_bytes_raw())}
    numbers = public_key.public_numbers()
    if isinstance(numbers, rsa.RSAPublicNumbers):
        return {"kty": "RSA", "n": _encoded_number(numbers.n), "e": _encoded_number(numbers.e)}
    bits = public_key.curve.key_size
    coordinates = {"x": _encoded_number(numbers.x, bits), "y": _encoded_number(numbers.y, bits)}
    return {"kty": "EC", "crv": f"P-{bits}", **coordinates}


def _encoded_number(number: int, bits: int | None = None) -> str:
    return encode_base64url(number.to_bytes(((bits or number.bit_length()) + 7) // 8, "big"))


def _encoded_key(public_key: Any) -> bytes:
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def _workload_of(certificate: x509.Certificate) -> SpiffeId:
    """Return the one SPIFFE ID of an X.509-SVID (X509-SVID.md section 2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse_workload(uri)
    except (ValueError, x509.ExtensionNotFound) as error:
        why = f": {error}" if isinstance(error, SpiffeIdError) else ""
        raise MintingError(f"the certificate does not name one workload{why}") from None


def _encoded(value: Mapping[str, Any]) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":")).encode("ascii"))
