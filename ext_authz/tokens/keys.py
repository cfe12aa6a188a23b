"""Whose signatures count: keys by issuer and name, and bundles by trust domain, as one snapshot.

1. A key is looked up only inside the set of the issuer that the link names: no key speaks for two issuers.
2. A token never brings its own key, nor an address to fetch one from.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ext_authz.errors import Reason, Undecided
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.tokens.jws import decode_base64url
from ext_authz.tokens.signature import MAX_RSA_BITS, KeyTypeError, PublicKey, VerificationKey
from ext_authz.tokens.strict_json import StrictJsonError, parse_object
from ext_authz.tokens.svid import Bundles

# Keys of one issuer: what a rotation with overlap leaves, many times over.
MAX_KEYS = 64
MAX_KEY_ID_CHARACTERS = 128
# What `ext-authz token revoke --kid` can name; a key by any other name could never be revoked.
_KEY_ID = re.compile(rf"[!-~]{{1,{MAX_KEY_ID_CHARACTERS}}}")
# Characters of a number in base64url: an RSA modulus of MAX_RSA_BITS.
_MAX_NUMBER_CHARACTERS = -(-MAX_RSA_BITS // 6)
# Seconds that keys count after their address was last heard of.
USUAL_MAX_STALE_SECONDS = 3600

KeysById = Mapping[str, VerificationKey]


class JwksError(ValueError):
    """The text is no JWK set that can be used."""


class KeySource(NamedTuple):
    """An address that keys are fetched from, in the background."""

    url: str
    is_issuer: bool = False  # the URL of an OpenID provider, whose metadata names the address of its JWK set
    is_provider: bool = False  # a JWK set of a provider, where keys stand that are for others: those are skipped
    max_stale_seconds: int = USUAL_MAX_STALE_SECONDS  # how long its keys count after it was last heard of

    @property
    def parse(self) -> "ParseKeys":
        """How its JWK set is read."""
        return parse_provider_jwks if self.is_issuer or self.is_provider else parse_jwks


class RegisteredCertificates(NamedTuple):
    """The certificates of a registered key, leaf first, as `x5c` would bring them; not verified yet."""

    key_id: str
    path: tuple[x509.Certificate, ...]


class KeySet(NamedTuple):
    """The keys of one issuer, and until when they count, in seconds since 1970."""

    keys: KeysById
    usable_until: float = math.inf
    digest: str = ""  # of the text that they were read from; two sets of one digest hold the same keys
    certificates: Mapping[str, RegisteredCertificates] = MappingProxyType({})  # by `x5t#S256`


# What is known of a source before it answered.
NO_KEYS = KeySet({}, usable_until=-math.inf)
_UNREGISTERED = KeySet({})


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """A snapshot of all keys; replaced as a whole when any of them changes."""

    by_issuer: Mapping[SpiffeId, KeySet] = field(default_factory=dict)
    bundles: Bundles = field(default_factory=dict)

    def of(self, issuer: SpiffeId, now: float) -> KeySet:
        """Return the keys that `issuer` registered. Raises Undecided when they came from an address that fell silent."""
        found = self.by_issuer.get(issuer, _UNREGISTERED)
        if now > found.usable_until:
            raise Undecided(Reason.KEYS_UNAVAILABLE, "the keys of an issuer of the chain could not be fetched")
        return found


def parse_jwks(text: str | bytes) -> KeysById:
    """Read a JWK set (RFC 7517 section 5) of public keys, each with `kid` and `alg`. Raises JwksError.

    A key without `alg` gets the one that its type has in this profile; RSA must say which.
    """
    keys: dict[str, VerificationKey] = {}
    for member in _members(text):
        key_id = _key_id(member)
        if key_id is None or key_id in keys:
            raise JwksError("each key has a `kid` of its own: 1 to 128 printable ASCII characters without spaces")
        keys[key_id] = _key(member)
    return keys


def parse_provider_jwks(text: str | bytes) -> KeysById:
    """Read the usable keys of a JWK set that an OpenID provider publishes for everybody. Raises JwksError.

    RFC 7517 section 5: what is of another type or for another use is skipped; here also what has no name, a private
    half, or the name of a key before it. RSA without `alg` is RS256, as OpenID Connect Core section 2 has it.
    """
    keys: dict[str, VerificationKey] = {}
    for member in _members(text):
        key_id = _key_id(member)
        if key_id is not None and key_id not in keys and _is_for_signatures(member):
            with suppress(JwksError):
                keys[key_id] = _key({"alg": "RS256", **member} if member.get("kty") == "RSA" else member)
    if not keys:
        raise JwksError("no key of the set can be used")
    return keys


ParseKeys = Callable[[bytes], KeysById]


def _members(text: str | bytes) -> list[Any]:
    try:
        members = parse_object(text.encode() if isinstance(text, str) else text).get("keys")
    except (StrictJsonError, UnicodeEncodeError):
        raise JwksError("not a JWK set") from None
    if not isinstance(members, list):
        raise JwksError("not a JWK set")
    if not 1 <= len(members) <= MAX_KEYS:
        raise JwksError(f"a JWK set holds 1 to {MAX_KEYS} keys")
    return members


def _key_id(member: Any) -> str | None:
    key_id = member.get("kid") if isinstance(member, dict) else None
    return key_id if isinstance(key_id, str) and _KEY_ID.fullmatch(key_id) else None


def _is_for_signatures(member: Mapping[str, Any]) -> bool:
    """RFC 7517 sections 4.2 and 4.3: a key that says what it is for says so."""
    operations = member.get("key_ops", ["verify"])
    return member.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _key(jwk: Mapping[str, Any]) -> VerificationKey:
    if "d" in jwk or "k" in jwk:
        raise JwksError("a private or symmetric key does not belong into a set of public keys")
    try:
        public_key, usual = _read_public_key(jwk)
        return VerificationKey.register(public_key, jwk.get("alg", usual))
    except (KeyError, TypeError, ValueError, KeyTypeError):
        raise JwksError("a key is of a type that the profile does not use, or is damaged") from None


def public_key_of(jwk: Mapping[str, Any]) -> PublicKey:
    """Return the public key of a member of a set that `parse_jwks` took."""
    key: PublicKey = _read_public_key(jwk)[0]
    return key


def _read_public_key(jwk: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the key and the algorithm that it has when it does not say."""
    read: Callable[[Mapping[str, Any]], tuple[Any, str]] = _PUBLIC_KEYS[jwk["kty"], jwk.get("crv")]
    return read(jwk)


def _number(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARACTERS:
        raise ValueError("too long")
    return int.from_bytes(decode_base64url(text), "big")


def _elliptic(curve: ec.EllipticCurve, algorithm: str) -> Any:
    return lambda jwk: (
        ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), curve).public_key(),
        algorithm,
    )


# (kty, crv) -> how to read the key, and its algorithm when the set does not say (RFC 7518 section 6, RFC 8037 section 2).
_PUBLIC_KEYS = {
    ("EC", "P-256"): _elliptic(ec.SECP256R1(), "ES256"),
    ("EC", "P-384"): _elliptic(ec.SECP384R1(), "ES384"),
    ("OKP", "Ed25519"): lambda jwk: (
        ed25519.Ed25519PublicKey.from_public_bytes(decode_base64url(jwk["x"])),
        "Ed25519",
    ),
    ("RSA", None): lambda jwk: (rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"])).public_key(), ""),
}
