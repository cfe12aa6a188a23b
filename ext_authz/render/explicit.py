"""Defaults that a reader must see.

protobuf does not write a field that has its default. Some of these defaults carry the security of a sidecar, and someone
who reads the file should not have to know them by heart. This table says where they stand.
"""

from collections.abc import Mapping
from typing import Any

# Type of the message -> path from it -> default. A path that leads through something absent is left out.
EXPLICIT: Mapping[str, Mapping[str, Any]] = {
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz": {
        "failure_mode_allow": False,
        "clear_route_cache": False,
        "shadow_mode": False,
        "with_request_body.allow_partial_message": False,
    },
    "envoy.extensions.filters.http.rbac.v3.RBAC": {"rules.action": "ALLOW"},
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit": {
        "filter_enabled.default_value.denominator": "HUNDRED",
        "filter_enforced.default_value.denominator": "HUNDRED",
    },
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": {
        "codec_type": "AUTO",
        "forward_client_cert_details": "SANITIZE",
        "xff_num_trusted_hops": 0,
        "skip_xff_append": False,
        "preserve_external_request_id": False,
        "internal_address_config.unix_sockets": False,
        "http_protocol_options.accept_http_10": False,
        "http_protocol_options.allow_chunked_length": False,
    },
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": {
        "common_tls_context.validation_context.allow_expired_certificate": False,
        "common_tls_context.combined_validation_context.default_validation_context.allow_expired_certificate": False,
    },
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": {
        "common_tls_context.validation_context.allow_expired_certificate": False,
        "common_tls_context.combined_validation_context.default_validation_context.allow_expired_certificate": False,
    },
}


def say_defaults(node: Any) -> None:
    """Write the defaults of `EXPLICIT` into a configuration in its JSON form, wherever nothing else was set."""
    if isinstance(node, dict):
        name = str(node.get("@type", "")).rpartition("/")[2]
        for path, default in EXPLICIT.get(name, {}).items():
            _say(node, path.split("."), default)
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        say_defaults(child)


def _say(message: dict[str, Any], path: list[str], default: Any) -> None:
    *parents, last = path
    for parent in parents:
        if parent not in message:
            return
        message = message[parent]
    message.setdefault(last, default)
