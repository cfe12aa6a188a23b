"""One algorithm for each key, and no signature that another algorithm, curve or encoding would let through."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ext_authz.tokens.signature import KeyTypeError, VerificationKey, usual_algorithm

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
P521, K256 = ec.generate_private_key(ec.SECP521R1()), ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA, SMALL_RSA = (rsa.generate_private_key(65537, bits) for bits in (2048, 1024))
KEYS: dict[str, Any] = {"ES256": P256, "ES384": P384, "Ed25519": ED25519, "RS256": RSA, "PS256": RSA}
ALGORITHMS = (
    *("ES256", "ES384", "ES512", "ES256K", "Ed25519", "EdDSA", "Ed448", "RS256", "RS384", "PS256", "PS384"),
    *("HS256", "none", "None", "", "es256", "ES256 "),
)
DATA = b"header.payload"


def raw(key: ec.EllipticCurvePrivateKey, digest: hashes.HashAlgorithm, size: int) -> bytes:
    r, s = decode_dss_signature(key.sign(DATA, ec.ECDSA(digest)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def pss(salt_length: int) -> bytes:
    return RSA.sign(DATA, padding.PSS(padding.MGF1(hashes.SHA256()), salt_length), hashes.SHA256())


SIGN: dict[str, Callable[[], bytes]] = {
    "ES256": lambda: raw(P256, hashes.SHA256(), 32),
    "ES384": lambda: raw(P384, hashes.SHA384(), 48),
    "Ed25519": lambda: ED25519.sign(DATA),
    "RS256": lambda: RSA.sign(DATA, padding.PKCS1v15(), hashes.SHA256()),
    "PS256": lambda: pss(32),
}


def key_for(algorithm: str) -> VerificationKey:
    return VerificationKey.register(KEYS[algorithm].public_key(), algorithm)


@pytest.mark.parametrize("algorithm", SIGN)
def test_signature_of_the_key(algorithm: str) -> None:
    """A signature holds for its own data, key and algorithm, and for nothing else."""
    key, signature = key_for(algorithm), SIGN[algorithm]()
    assert key.verify(algorithm, DATA, signature)
    assert not key.verify(algorithm, DATA + b"x", signature)
    assert [] == [
        other
        for other in ALGORITHMS
        if other not in (algorithm, _alias(algorithm)) and key.verify(other, DATA, signature)
    ]


def _alias(algorithm: str) -> str:
    return {"Ed25519": "EdDSA"}.get(algorithm, algorithm)


@pytest.mark.parametrize("algorithm", [None, 1, True, ["ES256"], {"alg": "ES256"}, b"ES256"])
def test_algorithm_that_is_no_string(algorithm: object) -> None:
    """What a token says is compared, never used."""
    assert not key_for("ES256").verify(algorithm, DATA, SIGN["ES256"]())


@pytest.mark.parametrize("algorithm", SIGN)
def test_damaged_signatures(algorithm: str) -> None:
    """Every bit of a signature counts, and so does its length."""
    key, signature = key_for(algorithm), SIGN[algorithm]()
    for place in range(len(signature)):
        damaged = bytearray(signature)
        damaged[place] ^= 1 << place % 8
        assert not key.verify(algorithm, DATA, bytes(damaged)), place
    for other in (
        b"",
        b"\0",
        signature[:-1],
        signature + b"\0",
        b"\0" + signature,
        bytes(len(signature)),
        signature * 2,
    ):
        assert not key.verify(algorithm, DATA, other)


@pytest.mark.parametrize("algorithm", ["ES256", "ES384"])
def test_ecdsa_in_other_forms(algorithm: str) -> None:
    """ECDSA signatures come as r and s of a fixed size (RFC 7518 section 3.4), never in DER; no part of them is zero."""
    size = {"ES256": 32, "ES384": 48}[algorithm]
    digest = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384()}[algorithm]
    key, private_key, good = key_for(algorithm), KEYS[algorithm], SIGN[algorithm]()
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    forms = (
        private_key.sign(DATA, ec.ECDSA(digest)),
        good[:size] + bytes(size),
        bytes(size) + good[size:],
        b"\xff" * (2 * size),
        raw(private_key, hashes.SHA512(), size),
    )
    assert [False] * len(forms) == [key.verify(algorithm, DATA, form) for form in forms]


@pytest.mark.parametrize("salt_length", [0, 20, 31, 33, 64])
def test_salt_of_pss(salt_length: int) -> None:
    """The salt is as long as the hash (RFC 7518 section 3.5)."""
    assert not key_for("PS256").verify("PS256", DATA, pss(salt_length))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("key", [P256, P384, P521, K256, ED25519, RSA], ids=lambda key: type(key).__name__)
def test_keys_fit_their_algorithm_only(key: Any, algorithm: str) -> None:
    """A key is registered for an algorithm of its own type and curve, or not at all."""
    fits = {
        P256: {"ES256"},
        P384: {"ES384"},
        ED25519: {"Ed25519", "EdDSA"},
        RSA: {"RS256", "PS256"},
    }.get(key, set())
    public_key = key.public_key()
    if algorithm in fits:
        assert VerificationKey.register(public_key, algorithm).algorithm in fits
        return
    with pytest.raises(KeyTypeError):
        VerificationKey.register(public_key, algorithm)


@pytest.mark.parametrize("key", [SMALL_RSA.public_key(), b"secret", "secret", None, P256])
def test_what_is_no_public_key_of_the_profile(key: object) -> None:
    """Short keys, secrets and private keys are not registered."""
    for algorithm in ALGORITHMS:
        with pytest.raises(KeyTypeError):
            VerificationKey.register(key, algorithm)


def test_usual_algorithm() -> None:
    """A certificate's key has one algorithm; of RSA's two it is the older, which all tools sign with."""
    usual: dict[str, Any] = {"ES256": P256, "ES384": P384, "Ed25519": ED25519, "RS256": RSA}
    assert list(usual) == [usual_algorithm(key.public_key()) for key in usual.values()]
    for key in (P521.public_key(), ed448.Ed448PrivateKey.generate().public_key(), None):
        with pytest.raises(KeyTypeError):
            usual_algorithm(key)


def test_key_is_not_shown() -> None:
    """The repr of a key holds its algorithm, nothing of the key."""
    assert "VerificationKey(algorithm='Ed25519')" == repr(key_for("Ed25519"))
