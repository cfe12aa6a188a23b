"""Who is calling, and which workload is reached: every source that is present must say the same.

1. Envoy's `source.principal` is always needed; XFCC unless the settings waive it; the certificate where Envoy sends it.
2. A caller's own header is never a source.
3. The workload reached is `destination.principal`, else the route's context extension `workload`; both must agree.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from ext_authz.attributes.request import XFCC, Attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.certificate import PeerCertificate
from ext_authz.identity.spiffe_id import SpiffeId, SpiffeIdError
from ext_authz.identity.xfcc import UNTOUCHED, XfccElement, XfccMode, immediate_peer
from ext_authz.memo import Memo

WORKLOAD_EXTENSION = "workload"

# Callers remembered at a time: agents of one cell times certificates alive at once. About 2 kB each.
MAX_REMEMBERED = 1024
# Characters of an XFCC header or certificate that is remembered; longer ones are parsed each time.
MAX_REMEMBERED_CHARACTERS = 8192


class Identity(NamedTuple):
    """Who calls whom, verified."""

    subject: SpiffeId
    resource: SpiffeId
    certificate_sha256: str  # lower-case hexadecimal; empty when neither XFCC nor certificate came


@dataclass(frozen=True)
class Identifier:
    """The identity stage under one set of settings.

    Parsed headers and certificates are remembered by their text; validity in time and agreement are checked every time.
    """

    xfcc_mode: XfccMode = XfccMode.SANITIZE_SET
    require_xfcc: bool = True
    workloads: frozenset[SpiffeId] = frozenset()  # those this server answers for; empty: any
    _peer: Memo[XfccElement] = field(init=False, repr=False, compare=False)
    _certificate: Memo[PeerCertificate] = field(init=False, repr=False, compare=False)
    _spiffe_id: Memo[SpiffeId] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bounds = {"max_entries": MAX_REMEMBERED, "max_characters": MAX_REMEMBERED_CHARACTERS}
        object.__setattr__(self, "_peer", Memo(lambda header: immediate_peer(header, self.xfcc_mode), **bounds))
        object.__setattr__(self, "_certificate", Memo(PeerCertificate.parse, **bounds))
        object.__setattr__(self, "_spiffe_id", Memo(_parse_workload, **bounds))

    def identify(self, attributes: Attributes, now: float) -> Identity:
        """Return the verified identities. `now` is in seconds since 1970. Raises Refusal."""
        if not attributes.principal:
            raise Refusal(Reason.IDENTITY_MISSING)
        subject = self._spiffe_id(attributes.principal)
        resource = self._resource(attributes)
        digest = self._check_peer(attributes, subject, resource)
        if attributes.certificate:
            digest = self._check_certificate(attributes.certificate, subject, digest, now)
        return Identity(subject, resource, digest)

    def _resource(self, attributes: Attributes) -> SpiffeId:
        configured = attributes.extensions.get(WORKLOAD_EXTENSION, "")
        name = attributes.destination or configured
        if not name:
            raise Refusal(Reason.REQUEST_MALFORMED, "the sidecar did not say which workload the request reaches")
        if configured and configured != name:
            raise Refusal(Reason.IDENTITY_MISMATCH, "the sidecar's certificate and its route name different workloads")
        resource = self._spiffe_id(name)
        if self.workloads and resource not in self.workloads:
            raise Refusal(Reason.RESOURCE_MISMATCH, "this server does not answer for the workload that is reached")
        return resource

    def _check_peer(self, attributes: Attributes, subject: SpiffeId, resource: SpiffeId) -> str:
        if self.xfcc_mode in UNTOUCHED:
            raise Refusal(Reason.IDENTITY_MISSING, f"{self.xfcc_mode} forwards what the client wrote: it names nobody")
        header = attributes.headers.get(XFCC)
        if header is None:
            if self.require_xfcc:
                raise Refusal(Reason.IDENTITY_MISSING, "the sidecar sent no XFCC header")
            return ""
        peer = self._peer(header)
        if peer.uri != subject:
            raise Refusal(Reason.IDENTITY_MISMATCH, "XFCC names another caller than the verified certificate")
        if peer.by is not None and peer.by != resource:
            raise Refusal(Reason.IDENTITY_MISMATCH, "XFCC was written by another workload than the one reached")
        return peer.certificate_sha256

    def _check_certificate(self, encoded: str, subject: SpiffeId, digest: str, now: float) -> str:
        certificate = self._certificate(encoded)
        certificate.refuse_unless_valid(now)
        if certificate.spiffe_id != subject:
            raise Refusal(Reason.IDENTITY_MISMATCH, "the certificate names another caller than its connection")
        if digest and certificate.sha256 != digest:
            raise Refusal(Reason.IDENTITY_MISMATCH, "XFCC has the hash of another certificate")
        return certificate.sha256


def _parse_workload(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse_workload(text)
    except SpiffeIdError as error:
        raise Refusal(Reason.IDENTITY_INVALID, str(error)) from None
