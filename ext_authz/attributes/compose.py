"""CheckRequests that no Envoy sent: made from the parts of a request, or read from a capture.

Tools for policy authors ask the same questions as a sidecar, in the same bytes, so that every stage runs on them.
"""

import json
from collections.abc import Mapping

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError

from ext_authz.attributes.request import BODYLESS_METHODS, CONTENT_LENGTH, CONTENT_TYPE, PARTIAL_BODY
from ext_authz.pb.external_auth_pb2 import CheckRequest

# Bytes of a captured CheckRequest: gRPC's own limit for a message.
MAX_CAPTURE_BYTES = 4 * 1024 * 1024


def compose_check_request(
    parties: tuple[str, str], target: tuple[str, str], headers: Mapping[str, str], body: object = None
) -> bytes:
    """Return the CheckRequest of a call between `parties`, SPIFFE IDs of caller and workload reached.

    `target` is method and path with its query. A `body` that is text is sent as it is, anything else as JSON; None: none.
    `headers` win over those that Envoy and the body would set.
    """
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.principal, attributes.destination.principal = parties
    http = attributes.request.http
    http.method, http.path = target
    lines: dict[str, str] = {}
    if body is None:
        if http.method not in BODYLESS_METHODS:
            lines[CONTENT_LENGTH] = "0"
    else:
        http.raw_body = (body if isinstance(body, str) else json.dumps(body)).encode()
        http.size = len(http.raw_body)
        lines = {CONTENT_LENGTH: str(http.size), PARTIAL_BODY: "false"}
        if not isinstance(body, str):
            lines[CONTENT_TYPE] = "application/json"
    for key, value in (lines | dict(headers)).items():
        http.header_map.headers.add(key=key, raw_value=value.encode())
    return request.SerializeToString()


def read_capture(data: bytes) -> bytes:
    """Return the CheckRequest of a capture, which is one itself or its protobuf JSON. Raises ValueError."""
    if len(data) > MAX_CAPTURE_BYTES:
        raise ValueError(f"larger than {MAX_CAPTURE_BYTES} bytes")
    try:
        if data.lstrip()[:1] == b"{":
            request = Parse(data.decode("utf-8"), CheckRequest(), ignore_unknown_fields=True)
        else:
            request = CheckRequest.FromString(data)
    except (DecodeError, ParseError, UnicodeDecodeError, RecursionError):
        raise ValueError("no CheckRequest, neither its bytes nor its JSON") from None
    if not request.HasField("attributes"):
        raise ValueError("a CheckRequest without attributes")
    return request.SerializeToString()
