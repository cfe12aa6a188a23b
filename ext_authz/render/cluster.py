"""Clusters: everything that the sidecar connects to."""

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import Address as AddressMessage
from envoy_data_plane.envoy.config.core.v3 import (
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions as UpstreamHttpOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptionsExplicitHttpConfig
from envoy_data_plane.google.protobuf import Any

from ext_authz.render import limits
from ext_authz.render.address import Address, TcpAddress, UnixAddress
from ext_authz.render.certificates import FileCertificates
from ext_authz.render.extension import packed
from ext_authz.render.sidecar import InboundSidecar, OutboundSidecar, Sidecar, Upstream
from ext_authz.render.tls import SDS_CLUSTER, outbound_tls

APP_CLUSTER = "app"
AUTHZ_CLUSTER = "ext_authz"

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def address_message(address: Address, pipe_mode: int = 0) -> AddressMessage:
    """Express an address; `pipe_mode` is the file mode of a unix socket to listen on."""
    if isinstance(address, UnixAddress):
        return AddressMessage(pipe=Pipe(path=address.path, mode=pipe_mode))
    return AddressMessage(socket_address=SocketAddress(address=address.host, port_value=address.port))


def app_cluster(sidecar: InboundSidecar) -> Cluster:
    """Connect to the agent behind an inbound sidecar."""
    cluster = _cluster(APP_CLUSTER, sidecar.app)
    cluster.connect_timeout = limits.CONNECT_LOCAL
    cluster.circuit_breakers = _breakers(connections=256, pending=128, requests=512, retries=1)
    if sidecar.app_http2:
        cluster.typed_extension_protocol_options = _http2(Http2ProtocolOptions())
    return cluster


def authz_cluster(address: Address) -> Cluster:
    """Connect to the authorization server: a check is never tried twice, and a dead connection is found by pings."""
    cluster = _cluster(AUTHZ_CLUSTER, address)
    cluster.connect_timeout = limits.CONNECT_AUTHZ
    cluster.circuit_breakers = _breakers(connections=64, pending=512, requests=2048, retries=0)
    keepalive = KeepaliveSettings(interval=limits.KEEPALIVE_INTERVAL, timeout=limits.KEEPALIVE_TIMEOUT)
    cluster.typed_extension_protocol_options = _http2(Http2ProtocolOptions(connection_keepalive=keepalive))
    return cluster


def sds_clusters(sidecar: Sidecar) -> list[Cluster]:
    """Connect to what serves SVID and bundles, if something does."""
    if isinstance(sidecar.certificates, FileCertificates):
        return []
    cluster = _cluster(SDS_CLUSTER, sidecar.certificates.socket)
    cluster.connect_timeout = limits.CONNECT_LOCAL
    cluster.typed_extension_protocol_options = _http2(Http2ProtocolOptions())
    return [cluster]


def upstream_cluster(sidecar: OutboundSidecar, upstream: Upstream) -> Cluster:
    """Connect to another agent's inbound sidecar."""
    cluster = _cluster(upstream.name, upstream.address)
    cluster.connect_timeout = limits.CONNECT_UPSTREAM
    cluster.circuit_breakers = _breakers(connections=64, pending=128, requests=256, retries=3)
    # A 503 of ext_authz says nothing about the agent's health: only failures to reach it count.
    cluster.outlier_detection = OutlierDetection(
        consecutive_5xx=0,
        consecutive_gateway_failure=0,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=5,
        interval=limits.OUTLIER_INTERVAL,
        base_ejection_time=limits.EJECTION,
        max_ejection_percent=50,
    )
    cluster.typed_extension_protocol_options = _http2(
        Http2ProtocolOptions(max_concurrent_streams=limits.MAX_CONCURRENT_STREAMS),
        HttpProtocolOptions(
            idle_timeout=limits.UPSTREAM_CONNECTION_IDLE, max_connection_duration=limits.MAX_CONNECTION
        ),
    )
    cluster.transport_socket = outbound_tls(sidecar, upstream)
    return cluster


def _cluster(name: str, address: Address) -> Cluster:
    is_name = isinstance(address, TcpAddress) and address.ip is None
    endpoint = LbEndpoint(endpoint=Endpoint(address=address_message(address)))
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STRICT_DNS if is_name else ClusterDiscoveryType.STATIC,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )


def _breakers(*, connections: int, pending: int, requests: int, retries: int) -> CircuitBreakers:
    thresholds = CircuitBreakersThresholds(
        max_connections=connections,
        max_pending_requests=pending,
        max_requests=requests,
        max_retries=retries,
        track_remaining=True,
    )
    return CircuitBreakers(thresholds=[thresholds])


def _http2(options: Http2ProtocolOptions, common: HttpProtocolOptions | None = None) -> dict[str, Any]:
    explicit = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=options)
    return {
        _HTTP_OPTIONS: packed(UpstreamHttpOptions(common_http_protocol_options=common, explicit_http_config=explicit))
    }
