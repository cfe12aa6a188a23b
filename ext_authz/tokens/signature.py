"""Signatures of links: one algorithm for each key, decided when the key is registered, never by the token.

python-jose verifies what it knows: ES256, ES384 and RS256. Ed25519 and PS256 it does not know; `cryptography` verifies them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jose.backends import ECKey, RSAKey

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

# Bits of an RSA modulus (RFC 7518 section 3.3 asks for 2048).
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192

# RFC 9864 section 2.2 names Ed25519; EdDSA is its old name in RFC 8037.
_ALIASES = {"EdDSA": "Ed25519"}
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}
_RSA_ALGORITHMS = ("RS256", "PS256")


class KeyTypeError(ValueError):
    """The key cannot be used with the algorithm."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the one algorithm that it is registered for."""

    algorithm: str
    _verify: Callable[[bytes, bytes], bool] = field(repr=False, compare=False)

    @classmethod
    def register(cls, key: object, algorithm: str) -> "VerificationKey":
        """Bind a public key to an algorithm. Raises KeyTypeError when they do not fit."""
        name = canonical_algorithm(algorithm)
        if name in _CURVES and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[name]):
            return cls(name, ECKey(key, name).verify)
        if name == "Ed25519" and isinstance(key, ed25519.Ed25519PublicKey):
            return cls(name, _without_exception(key.verify))
        if (
            name in _RSA_ALGORITHMS
            and isinstance(key, rsa.RSAPublicKey)
            and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
        ):
            return cls(name, RSAKey(key, name).verify if name == "RS256" else _pss(key))
        raise KeyTypeError("the key does not fit the algorithm")

    def verify(self, algorithm: object, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's. `algorithm` is what the token says; it must be the registered one."""
        return canonical_algorithm(algorithm) == self.algorithm and self._verify(signing_input, signature)


def canonical_algorithm(algorithm: object) -> str:
    """Return the current name of an algorithm; what is no string has none."""
    return _ALIASES.get(algorithm, algorithm) if isinstance(algorithm, str) else ""


def usual_algorithm(key: object) -> str:
    """Return the algorithm that a certificate's key is registered for. Raises KeyTypeError."""
    for algorithm, curve in _CURVES.items():
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve):
            return algorithm
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        return "RS256"
    raise KeyTypeError("no algorithm of the profile uses such a key")


def _without_exception(verify: Callable[[bytes, bytes], None]) -> Callable[[bytes, bytes], bool]:
    def holds(signing_input: bytes, signature: bytes) -> bool:
        try:
            verify(signature, signing_input)
        except InvalidSignature:
            return False
        return True

    return holds


def _pss(key: rsa.RSAPublicKey) -> Callable[[bytes, bytes], bool]:
    """RFC 7518 section 3.5: the salt is as long as the hash."""
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)
    return _without_exception(lambda signature, data: key.verify(signature, data, scheme, hashes.SHA256()))
