"""Envoy's extension points: a name and a message inside an Any."""

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import TransportSocket, TypedExtensionConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.google.protobuf import Any


def packed(message: Message) -> Any:
    """Wrap a message, so that it can stand where Envoy takes any type."""
    return Any.pack(message)


def extension(name: str, message: Message) -> TypedExtensionConfig:
    """Configure an extension."""
    return TypedExtensionConfig(name=name, typed_config=packed(message))


def http_filter(name: str, message: Message) -> HttpFilter:
    """Configure a filter of the HTTP connection manager."""
    return HttpFilter(name=name, typed_config=packed(message))


def tls_socket(message: Message) -> TransportSocket:
    """Configure TLS for a listener or a cluster."""
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(message))
