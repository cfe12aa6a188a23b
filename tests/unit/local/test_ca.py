"""The development CA: what it signs, what it refuses to sign, and that its keys stay hidden."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from jose import jwt

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import CaError, DevelopmentCa, JwtAuthority, JwtSvidError

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PLANNER = SpiffeId.parse_workload("spiffe://agents.example.com/planner-agent")


def noon() -> datetime:
    return NOON


@pytest.fixture
def ca() -> DevelopmentCa:
    return DevelopmentCa.create("agents.example.com", noon)


@pytest.fixture
def authority() -> JwtAuthority:
    return JwtAuthority.create("agents.example.com", noon)


def uris_of(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def test_root_names_its_trust_domain(ca: DevelopmentCa) -> None:
    """The root's only URI SAN is the trust domain, and it signs itself with a P-256 key."""
    key = ca.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert uris_of(ca.certificate) == ["spiffe://agents.example.com"]
    ca.certificate.verify_directly_issued_by(ca.certificate)


def test_root_may_sign_leaves_only(ca: DevelopmentCa) -> None:
    """The root is a CA with path length 0 that signs certificates and nothing else, for 24 hours."""
    constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert constraints.critical
    assert x509.BasicConstraints(ca=True, path_length=0) == constraints.value
    assert (True, True, False) == (usage.key_cert_sign, usage.crl_sign, usage.digital_signature)
    assert NOON + timedelta(hours=24) == ca.expires_at


def test_two_roots_have_different_names() -> None:
    """Roots of one trust domain differ in subject, so that a verifier never picks the wrong one by name."""
    first, second = (DevelopmentCa.create("agents.example.com", noon) for _ in range(2))
    assert first.certificate.subject != second.certificate.subject


def test_svid_follows_the_standard(ca: DevelopmentCa) -> None:
    """An SVID has one URI SAN, is no CA, and may sign handshakes as client and as server, nothing more."""
    certificate = ca.issue(PLANNER).certificate
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    allowed = [name for name in vars(x509.KeyUsage) if name in KEY_USAGES and getattr(usage.value, name)]
    assert uris_of(certificate) == [PLANNER.uri]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert usage.critical
    assert allowed == ["digital_signature"]
    assert [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH] == list(
        extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )


KEY_USAGES = {
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
}


def test_svid_points_at_its_root(ca: DevelopmentCa) -> None:
    """The SVID's authority key identifier is the root's subject key identifier, and the root's signature verifies."""
    certificate = ca.issue(PLANNER).certificate
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    root = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert root.digest == authority.key_identifier
    certificate.verify_directly_issued_by(ca.certificate)


def test_svid_is_labelled_as_development(ca: DevelopmentCa) -> None:
    """Nobody takes the certificate for one of a real SPIRE."""
    assert ca.issue(PLANNER).certificate.subject.rfc4514_string() == "OU=development only,O=SPIRE-like,C=US"


def test_svid_lives_one_hour_and_is_dated_back(ca: DevelopmentCa) -> None:
    """Default life is one hour from now; ten seconds before now allow for clocks that are behind."""
    svid = ca.issue(PLANNER)
    assert (NOON - timedelta(seconds=10), NOON + timedelta(hours=1)) == (svid.not_before, svid.expires_at)


def test_svid_does_not_outlive_its_root(ca: DevelopmentCa) -> None:
    """A longer life than the root's is cut to the root's."""
    assert ca.expires_at == ca.issue(PLANNER, timedelta(days=7)).expires_at


def test_every_svid_has_its_own_key_and_serial(ca: DevelopmentCa) -> None:
    """Nothing is used twice: a rotation changes serial number and key."""
    first, second = ca.issue(PLANNER), ca.issue(PLANNER)
    assert first.serial_number != second.serial_number
    assert first.private_key_pem != second.private_key_pem


def test_encodings_hold_the_same_key_and_certificate(ca: DevelopmentCa) -> None:
    """PEM and DER read back as the certificate and the key that belongs to it, and the bundle as the root."""
    svid = ca.issue(PLANNER)
    keys = [load_pem_private_key(svid.private_key_pem, None), load_der_private_key(svid.private_key_der, None)]
    assert [svid.certificate.public_key()] * 2 == [key.public_key() for key in keys]
    assert svid.certificate == x509.load_pem_x509_certificate(svid.chain_pem)
    assert svid.certificate == x509.load_der_x509_certificate(svid.chain_der)
    assert [ca.certificate] == x509.load_pem_x509_certificates(ca.bundle_pem)


def test_independent_verifier_accepts_the_svid_and_refuses_a_foreign_one(ca: DevelopmentCa) -> None:
    """The chain passes a full path validation under its own root, and fails under another."""
    svid = ca.issue(PLANNER)
    other = DevelopmentCa.create("agents.example.com", noon)
    policy = PolicyBuilder().time(NOON)
    policy.store(Store([ca.certificate])).build_client_verifier().verify(svid.certificate, [])
    with pytest.raises(VerificationError):
        policy.store(Store([other.certificate])).build_client_verifier().verify(svid.certificate, [])


@pytest.mark.parametrize("uri", ["spiffe://partner.example.org/planner-agent", "spiffe://agents.example.com"])
def test_only_own_workloads_get_an_svid(ca: DevelopmentCa, uri: str) -> None:
    """A name of another trust domain and the trust domain's own name are refused."""
    with pytest.raises(CaError, match=r"is no workload of trust domain `agents\.example\.com`"):
        ca.issue(SpiffeId.parse(uri))


def test_expired_root_issues_nothing() -> None:
    """At the second of its expiry the root refuses, and says so."""
    time = NOON
    ca = DevelopmentCa.create("agents.example.com", lambda: time)
    time = ca.expires_at
    with pytest.raises(CaError, match="the development CA expired at 2026-11-23 12:00 UTC"):
        ca.issue(PLANNER)


@pytest.mark.parametrize("name", ["", "Agents.example.com", "agents.example.com/x", "agents.example.com:8443"])
def test_trust_domain_is_checked(name: str) -> None:
    """What is no trust domain makes no CA."""
    with pytest.raises(CaError, match="is no trust domain"):
        DevelopmentCa.create(name)


def test_unchecked_makes_what_the_standard_forbids(ca: DevelopmentCa) -> None:
    """Two names, no name, a CA as leaf and an expired leaf can be had for tests, by the method that says so."""
    two = ["spiffe://agents.example.com/a", "spiffe://partner.example.org/b"]
    assert two == uris_of(ca.issue_unchecked(two).certificate)
    with pytest.raises(x509.ExtensionNotFound):
        uris_of(ca.issue_unchecked([]).certificate)
    as_ca = ca.issue_unchecked([PLANNER.uri], ca=True).certificate
    assert as_ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    past = NOON - timedelta(seconds=1)
    assert past == ca.issue_unchecked([PLANNER.uri], expires_at=past).expires_at


def test_private_keys_do_not_show(ca: DevelopmentCa, authority: JwtAuthority) -> None:
    """No repr, and so no log line or traceback that prints one, mentions a key."""
    shown = repr(ca) + repr(ca.issue(PLANNER)) + repr(ca.issue_unchecked([])) + repr(authority)
    assert "key=" not in shown
    assert "PRIVATE" not in shown


def test_written_key_is_for_its_owner_only(ca: DevelopmentCa, tmp_path: Path) -> None:
    """Files replace those of the last SVID, and both have mode 0600."""
    ca.issue(PLANNER).write_to(tmp_path)
    svid = ca.issue(PLANNER)
    certificate, key = svid.write_to(tmp_path)
    assert (svid.chain_pem, svid.private_key_pem) == (certificate.read_bytes(), key.read_bytes())
    assert {0o600} == {path.stat().st_mode & 0o777 for path in (certificate, key)}
    assert {certificate, key} == set(tmp_path.iterdir())


def test_jwt_svid_carries_the_claims_of_the_standard(authority: JwtAuthority) -> None:
    """Subject, audiences, issue and expiry after five minutes; the header names the key that the JWKS publishes."""
    token = authority.issue(PLANNER, ["spiffe://agents.example.com/retrieval-agent", ""])
    now = int(NOON.timestamp())
    assert {
        "sub": PLANNER.uri,
        "aud": ["spiffe://agents.example.com/retrieval-agent"],
        "iat": now,
        "exp": now + 300,
    } == jwt.get_unverified_claims(token)
    assert {"alg": "ES256", "typ": "JWT", "kid": authority.public_jwk["kid"]} == jwt.get_unverified_header(token)


def test_published_key_verifies_with_another_reader(authority: JwtAuthority) -> None:
    """The key set has one public P-256 key for JWT-SVIDs, and the library verifies a token with it alone."""
    claims = jwt.decode(
        authority.issue(PLANNER, ["a"]),
        authority.jwks.decode(),
        algorithms=["ES256"],
        audience="a",
        options={"verify_exp": False},
    )
    assert claims["sub"] == PLANNER.uri
    assert {"kty", "crv", "x", "y", "kid", "use"} == set(authority.public_jwk)
    assert authority.public_jwk["use"] == "jwt-svid"


def test_own_jwt_svid_verifies_until_it_expires() -> None:
    """A token is good for its audience up to its last second, and not at the second of its expiry."""
    time = NOON
    authority = JwtAuthority.create("agents.example.com", lambda: time)
    token = authority.issue(PLANNER, ["a", "b"])
    time = NOON + timedelta(seconds=299)
    assert authority.verify(token, "b")["sub"] == PLANNER.uri
    time = NOON + timedelta(seconds=300)
    with pytest.raises(JwtSvidError, match="the token has expired"):
        authority.verify(token, "b")


def test_jwt_svid_for_another_audience_is_refused(authority: JwtAuthority) -> None:
    """The audience must be one of the token's, whole: a part of one does not do."""
    with pytest.raises(JwtSvidError, match="another audience"):
        authority.verify(authority.issue(PLANNER, ["abc"]), "ab")


def test_jwt_svid_of_another_trust_domain_is_refused(authority: JwtAuthority) -> None:
    """Even a token signed with the right key must name a workload of this trust domain."""
    partner = replace(authority, trust_domain="partner.example.org")
    token = partner.issue(SpiffeId.parse_workload("spiffe://partner.example.org/planner-agent"), ["a"])
    with pytest.raises(JwtSvidError, match="belongs to another trust domain"):
        authority.verify(token, "a")


def test_jwt_svid_of_another_key_is_refused(authority: JwtAuthority) -> None:
    """A key that merely claims our key's name does not sign for us, and neither does one with a name of its own."""
    other = JwtAuthority.create("agents.example.com", noon)
    forger = replace(other, public_jwk=authority.public_jwk)
    for signer, error in ((other, "was not signed by this trust domain"), (forger, "signature is not valid")):
        with pytest.raises(JwtSvidError, match=error):
            authority.verify(signer.issue(PLANNER, ["a"]), "a")


def test_jwt_svid_cannot_choose_its_algorithm(authority: JwtAuthority) -> None:
    """A token signed with the public key as an HMAC secret is refused, and so is one without signature."""
    claims = jwt.get_unverified_claims(authority.issue(PLANNER, ["a"]))
    headers = {"kid": authority.public_jwk["kid"]}
    hmac = jwt.encode(claims, authority.public_jwk["x"], algorithm="HS256", headers=headers)
    header, payload, signature = authority.issue(PLANNER, ["a"]).split(".")
    padded = hmac.rsplit(".", 1)[0] + "." + signature
    for token in (hmac, padded, f"{header}.{payload}."):
        with pytest.raises(JwtSvidError):
            authority.verify(token, "a")


@pytest.mark.parametrize("change", ["{}A", "{}AA", "{}\n", " {}", "{}=", "{}.", "a.{}", ""])
def test_jwt_svid_has_one_spelling(authority: JwtAuthority, change: str) -> None:
    """Nothing may be put before, behind or into a token; a longer signature is not a signature."""
    with pytest.raises(JwtSvidError, match="not an ES256 token in compact serialization"):
        authority.verify(change.format(authority.issue(PLANNER, ["a"])), "a")


def test_jwt_svid_has_a_size_limit(authority: JwtAuthority) -> None:
    """A token over the limit is refused before anything reads it."""
    with pytest.raises(JwtSvidError, match="not an ES256 token"):
        authority.verify(authority.issue(PLANNER, ["a" * 10_000]), "a" * 10_000)


def test_jwt_svid_needs_an_audience_and_a_workload_of_its_own(authority: JwtAuthority) -> None:
    """Without an audience, or for a foreign name, nothing is signed."""
    with pytest.raises(CaError, match="needs an audience"):
        authority.issue(PLANNER, [""])
    with pytest.raises(CaError, match="is no workload"):
        authority.issue(SpiffeId.parse("spiffe://partner.example.org/a"), ["a"])
