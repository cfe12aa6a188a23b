"""What one workload holds: its X.509-SVID and the bundles that it trusts, as a snapshot, and word of the next one.

1. A snapshot never changes; a rotation or a new bundle publishes another, with a higher version.
2. A private key never shows in a repr, and reaches a file only with mode 0600.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ext_authz.identity.spiffe_id import SpiffeId

Bundle = tuple[x509.Certificate, ...]  # the CA certificates of one trust domain


def to_pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Join certificates as PEM, as Envoy takes them."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def to_der(certificates: Iterable[x509.Certificate]) -> bytes:
    """Join certificates as DER without anything between, as the Workload API sends them."""
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def trust_domain_id(trust_domain: str) -> str:
    """Write the SPIFFE ID of a trust domain."""
    return f"spiffe://{trust_domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedCertificate:
    """A certificate signed by the development CA, good or bad, and its private key."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def chain_pem(self) -> bytes:
        """The leaf alone: the CA that signed it is a root, and roots travel in the bundle."""
        return to_pem([self.certificate])

    @property
    def chain_der(self) -> bytes:
        """The chain as DER."""
        return to_der([self.certificate])

    @property
    def private_key_pem(self) -> bytes:
        """PKCS #8, unencrypted."""
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def private_key_der(self) -> bytes:
        """PKCS #8, unencrypted."""
        return self.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    @property
    def serial_number(self) -> int:
        """The certificate's serial number: random, so it tells one rotation from the next."""
        return self.certificate.serial_number

    @property
    def not_before(self) -> datetime:
        """From when on it is valid, in UTC."""
        return self.certificate.not_valid_before_utc

    @property
    def expires_at(self) -> datetime:
        """Until when it is valid, in UTC."""
        return self.certificate.not_valid_after_utc

    def write_to(self, directory: Path) -> tuple[Path, Path]:
        """Write svid.pem and svid_key.pem for programs that read files; return both paths."""
        certificate_path, key_path = directory / "svid.pem", directory / "svid_key.pem"
        _write_private(key_path, self.private_key_pem)
        _write_private(certificate_path, self.chain_pem)
        return certificate_path, key_path


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid(KeyedCertificate):
    """A certificate that names exactly one workload, as X509-SVID.md asks."""

    spiffe_id: SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityState:
    """All that one workload is told at one moment."""

    version: int  # from 1 on, higher with every change
    svid: X509Svid
    bundle: Bundle
    federated_bundles: Mapping[str, Bundle]  # by trust domain, in the order of their names

    @property
    def bundles(self) -> dict[str, Bundle]:
        """Every known bundle by trust domain, its own included, in the order of their names."""
        return dict(sorted({**self.federated_bundles, self.svid.spiffe_id.trust_domain: self.bundle}.items()))


class IdentityFeed:
    """The current state of one workload, for any number of readers on one event loop.

    A slow reader skips states: each reader only ever wants the newest.
    """

    def __init__(self, state: IdentityState) -> None:
        self._state = state
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def state(self) -> IdentityState:
        """The newest state."""
        return self._state

    def publish(self, state: IdentityState) -> None:
        """Replace the state and wake every reader."""
        self._state = state
        self._wake()

    def close(self) -> None:
        """Tell every reader that nothing more will come."""
        self._closed = True
        self._wake()

    async def newer_than(self, version: int) -> IdentityState | None:
        """Wait until there is a state above `version`, and return the newest; None when the feed was closed."""
        while self._state.version <= version and not self._closed:
            await self._changed.wait()
        return None if self._closed else self._state

    async def states(self) -> AsyncIterator[IdentityState]:
        """Yield the current state, then each newer one, until the feed is closed."""
        version = 0
        while (state := await self.newer_than(version)) is not None:
            yield state
            version = state.version

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step; it has mode 0600 from its first byte on."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    unfinished.replace(path)
