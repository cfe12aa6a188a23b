"""What an outbound sidecar asks: which workload calls, and whom.

1. Who calls is known only from the listener: a unix socket that is one workload's own, or the sidecar's certificate.
   The route's context extension `workload` must say the same.
2. The port is the one that the route connects to, where it says so (context extension `port`): Envoy may strip the
   request's own. Else the request's, else its scheme's. Two that disagree are refused.
"""

from collections.abc import Container

from ext_authz.attributes.authority import AuthorityError, parse_authority
from ext_authz.attributes.request import Attributes
from ext_authz.errors import Reason, Refusal
from ext_authz.identity.identify import WORKLOAD_EXTENSION
from ext_authz.identity.spiffe_id import SpiffeId
from ext_authz.policy.egress import Egress, OutboundCall, Outlet

PORT_EXTENSION = "port"
_PORTS = {"https": 443, "http": 80}  # RFC 9110 sections 4.2.1 and 4.2.2


def outbound_caller(attributes: Attributes, peer: SpiffeId | None, workloads: Container[SpiffeId]) -> SpiffeId:
    """Return the workload whose outbound sidecar asks. `workloads` are those that are answered for; empty: any."""
    if peer is None:
        raise Refusal(Reason.EGRESS_DENIED, "the listener that was asked is not bound to one workload's sidecar")
    if attributes.extensions.get(WORKLOAD_EXTENSION) != peer.uri:
        raise Refusal(Reason.EGRESS_DENIED, "the sidecar that asks is not that of the workload its route names")
    if workloads and peer not in workloads:
        raise Refusal(Reason.EGRESS_DENIED, "this server does not answer for the workload that calls")
    return peer


def outbound_call(subject: SpiffeId, attributes: Attributes) -> OutboundCall:
    """Return the host and port that are called. Raises Refusal for what can be read in two ways."""
    try:
        host, written = parse_authority(attributes.authority)
    except AuthorityError as error:
        raise Refusal(Reason.REQUEST_MALFORMED, str(error)) from None
    configured = _configured_port(attributes.extensions.get(PORT_EXTENSION))
    if configured and written and configured != written:
        raise Refusal(Reason.REQUEST_MALFORMED, "the request names another port than its route connects to")
    port = configured or written or _PORTS.get(attributes.scheme)
    if port is None:
        raise Refusal(Reason.REQUEST_MALFORMED, "neither the host nor the scheme says which port is called")
    return OutboundCall(subject, host, port)


def find_outlet(egress: Egress, call: OutboundCall, attributes: Attributes) -> Outlet:
    """Return the entry that lets a workload make this call. Raises Refusal when there is none."""
    outlet = egress.find(call, attributes.method, attributes.path)
    if outlet is None:
        raise Refusal(Reason.EGRESS_DENIED)
    return outlet


def _configured_port(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_authority(f"port:{text}").port
    except AuthorityError:
        raise Refusal(Reason.REQUEST_MALFORMED, "the route's context extension `port` is no port") from None
