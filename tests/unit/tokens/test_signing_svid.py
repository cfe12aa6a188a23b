"""Certificates in links: what an X.509-SVID of the issuer is, and what cannot be read without an accident."""

import base64
import random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.delegations import NOW, RETRIEVER, TRUST_DOMAIN, Authority, world

from ext_authz.tokens.svid import MAX_CERTIFICATE_CHARACTERS, MAX_CERTIFICATES, SigningSvid, SvidError

CA = Authority.root()


def encoded(*certificates: x509.Certificate) -> list[str]:
    return [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in certificates]


def verified(x5c: Any, now: float = NOW, *roots: x509.Certificate) -> SigningSvid:
    return SigningSvid.verify(x5c, RETRIEVER, {TRUST_DOMAIN: roots or (CA.certificate,)}, now)


def leaf(**changes: Any) -> x509.Certificate:
    certificate, _ = CA.svid(**{"uris": [RETRIEVER.uri]} | changes)
    return certificate


def with_san(*names: x509.GeneralName) -> x509.Certificate:
    return leaf(uris=(), extensions=[x509.SubjectAlternativeName(names)])


def test_facts_of_a_leaf() -> None:
    """What is kept: the name, the key's algorithm, the digest, and the time of the leaf and of all certificates."""
    ca = Authority.root(not_before=NOW - 5000, not_after=NOW + 5000)
    intermediate = ca.intermediate(not_before=NOW - 20, not_after=NOW + 20)
    certificate, _ = intermediate.svid([RETRIEVER.uri], not_before=NOW - 30, not_after=NOW + 30)
    svid = verified(encoded(certificate, intermediate.certificate), NOW, ca.certificate)
    assert (RETRIEVER, "ES256") == (svid.spiffe_id, svid.key.algorithm)
    assert (NOW - 30, NOW + 30) == (svid.not_before, svid.not_after)
    assert (NOW - 20, NOW + 20) == (svid.path_not_before, svid.path_not_after)


def test_svid_of_the_development_ca() -> None:
    """What the local identity provider issues can sign links."""
    w = world()
    svid = SigningSvid.verify(encoded(w.certificates[RETRIEVER]), RETRIEVER, w.keys.bundles, NOW)
    assert "ES256" == svid.key.algorithm


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("ES384", ec.generate_private_key(ec.SECP384R1())),
        ("Ed25519", ed25519.Ed25519PrivateKey.generate()),
        ("RS256", rsa.generate_private_key(65537, 2048)),
    ],
)
def test_types_of_keys(algorithm: str, key: Any) -> None:
    """The key of a certificate decides the algorithm."""
    assert algorithm == verified(encoded(leaf(key=key))).key.algorithm


@pytest.mark.parametrize("now", [NOW - 910, NOW + 2700])
def test_last_second(now: float) -> None:
    """Both ends of the validity belong to it (RFC 5280 section 4.1.2.5)."""
    assert verified(encoded(leaf()), now)


@pytest.mark.parametrize("now", [NOW - 911, NOW + 2701, 0])
def test_outside_its_time(now: float) -> None:
    """A second before and after, a certificate does not count."""
    with pytest.raises(SvidError, match="not valid now"):
        verified(encoded(leaf()), now)


def test_other_names_beside_the_uri() -> None:
    """DNS names and others may stand beside the one URI (X509-SVID.md section 2)."""
    other = x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    uri = x509.UniformResourceIdentifier(RETRIEVER.uri)
    assert verified(encoded(with_san(x509.DNSName("retriever.internal"), other, uri)))


@pytest.mark.parametrize("usages", [[ExtendedKeyUsageOID.SERVER_AUTH], [ExtendedKeyUsageOID.CLIENT_AUTH], []])
def test_extended_key_usage_is_left_open(usages: list[x509.ObjectIdentifier]) -> None:
    """go-spiffe asks for none; a link is no TLS connection."""
    assert verified(encoded(leaf(extensions=[x509.ExtendedKeyUsage(usages)] if usages else [])))


def test_number_of_certificates() -> None:
    """MAX_CERTIFICATES are taken; none and one more are refused."""
    second = CA.intermediate()
    third = second.intermediate()
    certificate, _ = third.svid([RETRIEVER.uri])
    chain = encoded(certificate, third.certificate, second.certificate)
    assert MAX_CERTIFICATES == len(chain)
    assert verified(chain)
    for other in ([], [*chain, *encoded(CA.certificate)]):
        with pytest.raises(SvidError, match="no list of 1 to 3"):
            verified(other)


@pytest.mark.parametrize(
    "x5c",
    [None, "", "AAAA", {}, [None], [1], [b"AAAA"], [[]], [""], ["AAAA"], ["*"], ["AAA"], ["\u0430"], ["A" * 8193]],
    ids=repr,
)
def test_what_is_no_list_of_certificates(x5c: object) -> None:
    """Anything else in the header is refused."""
    with pytest.raises(SvidError):
        verified(x5c)


def test_one_spelling() -> None:
    """Line breaks, spaces, missing or added padding, the other alphabet and spare bits are refused."""
    (good,) = encoded(leaf())
    while not (good.endswith("=") and "+" in good):
        (good,) = encoded(leaf())
    spare = good.rstrip("=")
    forms = (
        *(f"{good}\n", f"{good[:64]}\n{good[64:]}", f" {good}", good.rstrip("="), f"{good}=", good.replace("+", "-")),
        f"{spare[:-1]}{chr(ord(spare[-1]) + 1)}{'=' * (len(good) - len(spare))}",
        base64.b64encode(base64.b64decode(good) + b"\0").decode(),
    )
    for form in forms:
        with pytest.raises(SvidError):
            verified([form])


def test_size_of_a_certificate() -> None:
    """A certificate of MAX_CERTIFICATE_CHARACTERS is read, a longer one is refused."""

    def padded(size: int) -> list[str]:
        return encoded(leaf(extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(size))]))

    size = MAX_CERTIFICATE_CHARACTERS // 4 * 3 - len(base64.b64decode(padded(1000)[0])) + 998
    longest = next(x5c for x5c in map(padded, [size] * 20) if len(x5c[0]) == MAX_CERTIFICATE_CHARACTERS)
    assert verified(longest)
    with pytest.raises(SvidError, match="no certificate"):
        verified(padded(size + 10))


@pytest.mark.parametrize(
    "changes",
    [
        {"uris": []},
        {"uris": [RETRIEVER.uri, RETRIEVER.uri]},
        {"uris": [RETRIEVER.uri, "spiffe://agents.example.com/evil"]},
        {"uris": [f"{RETRIEVER}/"]},
        {"uris": ["spiffe://agents.example.com"]},
        {"uris": [""]},
        {"ca": True},
        {"ca": True, "signs_certificates": False, "digital_signature": True},
        {"signs_certificates": True},
        {"digital_signature": False},
        {"key": ec.generate_private_key(ec.SECP521R1())},
        {"key": ec.generate_private_key(ec.SECP256K1())},
        {"key": ed448.Ed448PrivateKey.generate()},
        {"key": dsa.generate_private_key(2048)},
        {"key": rsa.generate_private_key(65537, 1024)},  # noqa: S505  (that is why it is refused)
    ],
)
def test_leaves_that_are_no_svid(changes: dict[str, Any]) -> None:
    """Names, uses and keys that X509-SVID.md or the profile do not allow are refused."""
    with pytest.raises(SvidError):
        verified(encoded(leaf(**changes)))


def test_bundle_of_the_own_domain_only() -> None:
    """Another domain's root does not vouch for our names, whoever trusts it for its own."""
    with pytest.raises(SvidError, match="no bundle of the issuer's trust domain"):
        SigningSvid.verify(encoded(leaf()), RETRIEVER, {"partner.test": [CA.certificate]}, NOW)
    with pytest.raises(SvidError, match="no bundle of the issuer's trust domain"):
        SigningSvid.verify(encoded(leaf()), RETRIEVER, {TRUST_DOMAIN: []}, NOW)


def test_intermediate_that_nobody_vouches_for() -> None:
    """An intermediate of the forger's own leads nowhere, and one that is missing is not guessed."""
    forged = Authority.root().intermediate()
    certificate, _ = forged.svid([RETRIEVER.uri])
    for chain in ([certificate, forged.certificate], [certificate], [certificate, CA.certificate]):
        with pytest.raises(SvidError, match="was not issued"):
            verified(encoded(*chain))


def test_leaf_that_signs_another_leaf() -> None:
    """A workload's key makes no certificates."""
    certificate, key = CA.svid([RETRIEVER.uri])
    below, _ = Authority(certificate, key).svid([RETRIEVER.uri])
    with pytest.raises(SvidError, match="was not issued"):
        verified(encoded(below, certificate))


def test_name_of_a_kind_that_cannot_be_read() -> None:
    """A name that the library has no type for is a refusal, not an accident."""
    san = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\xa3\x01\x01")
    with pytest.raises(SvidError):
        verified(encoded(leaf(uris=(), extensions=[san])))


@pytest.mark.filterwarnings("ignore:Parsed a:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Parsed a:UserWarning")
def test_damaged_certificates() -> None:
    """Whatever byte is changed, the answer is a refusal: an unknown version is one, too."""
    chance = random.Random(1)  # noqa: S311  (the same damage every time)
    good = leaf().public_bytes(Encoding.DER)
    (whole,) = encoded(leaf())
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 1 << chance.randrange(8)
        text = base64.b64encode(bytes(damaged)).decode()
        with pytest.raises(SvidError):
            verified([text])
        assert verified([whole])


def test_damaged_version() -> None:
    """A version that X.509 does not know is a refusal: the library's error for it is no ValueError."""
    der = bytearray(leaf().public_bytes(Encoding.DER))
    place = der.index(b"\xa0\x03\x02\x01\x02") + 4
    der[place] = 5
    with pytest.raises(SvidError, match="no certificate"):
        verified([base64.b64encode(bytes(der)).decode()])
