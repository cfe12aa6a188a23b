"""The HTTP connection manager: how bytes become requests, before any filter sees them.

1. What can be read in two ways is refused or made one: paths, host ports, underscores in headers.
2. Headers that we set are ours: a caller's own copy is gone before the first filter.
3. Everything ends: bodies, answers, idle streams, connections.
"""

from dataclasses import dataclass
from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    SchemeHeaderTransformation,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerSetCurrentClientCertDetails,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from ext_authz.render import limits
from ext_authz.render.extension import extension, http_filter, packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """What differs between the connection managers of the two sidecars."""

    name: str
    routes: RouteConfiguration
    filters: tuple[HttpFilter, ...]  # the router follows them
    log: AccessLog
    longest_request: timedelta
    takes_mtls: bool


def connection_manager(http: Http) -> Filter:
    """Build the network filter that speaks HTTP."""
    manager = HttpConnectionManager(
        stat_prefix=http.name,
        route_config=http.routes,
        http_filters=[*http.filters, http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))],
        access_log=[http.log],
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        early_header_mutation_extensions=[_forged_headers_removed(takes_mtls=http.takes_mtls)],
        use_remote_address=True,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(),
        generate_request_id=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        stream_error_on_invalid_http_message=True,
        http_protocol_options=Http1ProtocolOptions(),
    )
    _set_identity(manager, takes_mtls=http.takes_mtls)
    _set_limits(manager, http.longest_request)
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))


def _set_identity(manager: HttpConnectionManager, *, takes_mtls: bool) -> None:
    """Write one new XFCC element on mTLS; elsewhere whatever stands there is forged, and Envoy removes it."""
    if not takes_mtls:
        manager.forward_client_cert_details = HttpConnectionManagerForwardClientCertDetails.SANITIZE
        return
    manager.forward_client_cert_details = HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
    manager.set_current_client_cert_details = HttpConnectionManagerSetCurrentClientCertDetails(uri=True)
    manager.scheme_header_transformation = SchemeHeaderTransformation(scheme_to_overwrite="https")


def _set_limits(manager: HttpConnectionManager, longest_request: timedelta) -> None:
    manager.max_request_headers_kb = limits.MAX_REQUEST_HEADERS_KB
    manager.request_timeout = longest_request
    manager.request_headers_timeout = limits.REQUEST_HEADERS
    manager.stream_idle_timeout = limits.STREAM_IDLE
    manager.drain_timeout = limits.DRAIN
    manager.delayed_close_timeout = limits.DELAYED_CLOSE
    manager.common_http_protocol_options = HttpProtocolOptions(
        idle_timeout=limits.CONNECTION_IDLE,
        max_connection_duration=limits.MAX_CONNECTION,
        max_stream_duration=limits.CALL,
        max_headers_count=limits.MAX_HEADERS,
        max_requests_per_connection=limits.MAX_REQUESTS_PER_CONNECTION,
        headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
    )
    manager.http2_protocol_options = Http2ProtocolOptions(
        max_concurrent_streams=limits.MAX_CONCURRENT_STREAMS,
        initial_stream_window_size=limits.STREAM_WINDOW_BYTES,
        initial_connection_window_size=limits.CONNECTION_WINDOW_BYTES,
        max_outbound_frames=limits.MAX_OUTBOUND_FRAMES,
        override_stream_error_on_invalid_http_message=True,
    )


def _forged_headers_removed(*, takes_mtls: bool) -> TypedExtensionConfig:
    """Remove what only sidecars may set.

    A route's `request_headers_to_remove` is no way to do that: the router runs after ext_authz, which would see the forged
    headers, and removes those that the authorization server has set.
    """
    mutations = [
        HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix="x-authz-"))),
        HeaderMutation(remove="x-envoy-auth-partial-body"),
    ]
    if not takes_mtls:
        mutations.append(HeaderMutation(remove="x-forwarded-client-cert"))
    return extension("envoy.http.early_header_mutation.header_mutation", EarlyHeaderMutation(mutations=mutations))
