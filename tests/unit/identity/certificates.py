"""Real certificates, good and bad, made for one test."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.authorizers import NOW
from support.check_requests import agent

NOT_BEFORE = NOW - 600
NOT_AFTER = NOW + 3000


@cache
def _key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def certificate(
    *uris: str,
    ca: bool | None = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
    others: Sequence[x509.GeneralName] = (),
    has_names: bool = True,
    has_uris: bool = True,
) -> x509.Certificate:
    """Return a self-signed certificate, by default an X.509-SVID of the default caller. `ca` None: no basic constraints."""
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIRE")])
    builder = (
        x509.CertificateBuilder(name, name, _key().public_key(), x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(NOT_BEFORE, tz=UTC))
        .not_valid_after(datetime.fromtimestamp(NOT_AFTER, tz=UTC))
        .add_extension(_key_usage(key_cert_sign=key_cert_sign, crl_sign=crl_sign), critical=True)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if has_names:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris or [agent("planner-agent")] if has_uris]
        builder = builder.add_extension(x509.SubjectAlternativeName([*names, *others]), critical=False)
    return builder.sign(_key(), SHA256())


def _key_usage(*, key_cert_sign: bool, crl_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=True,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def pem(made: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return made.public_bytes(Encoding.PEM)


def encoded(made: x509.Certificate) -> str:
    """Return a certificate as Envoy sends it: URL-encoded PEM."""
    return quote(pem(made), safe="")


def digest(made: x509.Certificate) -> str:
    """Return the Hash that Envoy writes into XFCC for a certificate."""
    return made.fingerprint(SHA256()).hex()
