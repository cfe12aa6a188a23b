"""The caller's certificate: what X.509-SVIDs must hold, and when they count."""

import base64
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.check_requests import agent
from unit.identity.certificates import NOT_AFTER, NOT_BEFORE, certificate, digest, encoded, pem

from ext_authz.attributes.request import MAX_CERTIFICATE_BYTES
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.certificate import NOT_BEFORE_LEEWAY_SECONDS, PeerCertificate
from ext_authz.identity.spiffe_id import SpiffeId

PLANNER = agent("planner-agent")
# As Envoy 1.40 sent it (reference capture): encoded with upper-case digits, spaces as %20.
CAPTURED = "-----BEGIN%20CERTIFICATE-----%0AMIIB6zCCAZCgAwIBAgIUcyhZhXcq3rfmDQXH2ULk4X%2BPuQ4wCgYIKoZIzj0EAwIw%0AHTEbMBkGA1UECgwSZGV2LWNhIGV4YW1wbGUub3JnMB4XDTI2MTEyMTIxNTQyNVoX%0ADTI2MTEyMTIyNTQzNVowFDESMBAGA1UECgwJU1BJUkUtZGV2MFkwEwYHKoZIzj0C%0AAQYIKoZIzj0DAQcDQgAEWt3DN4MFUOVTRytB7Z7msOOKtC%2FBI3KW6n2PtJ6oqfXn%0Aqc%2Fg0GvJPgFd26lYttw56N9lnmkGIZbFW8TX032MwaOBtjCBszAMBgNVHRMBAf8E%0AAjAAMA4GA1UdDwEB%2FwQEAwIFoDAdBgNVHSUEFjAUBggrBgEFBQcDAQYIKwYBBQUH%0AAwIwHwYDVR0jBBgwFoAUWI1GTqqGUu92d6M55A29WEgKKNUwHQYDVR0OBBYEFMhb%0AllHLLkQaa70LmMdQKbLCNX1%2BMDQGA1UdEQQtMCuGKXNwaWZmZTovL2V4YW1wbGUu%0Ab3JnL25zL2FnZW50cy9zYS9wbGFubmVyMAoGCCqGSM49BAMCA0kAMEYCIQCdKpqP%0ATUjO%2BEz2gTqZR0EOaJehDgBEUeMsyHMlzBflCQIhAIVkjOAcNlveIb3Hn9La6URT%0AumUPHD0GkwkzovaNaxXz%0A-----END%20CERTIFICATE-----%0A"


def _detail(text: str) -> str:
    with pytest.raises(Refusal) as refusal:
        PeerCertificate.parse(text)
    assert Reason.IDENTITY_INVALID is refusal.value.reason
    return refusal.value.detail


@pytest.mark.parametrize("ca", [False, None], ids=["not a CA", "no basic constraints"])
def test_x509_svid(ca: bool | None) -> None:  # noqa: FBT001
    """Of an X.509-SVID its one URI, its validity and its hash are kept."""
    made = certificate(ca=ca)
    expected = PeerCertificate(SpiffeId.parse_workload(PLANNER), NOT_BEFORE, NOT_AFTER, digest(made))
    assert expected == PeerCertificate.parse(encoded(made))


def test_certificate_as_envoy_sends_it() -> None:
    """A certificate that a real Envoy sent is read, and its hash is the one that Envoy wrote into XFCC."""
    peer = PeerCertificate.parse(CAPTURED)
    assert "spiffe://example.org/ns/agents/sa/planner" == str(peer.spiffe_id)
    assert "6b9dd27198ff140d3b60b1654a7ccfc0ebcce8ec8ef7d1a5cf1eb4f64f1ef3f3" == peer.sha256


def test_other_names_are_allowed() -> None:
    """DNS names beside the URI mean nothing (X509-SVID.md section 2)."""
    made = certificate(PLANNER, others=[x509.DNSName("planner-agent"), x509.RFC822Name("a@example.com")])
    assert PLANNER == str(PeerCertificate.parse(encoded(made)).spiffe_id)


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("2 URI names", certificate(PLANNER, agent("database-agent"))),
        ("2 URI names", certificate(agent("database-agent"), PLANNER)),
        ("2 URI names", certificate(PLANNER, PLANNER)),
        ("2 URI names", certificate(PLANNER, "https://example.com/")),
        ("not a SPIFFE ID", certificate("https://example.com/")),
        ("not a SPIFFE ID", certificate(f"{PLANNER}/")),
        ("has a path", certificate("spiffe://agents.example.com")),
        ("ExtensionNotFound", certificate(has_names=False)),
        ("may sign others", certificate(ca=True)),
        ("may sign others", certificate(key_cert_sign=True)),
        ("may sign others", certificate(crl_sign=True)),
        ("may sign others", certificate(ca=True, key_cert_sign=True, crl_sign=True)),
        ("may sign others", certificate(ca=None, key_cert_sign=True)),
    ],
)
def test_certificate_that_names_no_workload(words: str, made: x509.Certificate) -> None:
    """Two names, no name, a name that is no workload's, and certificates that could sign others are refused."""
    assert words in _detail(encoded(made))


def test_certificate_without_uri_name() -> None:
    """A certificate with DNS names only is no X.509-SVID."""
    assert "0 URI names" in _detail(encoded(certificate(others=[x509.DNSName("planner-agent")], has_uris=False)))


GOOD = pem(certificate())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MIIB",
        b"-----BEGIN CERTIFICATE-----",
        GOOD[:-30],
        GOOD + GOOD,
        GOOD + b"x",
        b"x\n" + GOOD,
        b" " + GOOD,
        GOOD.replace(b"CERTIFICATE", b"X509 CRL"),
        GOOD.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        GOOD.replace(b"\n", b""),
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----\n",
        GOOD[:100] + b"!" + GOOD[101:],
        GOOD[:300] + b"\x00" + GOOD[301:],
        b"\xff\xfe" * 100,
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * MAX_CERTIFICATE_BYTES,
        b"-----BEGIN CERTIFICATE-----\n" + b"A" * 12_000 + b"\n-----END CERTIFICATE-----\n",
    ],
    ids=lambda data: repr(data[:24]) + str(len(data)),
)
def test_what_is_not_one_pem_certificate(data: bytes) -> None:
    """Two blocks, none, a cut or changed one, and anything around it are refused, and nothing of it is repeated."""
    text = data.decode("latin-1")
    detail = _detail("".join(f"%{ord(character):02x}" for character in text))
    assert "MII" not in detail


@pytest.mark.parametrize("text", [CAPTURED.replace("%0A", "\n"), CAPTURED.replace("%0A", "%0D%0A")])
def test_line_ends(text: str) -> None:
    """PEM has either line end, encoded or not."""
    assert PeerCertificate.parse(CAPTURED) == PeerCertificate.parse(text)


@pytest.mark.parametrize(
    "now", [NOT_BEFORE - NOT_BEFORE_LEEWAY_SECONDS, NOT_BEFORE, NOT_AFTER - 1, NOT_AFTER - 0.001], ids=str
)
def test_valid_times(now: float) -> None:
    """A certificate is valid from half a minute before its beginning, since clocks differ, until just before its end."""
    PeerCertificate.parse(encoded(certificate())).refuse_unless_valid(now)


@pytest.mark.parametrize(
    ("words", "now"),
    [
        ("valid from", NOT_BEFORE - NOT_BEFORE_LEEWAY_SECONDS - 0.001),
        ("valid from", 0.0),
        ("expired at", NOT_AFTER),
        ("expired at", NOT_AFTER + 1e9),
    ],
)
def test_times_outside_of_the_validity(words: str, now: float) -> None:
    """At the second of its end a certificate is expired: there is no leeway behind it."""
    with pytest.raises(Refusal, match=words) as refusal:
        PeerCertificate.parse(encoded(certificate())).refuse_unless_valid(now)
    assert Reason.IDENTITY_INVALID is refusal.value.reason


def test_certificate_of_an_unknown_version() -> None:
    """A certificate whose version nobody knows is refused like any other that cannot be read, not an error of ours."""
    der = certificate().public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
    assert "InvalidVersion" in _detail(quote(text))
