"""The outbound sidecar: plain HTTP from the agent -> ext_authz, if it is asked -> allow-list of upstreams -> mTLS."""

import json

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.listener.v3 import FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    RetryPolicy,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)

from ext_authz.errors import Reason
from ext_authz.render import limits
from ext_authz.render.access_log import ASKING_OUTBOUND_FORMAT, OUTBOUND_FORMAT, access_log
from ext_authz.render.address import TcpAddress
from ext_authz.render.bootstrap import PIPE_MODE, bootstrap
from ext_authz.render.cluster import address_message, authz_cluster, sds_clusters, upstream_cluster
from ext_authz.render.connection_manager import Http, connection_manager
from ext_authz.render.ext_authz_filter import ext_authz_filter, outbound_settings
from ext_authz.render.route import call_route, longest_request, stream_routes
from ext_authz.render.sidecar import OutboundSidecar, Upstream


def outbound_bootstrap(sidecar: OutboundSidecar) -> Bootstrap:
    """Build the configuration of an outbound sidecar."""
    upstreams = [upstream_cluster(sidecar, upstream) for upstream in sidecar.upstreams]
    authz = [] if sidecar.authz is None else [authz_cluster(sidecar.authz)]
    clusters = [*upstreams, *authz, *sds_clusters(sidecar)]
    return bootstrap(sidecar, [_listener(sidecar)], clusters)


def _listener(sidecar: OutboundSidecar) -> Listener:
    is_asking = sidecar.authz is not None
    http = Http(
        name=sidecar.role,
        routes=_routes(sidecar),
        filters=(ext_authz_filter(sidecar.authz_timeout, shows_bodies=False),) if is_asking else (),
        log=access_log(sidecar.access_log, ASKING_OUTBOUND_FORMAT if is_asking else OUTBOUND_FORMAT),
        longest_request=longest_request(sidecar),
        takes_mtls=False,
    )
    return Listener(
        name=sidecar.role,
        address=address_message(sidecar.listen, PIPE_MODE),
        per_connection_buffer_limit_bytes=limits.CONNECTION_BUFFER_BYTES,
        filter_chains=[FilterChain(filters=[connection_manager(http)])],
    )


def _routes(sidecar: OutboundSidecar) -> RouteConfiguration:
    allowed = [_allowed(sidecar, upstream) for upstream in sidecar.upstreams]
    return RouteConfiguration(
        name=sidecar.role, validate_clusters=True, virtual_hosts=[*allowed, _everything_else(sidecar)]
    )


def _allowed(sidecar: OutboundSidecar, upstream: Upstream) -> VirtualHost:
    # Only what did not reach the agent is sent again: a call may not be done twice.
    retry = RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=1)
    routes = [*stream_routes(sidecar, upstream.name, retry), call_route(upstream.name, retry)]
    host = VirtualHost(name=upstream.name, domains=[upstream.name], routes=routes)
    if sidecar.authz is not None:
        port = upstream.address.port if isinstance(upstream.address, TcpAddress) else None
        host.typed_per_filter_config = outbound_settings(sidecar, port)
    return host


def _everything_else(sidecar: OutboundSidecar) -> VirtualHost:
    """Answer what the authorization server answers when it denies (RFC 9457); it is asked first, and records the call."""
    reason = Reason.EGRESS_DENIED
    status = reason.meaning.http_status
    problem = {
        "type": "about:blank",
        "title": "request denied",
        "status": status,
        "detail": "this agent's sidecar has no upstream of that name",
        "reason": reason.value,
    }
    content_type = HeaderValueOption(
        header=HeaderValue(key="content-type", value="application/problem+json"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    answer = DirectResponseAction(status=status, body=DataSource(inline_string=json.dumps(problem)))
    host = VirtualHost(
        name="everything_else",
        domains=["*"],
        routes=[
            Route(match=RouteMatch(prefix="/"), direct_response=answer, response_headers_to_add=[content_type]),
        ],
    )
    if sidecar.authz is not None:
        host.typed_per_filter_config = outbound_settings(sidecar)
    return host
