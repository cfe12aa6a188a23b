"""The access log: one JSON object a request, never with a query string, a token or a body.

`decision` is the decision's id, under which the audit log has the rest.
"""

from collections.abc import Mapping
from pathlib import Path

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.google.protobuf import Struct

from ext_authz.render.extension import packed

# The namespace under which Envoy keeps what the authorization server answers beside the decision.
EXT_AUTHZ = "envoy.filters.http.ext_authz"

_REQUEST = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace": "%REQ(TRACEPARENT)%",  # the request ID is new at each sidecar; this one is not
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
}

_DECISION = {
    "decision": f"%DYNAMIC_METADATA({EXT_AUTHZ}:decision_id)%",
    "reason": f"%DYNAMIC_METADATA({EXT_AUTHZ}:reason)%",
    "authz_latency_us": f"%FILTER_STATE({EXT_AUTHZ}:FIELD:latency_us)%",
}

INBOUND_FORMAT = _REQUEST | {
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "peer_fingerprint": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "peer_serial": "%DOWNSTREAM_PEER_SERIAL%",
    "peer_not_after": "%DOWNSTREAM_PEER_CERT_V_END%",
    "local": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "tls_version": "%DOWNSTREAM_TLS_VERSION%",
    "tls_cipher": "%DOWNSTREAM_TLS_CIPHER%",
    **_DECISION,
}

OUTBOUND_FORMAT = _REQUEST | {
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_peer": "%UPSTREAM_PEER_URI_SAN%",
    "upstream_tls_version": "%UPSTREAM_TLS_VERSION%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
# Of an outbound sidecar that asks the authorization server.
ASKING_OUTBOUND_FORMAT = OUTBOUND_FORMAT | _DECISION


def access_log(path: Path, line: Mapping[str, str]) -> AccessLog:
    """Write one JSON object a request to a file (or /dev/stdout)."""
    log_format = SubstitutionFormatString(json_format=Struct.from_dict(line))
    return AccessLog(
        name="envoy.access_loggers.file",
        typed_config=packed(FileAccessLog(path=str(path), log_format=log_format)),
    )
