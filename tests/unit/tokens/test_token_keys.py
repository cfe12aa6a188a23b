"""JWK sets, and keys that speak for one issuer only."""

import json
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from support.delegations import PLANNER, STS, world

from ext_authz.tokens.jws import encode_base64url
from ext_authz.tokens.keys import MAX_KEY_ID_CHARACTERS, MAX_KEYS, JwksError, parse_jwks, parse_provider_jwks


def number(value: int, size: int | None = None) -> str:
    return encode_base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def elliptic(key: ec.EllipticCurvePrivateKey, curve: str, size: int) -> dict[str, Any]:
    point = key.public_key().public_numbers()
    return {"kty": "EC", "crv": curve, "x": number(point.x, size), "y": number(point.y, size)}


P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505  (that is why it is refused)

P256_JWK = {"kid": "p256", **elliptic(P256, "P-256", 32)}
P384_JWK = {"kid": "p384", **elliptic(P384, "P-384", 48)}
ED25519_JWK = {
    "kid": "ed",
    "kty": "OKP",
    "crv": "Ed25519",
    "x": encode_base64url(ED25519.public_key().public_bytes_raw()),
}


def rsa_jwk(key: rsa.RSAPrivateKey, **changes: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kid": "rsa", "kty": "RSA", "alg": "RS256", "n": number(numbers.n), "e": number(numbers.e), **changes}


def jwks(*keys: Any) -> str:
    return json.dumps({"keys": list(keys)})


def test_algorithm_of_each_type() -> None:
    """A key has the usual algorithm of its type, or the one that the set names."""
    keys = parse_jwks(jwks(P256_JWK, P384_JWK, ED25519_JWK, rsa_jwk(RSA), rsa_jwk(RSA, kid="pss", alg="PS256")))
    expected = {"p256": "ES256", "p384": "ES384", "ed": "Ed25519", "rsa": "RS256", "pss": "PS256"}
    assert expected == {key_id: key.algorithm for key_id, key in keys.items()}


def test_keys_verify_what_their_private_halves_signed() -> None:
    """The key that is read is the key that was written."""
    (key,) = parse_jwks(jwks(ED25519_JWK)).values()
    assert key.verify("Ed25519", b"data", ED25519.sign(b"data"))
    assert not key.verify("Ed25519", b"other", ED25519.sign(b"data"))


def test_members_that_do_not_matter() -> None:
    """`use` and whatever else stands in a set is left alone; EdDSA is the old name of Ed25519."""
    (key,) = parse_jwks(jwks({**ED25519_JWK, "alg": "EdDSA", "use": "sig", "x-note": 1})).values()
    assert "Ed25519" == key.algorithm


def test_number_of_keys() -> None:
    """MAX_KEYS are taken, one more is refused."""
    keys = [{**ED25519_JWK, "kid": str(index)} for index in range(MAX_KEYS + 1)]
    assert MAX_KEYS == len(parse_jwks(jwks(*keys[:-1])))
    with pytest.raises(JwksError, match="1 to 64 keys"):
        parse_jwks(jwks(*keys))


def test_length_of_a_key_id() -> None:
    """A key id has at most MAX_KEY_ID_CHARACTERS."""
    longest = "k" * MAX_KEY_ID_CHARACTERS
    assert [longest] == list(parse_jwks(jwks({**ED25519_JWK, "kid": longest})))
    with pytest.raises(JwksError, match="`kid` of its own"):
        parse_jwks(jwks({**ED25519_JWK, "kid": f"{longest}k"}))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '{"keys":null}', '{"keys":{}}', '{"keys":[]}', "\x00", "[" * 10, "[" * 100_000, "\ud800"),
        jwks(P256_JWK)[:-1],
        f"{jwks(P256_JWK)}{{}}",
        jwks(P256_JWK).replace('"p256"', '"p256", "kid": "p384"'),
        '{"keys":[],' + jwks(P256_JWK)[1:],
        jwks({**P256_JWK, "note": 1.5}),
    ],
)  # fmt: skip
def test_no_set(text: str) -> None:
    """What is no JWK set in strict JSON, or an empty one, is refused, by whomever it is published."""
    for parse in (parse_jwks, parse_provider_jwks):
        with pytest.raises(JwksError):
            parse(text)


@pytest.mark.parametrize(
    "key",
    [
        *(None, 1, "key", [], {}),
        {**ED25519_JWK, "kid": None},
        {**ED25519_JWK, "kid": ""},
        {**ED25519_JWK, "kid": 1},
        *({**ED25519_JWK, "kid": kid} for kid in ("a b", "a\n", "é", "k" * (MAX_KEY_ID_CHARACTERS + 1))),
        {**ED25519_JWK, "d": "AAAA"},
        {"kid": "k", "kty": "oct", "k": "AAAA"},
        {**ED25519_JWK, "alg": "ES256"},
        {**ED25519_JWK, "alg": "none"},
        {**ED25519_JWK, "alg": None},
        {**ED25519_JWK, "alg": ["Ed25519"]},
        {**ED25519_JWK, "crv": "X25519"},
        {**ED25519_JWK, "crv": ["Ed25519"]},
        {**ED25519_JWK, "x": "AAAA"},
        {**ED25519_JWK, "x": None},
        {**ED25519_JWK, "x": f"{ED25519_JWK['x']}="},
        {**P256_JWK, "alg": "ES384"},
        {**P256_JWK, "crv": "P-384"},
        {**P256_JWK, "crv": "P-521"},
        {**P256_JWK, "crv": "secp256k1"},
        {**P256_JWK, "y": P256_JWK["x"]},
        {name: value for name, value in P256_JWK.items() if name != "y"},
        {**rsa_jwk(RSA), "alg": "HS256"},
        {**rsa_jwk(RSA), "alg": "RS512"},
        {name: value for name, value in rsa_jwk(RSA).items() if name != "alg"},
        {**rsa_jwk(RSA), "e": "AA"},
        {**rsa_jwk(RSA), "n": "_" * 100_000},
        rsa_jwk(SMALL_RSA),
    ],
)
def test_unusable_key(key: object) -> None:
    """A key that is secret, damaged, of another type, or under another algorithm makes the whole set unusable."""
    with pytest.raises(JwksError):
        parse_jwks(jwks(P256_JWK, key))


USELESS: list[Any] = [
    *(None, 1, "key", [], {}),
    {name: value for name, value in ED25519_JWK.items() if name != "kid"},
    {**ED25519_JWK, "kid": "a b"},
    {**ED25519_JWK, "kid": "e", "use": "enc"},
    {**ED25519_JWK, "kid": "e", "key_ops": ["encrypt"]},
    {**ED25519_JWK, "kid": "e", "key_ops": "verify"},
    {**ED25519_JWK, "kid": "e", "d": "AAAA"},
    {"kid": "e", "kty": "oct", "k": "AAAA"},
    {"kid": "e", "kty": "AKP"},
    {**P256_JWK, "kid": "e", "crv": "P-521"},
    rsa_jwk(RSA, kid="e", alg="RS512"),
    rsa_jwk(RSA, kid="e", alg="RSA-OAEP"),
    rsa_jwk(SMALL_RSA, kid="e"),
]


@pytest.mark.parametrize("member", USELESS)
def test_provider_publishes_keys_for_others(member: Any) -> None:
    """What we cannot use stands in a provider's set beside what we can; alone it is no set."""
    assert ["p256"] == list(parse_provider_jwks(jwks(member, P256_JWK)))
    with pytest.raises(JwksError, match="no key of the set can be used"):
        parse_provider_jwks(jwks(member))


def test_provider_leaves_the_algorithm_out() -> None:
    """RSA that does not say is RS256; the first of two keys with one name counts; `use: sig` is ours."""
    bare = {name: value for name, value in rsa_jwk(RSA, use="sig", key_ops=["verify"]).items() if name != "alg"}
    keys = parse_provider_jwks(
        jwks(bare, {**ED25519_JWK, "kid": "rsa"}, rsa_jwk(RSA, kid="pss", alg="PS256"), P384_JWK)
    )
    assert {"rsa": "RS256", "pss": "PS256", "p384": "ES384"} == {name: key.algorithm for name, key in keys.items()}


def test_provider_has_as_many_keys_as_others() -> None:
    """What is skipped counts, too."""
    with pytest.raises(JwksError, match="1 to 64 keys"):
        parse_provider_jwks(jwks(*[{}] * MAX_KEYS, P256_JWK))


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats()
_JSON = st.recursive(_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@given(st.sampled_from([P256_JWK, P384_JWK, ED25519_JWK, rsa_jwk(RSA)]), st.data())
def test_any_member_of_a_key(key: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands in a key, a set is read or refused, and what is read is a public key of the profile."""
    name = data.draw(st.sampled_from(["kty", "crv", "alg", "use", "key_ops", "kid", "x", "y", "n", "e", "x5c"]))
    text = jwks({**key, name: data.draw(_JSON)})
    for parse in (parse_jwks, parse_provider_jwks):
        with suppress(JwksError):
            assert {found.algorithm for found in parse(text).values()} <= {
                "ES256",
                "ES384",
                "Ed25519",
                "RS256",
                "PS256",
            }


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Noise is no set."""
    for parse in (parse_jwks, parse_provider_jwks):
        with pytest.raises(JwksError):
            parse(data)


def test_one_name_for_two_keys() -> None:
    """A name stands once in a set."""
    with pytest.raises(JwksError, match="`kid` of its own"):
        parse_jwks(jwks(P256_JWK, {**ED25519_JWK, "kid": "p256"}))


def test_key_speaks_for_its_issuer_only() -> None:
    """A key is found under its issuer and its name, nowhere else."""
    keys = world().keys
    assert "sts-1" in keys.of(STS, 0).keys
    assert "sts-1" not in keys.of(PLANNER, 0).keys
    assert "planner-1" not in keys.of(STS, 0).keys
    assert "" not in keys.of(STS, 0).keys
