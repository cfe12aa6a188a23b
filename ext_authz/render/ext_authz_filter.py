"""The ext_authz filter: what the authorization server is told, what it may answer, and what happens when it does not.

1. No answer is no permission: an error, a timeout or a disabled filter denies, with 503 where nothing was decided.
2. The server is told everything that was sent, byte for byte, and whole bodies only; of outbound calls no body.
3. The server may set and remove x-authz-* request headers, nothing else.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RuntimeFeatureFlag,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer, BufferPerRoute
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    BufferSettings,
    CheckSettings,
    ExtAuthz,
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any

from ext_authz.render import limits
from ext_authz.render.cluster import AUTHZ_CLUSTER
from ext_authz.render.extension import http_filter, packed
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar

BUFFER = "envoy.filters.http.buffer"
EXT_AUTHZ = "envoy.filters.http.ext_authz"

OWN_HEADERS = r"x-authz-[a-z0-9-]+"


def buffer_filter() -> HttpFilter:
    """Refuse larger bodies with 413.

    ext_authz has the same limit, but over HTTP/2 it lets up to one frame more pass: it shows the server the beginning, and
    the agent everything (seen with Envoy 1.40).
    """
    return http_filter(BUFFER, Buffer(max_request_bytes=limits.MAX_BODY_BYTES))


def ext_authz_filter(timeout: timedelta, *, shows_bodies: bool) -> HttpFilter:
    """Ask the authorization server about every request, and wait so long for its answer."""
    body = BufferSettings(max_request_bytes=limits.MAX_BODY_BYTES, pack_as_bytes=True) if shows_bodies else None
    return http_filter(
        EXT_AUTHZ,
        ExtAuthz(
            transport_api_version=ApiVersion.V3,
            grpc_service=GrpcService(
                envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=AUTHZ_CLUSTER, authority=AUTHZ_CLUSTER),
                timeout=timeout,
            ),
            status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
            deny_at_disable=RuntimeFeatureFlag(runtime_key="ext_authz.deny_at_disable", default_value=True),
            include_peer_certificate=True,
            include_tls_session=True,
            encode_raw_headers=True,
            # Cookies are no credential between agents: those of a browser behind one are none of the server's business.
            disallowed_headers=ListStringMatcher(patterns=[StringMatcher(exact="cookie", ignore_case=True)]),
            with_request_body=body,
            validate_mutations=True,
            decoder_header_mutation_rules=HeaderMutationRules(
                disallow_all=True,
                disallow_is_error=True,
                allow_expression=RegexMatcher(regex=OWN_HEADERS),
            ),
            enforce_response_header_limits=True,
            max_denied_response_body_bytes=limits.MAX_DENIED_BODY_BYTES,
            charge_cluster_response_stats=False,
            emit_filter_state_stats=True,
        ),
    )


def route_settings(sidecar: InboundSidecar, *, is_stream: bool) -> dict[str, Any]:
    """Tell the server where the request arrives; on a stream, don't wait for the end of the body."""
    context_extensions = {"direction": "inbound", "workload": sidecar.spiffe_id.uri}
    check = CheckSettings(context_extensions=context_extensions, disable_request_body_buffering=is_stream)
    settings = {EXT_AUTHZ: packed(ExtAuthzPerRoute(check_settings=check))}
    if is_stream:
        settings[BUFFER] = packed(BufferPerRoute(disabled=True))
    return settings


def outbound_settings(sidecar: OutboundSidecar, port: int | None = None) -> dict[str, Any]:
    """Tell the server who calls out, and to which port the route connects; None where it connects nowhere."""
    context_extensions = {"direction": "egress", "workload": sidecar.spiffe_id.uri}
    if port is not None:
        context_extensions["port"] = str(port)
    return {EXT_AUTHZ: packed(ExtAuthzPerRoute(check_settings=CheckSettings(context_extensions=context_extensions)))}
