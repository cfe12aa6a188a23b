"""TLS on loopback: who may ask, about whom, and what happens when the files change."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.authorizers import DEFAULT_POLICY, reason_of
from support.check_requests import QUESTION, TRUST_DOMAIN
from support.egress_policies import POLICY, outbound
from support.server_process import PATIENCE_SECONDS, ServerProcess, check, connection, refused_listen

from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.local.ca import DevelopmentCa
from ext_authz.local.svid import KeyedCertificate

OWN = SpiffeId.parse_workload(QUESTION.target)
OTHER = SpiffeId.parse_workload(QUESTION.caller)


@dataclass(frozen=True)
class ServerCertificate:
    """A self-signed certificate for 127.0.0.1: gRPC's client wants an address in it, and an SVID has none."""

    pem: bytes
    key_pem: bytes

    @classmethod
    def create(cls) -> Self:
        """Make a certificate with a new key."""
        key, nobody, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder(nobody, nobody, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(addresses, critical=True)
            .sign(key, hashes.SHA256())
        )
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return cls(certificate.public_bytes(Encoding.PEM), key_pem)


@dataclass(frozen=True)
class TlsServer:
    """A running server, its files, and who signs its clients' certificates."""

    server: ServerProcess
    files: Path
    certificate: ServerCertificate
    ca: DevelopmentCa

    def ask(self, client: KeyedCertificate | None, server_certificate: ServerCertificate | None = None) -> str:
        """Ask whether the default question is allowed; return the reason, or gRPC's status where nothing was decided."""
        trusted = server_certificate or self.certificate
        credentials = grpc.ssl_channel_credentials(
            trusted.pem, client and client.private_key_pem, client and client.chain_pem
        )
        return self.ask_with(credentials)

    def ask_with(self, credentials: Any) -> str:
        """Ask with these credentials; None: without TLS."""
        with connection(self.server.address, credentials) as channel:
            try:
                return reason_of(check(channel, QUESTION.message(), PATIENCE_SECONDS))
            except grpc.RpcError as error:
                return str(error.code().name)


def write_files(directory: Path, certificate: ServerCertificate, ca: DevelopmentCa) -> dict[str, Any]:
    """Write the PEM files and return the settings that name them."""
    contents = {"tls_certificate": certificate.pem, "tls_key": certificate.key_pem, "tls_client_ca": ca.bundle_pem}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: str(directory / name) for name in contents}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """One server for the tests that do not change its files."""
    files, certificate, ca = (
        tmp_path_factory.mktemp("tls"),
        ServerCertificate.create(),
        DevelopmentCa.create(TRUST_DOMAIN),
    )
    settings = write_files(files, certificate, ca)
    with ServerProcess.running(DEFAULT_POLICY, listen="127.0.0.1:0", **settings) as server:
        yield TlsServer(server, files, certificate, ca)


def test_sidecar_asks_about_its_own_workload(tls: TlsServer) -> None:
    """The SVID of the workload that the request reaches may ask."""
    assert tls.ask(tls.ca.issue(OWN)) == "allowed"


def test_sidecar_asks_about_another_workload(tls: TlsServer) -> None:
    """Another workload's SVID is refused: it could make up any attributes."""
    assert tls.ask(tls.ca.issue(OTHER)) == "identity_mismatch"


def test_outbound_sidecar_asks_about_its_own_calls(tmp_path: Path) -> None:
    """The SVID of the workload that calls out may ask, and no other."""
    ca, certificate, policies = DevelopmentCa.create(TRUST_DOMAIN), ServerCertificate.create(), tmp_path / "policies"
    policies.mkdir()
    (policies / "policy.yaml").write_text(POLICY)
    with ServerProcess.running(policies, listen="127.0.0.1:0", **write_files(tmp_path, certificate, ca)) as server:
        reasons = []
        for workload in (OTHER, OWN):
            svid = ca.issue(workload)
            credentials = grpc.ssl_channel_credentials(certificate.pem, svid.private_key_pem, svid.chain_pem)
            with server.channel(credentials) as channel:
                reasons.append(reason_of(check(channel, outbound(), PATIENCE_SECONDS)))
    assert ["allowed", "egress_denied"] == reasons


def yesterday(hours: int) -> datetime:
    """Return a moment of the day before."""
    return datetime.now(UTC) - timedelta(days=1, hours=hours)


NO_SVIDS: dict[str, tuple[list[str], str]] = {
    "no URI": ([], "UNAUTHENTICATED"),
    "two workloads": ([OWN.uri, OTHER.uri], "UNAUTHENTICATED"),
    "another URI beside": ([OWN.uri, "https://agents.example.com/"], "UNAUTHENTICATED"),
    "upper case beside": ([OWN.uri, OTHER.uri.upper()], "UNAUTHENTICATED"),
    "trust domain": ([f"spiffe://{TRUST_DOMAIN}"], "UNAUTHENTICATED"),
    "upper case": ([f"SPIFFE://{TRUST_DOMAIN}/retrieval-agent"], "UNAUTHENTICATED"),
    "trailing slash": ([f"{OWN.uri}/"], "UNAUTHENTICATED"),
    "longer name": ([f"{OWN.uri}-2"], "identity_mismatch"),
    "other trust domain": (["spiffe://other.example.com/retrieval-agent"], "identity_mismatch"),
}


@pytest.mark.parametrize(("uris", "outcome"), NO_SVIDS.values(), ids=NO_SVIDS)
def test_certificate_that_is_not_the_workloads_own(tls: TlsServer, uris: list[str], outcome: str) -> None:
    """A certificate of the right CA that is no X.509-SVID, or not of this workload, may not ask."""
    assert outcome == tls.ask(tls.ca.issue_unchecked(uris))


def test_client_that_fails_the_handshake(tls: TlsServer) -> None:
    """Without a certificate, with an expired one, with one of another CA or without TLS nobody gets as far as asking."""
    expired = tls.ca.issue_unchecked([OWN.uri], not_before=yesterday(2), expires_at=yesterday(1))
    stranger = DevelopmentCa.create(TRUST_DOMAIN).issue(OWN)
    assert ["UNAVAILABLE"] * 4 == [tls.ask(None), tls.ask(expired), tls.ask(stranger), tls.ask_with(None)]
    assert tls.ask(tls.ca.issue(OWN)) == "allowed"


def test_changed_files_are_picked_up(tmp_path: Path) -> None:
    """New certificate, key and client CA count from the next connection on; halves of a change leave the old ones in use."""
    old, new = ServerCertificate.create(), ServerCertificate.create()
    old_ca, new_ca = DevelopmentCa.create(TRUST_DOMAIN), DevelopmentCa.create(TRUST_DOMAIN)
    settings = write_files(tmp_path, old, old_ca)
    with ServerProcess.running(DEFAULT_POLICY, listen="127.0.0.1:0", **settings) as server:
        tls = TlsServer(server, tmp_path, old, old_ca)
        client = old_ca.issue(OWN)
        credentials = grpc.ssl_channel_credentials(old.pem, client.private_key_pem, client.chain_pem)
        with connection(server.address, credentials) as lasting:
            assert reason_of(check(lasting, QUESTION.message())) == "allowed"
            (tmp_path / "tls_certificate").write_bytes(new.pem)
            assert tls.ask(client, old) == "allowed"
            (tmp_path / "tls_certificate").write_bytes(b"not a certificate")
            assert tls.ask(client, old) == "allowed"
            (tmp_path / "tls_certificate").unlink()
            assert tls.ask(client, old) == "allowed"
            write_files(tmp_path, new, old_ca)
            assert ["UNAVAILABLE", "allowed"] == [tls.ask(client, old), tls.ask(client, new)]
            write_files(tmp_path, new, new_ca)
            assert ["UNAVAILABLE", "allowed"] == [tls.ask(client, new), tls.ask(new_ca.issue(OWN), new)]
            assert reason_of(check(lasting, QUESTION.message())) == "allowed"


BROKEN_FILES = {
    "certificate": {"tls_certificate": b"not a certificate"},
    "key": {"tls_key": b"not a key"},
    "client CA": {"tls_client_ca": b"not a certificate"},
    "another key": {"tls_key": ServerCertificate.create().key_pem},
}


@pytest.mark.parametrize("broken", BROKEN_FILES.values(), ids=BROKEN_FILES)
async def test_broken_files_at_the_start(tmp_path: Path, broken: dict[str, bytes]) -> None:
    """What is no PEM or no pair stops the start with a hint at the files."""
    settings = write_files(tmp_path, ServerCertificate.create(), DevelopmentCa.create(TRUST_DOMAIN))
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    assert (
        "listen: cannot bind `127.0.0.1:0`: "
        "is another server there, or are the TLS files no PEM or certificate and key no pair?"
    ) == await refused_listen(listen="127.0.0.1:0", **settings)


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key", "tls_client_ca"])
async def test_missing_file_at_the_start(tmp_path: Path, missing: str) -> None:
    """A TLS file that is not there stops the start and is named."""
    settings = write_files(tmp_path, ServerCertificate.create(), DevelopmentCa.create(TRUST_DOMAIN))
    (tmp_path / missing).unlink()
    assert f"tls: cannot read `{tmp_path / missing}`: No such file or directory" == await refused_listen(
        listen="127.0.0.1:0", **settings
    )
