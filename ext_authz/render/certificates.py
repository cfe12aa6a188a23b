"""Where a sidecar's SVID and bundles come from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ext_authz.errors import ConfigurationError
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.render.address import UnixAddress
from ext_authz.render.problems import Problems


@dataclass(frozen=True, slots=True)
class SdsCertificates:
    """SVID and bundles come from a SPIRE agent, or from the local identity provider: only the socket differs."""

    socket: UnixAddress


@dataclass(frozen=True, slots=True)
class FileCertificates:
    """SVID and bundles come from PEM files, which Envoy reads once: for checks, not for operation."""

    certificate: Path
    private_key: Path
    trust_bundles: Mapping[str, Path]  # by trust domain; at least one

    @classmethod
    def parse(cls, certificate: Path | None, private_key: Path | None, trust_bundles: Iterable[str]) -> Self:
        """Take the paths of the files; each bundle is DOMAIN=FILE. Raises ConfigurationError."""
        if certificate is None or private_key is None:
            raise ConfigurationError(["certificates from files: expected a certificate and its private key"])
        problems = Problems()
        bundles = problems.read_each("trust bundle", _parse_bundle, trust_bundles)
        if not bundles:
            problems.add("certificates from files: expected at least one trust bundle")
        problems.raise_found()
        return cls(certificate.absolute(), private_key.absolute(), dict(bundles))


Certificates = SdsCertificates | FileCertificates


def read_certificates(problems: Problems, certificates: str | FileCertificates) -> Certificates:
    """Take files as they are, and read the address of the SDS server."""
    if isinstance(certificates, FileCertificates):
        return certificates
    return SdsCertificates(problems.read("SDS server", UnixAddress.parse, certificates))


def parse_trust_domain(text: str) -> str:
    """Read the name of a trust domain. Raises ValueError."""
    spiffe_id = SpiffeId.parse(f"spiffe://{text}")
    if spiffe_id.path:
        raise ValueError("expected a trust domain, without scheme and path")
    return spiffe_id.trust_domain


def _parse_bundle(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (equals and path):
        raise ValueError("expected DOMAIN=FILE")
    return parse_trust_domain(name), Path(path).absolute()
