"""The inbound sidecar: mTLS -> rate limit -> whole body -> ext_authz -> RBAC -> the agent."""

from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.config.listener.v3 import FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, VirtualHost

from ext_authz.render import limits
from ext_authz.render.access_log import INBOUND_FORMAT, access_log
from ext_authz.render.bootstrap import PIPE_MODE, bootstrap
from ext_authz.render.cluster import APP_CLUSTER, address_message, app_cluster, authz_cluster, sds_clusters
from ext_authz.render.connection_manager import Http, connection_manager
from ext_authz.render.ext_authz_filter import buffer_filter, ext_authz_filter, route_settings
from ext_authz.render.rate_limit import rate_limit_filter
from ext_authz.render.rbac import rbac_filter
from ext_authz.render.route import call_route, longest_request, stream_routes
from ext_authz.render.sidecar import InboundSidecar
from ext_authz.render.tls import inbound_tls


def inbound_bootstrap(sidecar: InboundSidecar) -> Bootstrap:
    """Build the configuration of an inbound sidecar."""
    clusters = [app_cluster(sidecar), authz_cluster(sidecar.authz), *sds_clusters(sidecar)]
    return bootstrap(sidecar, [_listener(sidecar)], clusters)


def _listener(sidecar: InboundSidecar) -> Listener:
    http = Http(
        name=sidecar.role,
        routes=_routes(sidecar),
        filters=(
            rate_limit_filter(sidecar.caller_rate),
            buffer_filter(),
            ext_authz_filter(sidecar.authz_timeout, shows_bodies=True),
            rbac_filter(sidecar.trust_domains),
        ),
        log=access_log(sidecar.access_log, INBOUND_FORMAT),
        longest_request=longest_request(sidecar),
        takes_mtls=True,
    )
    chain = FilterChain(
        transport_socket_connect_timeout=limits.TLS_HANDSHAKE,
        transport_socket=inbound_tls(sidecar),
        filters=[connection_manager(http)],
    )
    return Listener(
        name=sidecar.role,
        address=address_message(sidecar.listen, PIPE_MODE),
        per_connection_buffer_limit_bytes=limits.CONNECTION_BUFFER_BYTES,
        filter_chains=[chain],
    )


def _routes(sidecar: InboundSidecar) -> RouteConfiguration:
    host = VirtualHost(name=sidecar.role, domains=list(sidecar.hosts), routes=_routes_of_agent(sidecar))
    return RouteConfiguration(name=sidecar.role, validate_clusters=True, virtual_hosts=[host])


def _routes_of_agent(sidecar: InboundSidecar) -> list[Route]:
    streams = stream_routes(sidecar, APP_CLUSTER)
    for route in streams:
        route.typed_per_filter_config = route_settings(sidecar, is_stream=True)
    calls = call_route(APP_CLUSTER)
    calls.typed_per_filter_config = route_settings(sidecar, is_stream=False)
    return [*streams, calls]
